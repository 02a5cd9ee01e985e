"""What one student update leaves behind for the hypergradient.

Both records are frozen: a stage hands one on and nobody changes it afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fairseq_l2rw.meta.functional import RandomState


@dataclass(frozen=True)
class BatchRecord:
    """One micro-batch of a student update, left by the loss function.

    Attributes:
        batch: whatever ``Student.losses`` takes.
        features: what the teacher saw, raw (not standardised), detached ``[N, D]``.
        weights: w_i that the step used, detached ``[N]``.
        losses: l_i, token-summed, nats, detached ``[N]``.
        sizes: what w_i multiplies in the step's denominator: n_i, or 1 where the
            loss is averaged over sentences ``[N]``.
        n_tokens: n_i ``[N]``.
        random_state: the generator before the forward pass (dropout masks).
    """

    batch: Any
    features: Tensor
    weights: Tensor
    losses: Tensor
    sizes: Tensor
    n_tokens: Tensor
    random_state: RandomState


@dataclass(frozen=True)
class StepRecord:
    """The optimizer step from theta to theta'.

    Attributes:
        parameters: theta, before the step, one detached copy a parameter.
        optimizer_state: what the optimizer's rule noted before the step.
        raw_norm: norm of the gradient before clipping, or None if unknown.
        max_norm: the clipping threshold; 0 means that nothing is clipped.
    """

    parameters: list[Tensor]
    optimizer_state: Any
    raw_norm: float | None
    max_norm: float
