"""fairseq's mixed precision: where the parameters are that the optimizer steps."""

from __future__ import annotations

from fairseq.optim import FP16Optimizer
from torch import nn

from fairseq_l2rw.meta.masters import Master


def masters_of(optimizer, parameters: list[nn.Parameter]) -> list[Master] | None:
    """What a fairseq optimizer steps for each of the student's parameters; None for the parameters themselves.

    ``--fp16`` and ``bf16`` keep single-precision copies: one flat tensor for each device, or one for each parameter
    (``--fp16-no-flatten-grads`` and bf16). ``--memory-efficient-fp16`` and ``--amp`` have none.
    """
    if not isinstance(optimizer, FP16Optimizer):
        return None
    masters, ends = {}, {}
    for i, p in enumerate(optimizer.fp16_params):
        if optimizer.has_flat_params:
            device = p.device.index
            offset = ends.get(device, 0)
            masters[id(p)] = Master(optimizer.fp32_params[device], p, offset)
            ends[device] = offset + p.numel()
        else:
            masters[id(p)] = Master(optimizer.fp32_params[i], p)
    return [masters[id(p)] for p in parameters]
