"""A running average of the student, as a second look at an image.

Equation, for the student's parameters and BatchNorm statistics theta after update t, with the decay a (``--student-average``)::

    theta'_0 = theta_0,    theta'_t = a_t theta'_{t-1} + (1 - a_t) theta_t,    a_t = min(a, (t + 1) / (t + 10))

While the learning rate is high, a single student errs in its own way at each step; the average of the last ones does so less. (Source:
Tarvainen and Valpola 2017, Mean teachers are better role models.) It is never trained, and what is tested is the student.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """The average theta', which begins as ``module`` is now: ``update_parameters(module)`` after each of its updates.

    Args:
        module: left as it is.
        decay: a, from 0 to below 1.
    """

    def take(kept: list[Tensor], new: list[Tensor], count: Tensor | int) -> None:
        """Tensors of one type."""
        if not kept[0].is_floating_point():  # BatchNorm counts its batches
            torch._foreach_copy_(kept, new)
            return
        t = int(count)
        torch._foreach_lerp_(kept, new, 1 - min(decay, (t + 1) / (t + 10)))

    average = AveragedModel(module, multi_avg_fn=take, use_buffers=True).eval().requires_grad_(False)
    average.n_averaged += 1  # else the first update would replace what it begins with
    return average
