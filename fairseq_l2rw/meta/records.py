"""What student updates leave behind for the hypergradient.

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
        standardized: the teacher's inputs by the statistics of that moment, :meth:`Teacher.inputs`.
        weights: w_i that the step used, detached ``[N]``.
        losses: l_i, token-summed, nats, detached ``[N]``.
        sizes: what w_i multiplies in the step's denominator: n_i, or 1 where the
            loss is averaged over sentences ``[N]``.
        n_tokens: n_i ``[N]``.
        random_state: the generator before the forward pass (dropout masks).
    """

    batch: Any
    features: Tensor
    standardized: Tensor
    weights: Tensor
    losses: Tensor
    sizes: Tensor
    n_tokens: Tensor
    random_state: RandomState


@dataclass(frozen=True)
class StepRecord:
    """One step of the student's optimizer from theta to theta'.

    Lists have one entry a parameter that the hypergradient goes through; that of theta goes on with the others.

    Attributes:
        parameters: theta, detached copies, of all parameters.
        hyper: what the optimizer's rule noted before the step.
        earlier: state tensors before the step; empty but for ``unrolled``.
        raw_norm: norm of the gradient before clipping, or None if unknown.
        max_norm: the clipping threshold; 0 means that nothing is clipped.
        gradients: g, after clipping; None where a parameter had none. Those of the newest
            step are the optimizer's own, those of earlier steps copies.
        states: state tensors after the step, likewise.
        records: this worker's micro-batches.
    """

    parameters: list[Tensor]
    hyper: list[dict]
    earlier: list[dict[str, Tensor]]
    raw_norm: float | None
    max_norm: float
    gradients: list[Tensor | None]
    states: list[dict[str, Tensor]]
    records: list[BatchRecord]
