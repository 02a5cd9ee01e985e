"""What a teacher update tells the training loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TeacherReport:
    """What one teacher update was.

    Attributes:
        head: name of the head that was trained.
        meta_loss: J on the clean dev batch, nats per token; None where none was used.
        gradient_norm: of the teacher's parameters, mean over the steps taken.
        influence: c_i of all rows of the update ``[N]``, nats; not a number where there is no dev batch.
        weight_gradient: dJ / dw_i ``[N]``.
        weights: w_i that the student's step used ``[N]``.
        shares: w_i c_i / W ``[N]``, nats per token: to first order, what the example's part in the student's step did
            to J; they sum to the predicted change of J.
        ids: what ``identify`` calls the examples ``[N]``; None without it.
        scales: head -> what influences are measured by, over the dev scale; none of heads for which that is what they are measured by.
    """

    head: str
    meta_loss: float | None
    gradient_norm: float
    influence: Tensor
    weight_gradient: Tensor
    weights: Tensor
    shares: Tensor
    ids: Tensor | None
    scales: dict[str, float] = field(default_factory=dict)
