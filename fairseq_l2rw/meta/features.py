"""What the teacher sees of an example: S_i, surface information, and I_i, the student's states.

A row is one flat vector: the surface columns first, then the blocks of internal states. It is
raw; the teacher standardises it by running statistics of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: columns of S_i; the first two are what the loss teacher sees
SURFACE = ("loss", "loss_deviation", "source_length", "target_length", "length_ratio", "progress", "dev_loss")
LOSS_COLUMNS = 2


@dataclass(frozen=True)
class FeatureLayout:
    """Widths of the internal states, one for each block (for translation: encoder, decoder, how they meet).

    Attributes:
        past: columns behind them, for the scores of the times that an example was seen before; 0 for none.
    """

    internal: tuple[int, ...]
    past: int = 0

    @property
    def width(self) -> int:
        """D, columns of a row."""
        return len(SURFACE) + sum(self.internal) + self.past

    def split(self, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Surface ``[N, S]`` and the blocks of internal states ``[N, H]`` of rows ``[N, D]``."""
        surface, internal = rows[:, : len(SURFACE)], rows[:, len(SURFACE) : len(SURFACE) + sum(self.internal)]
        return surface, list(internal.split(list(self.internal), dim=1)) if self.internal else []


def running_mean(old: float | None, new: float, decay: float) -> float:
    """The exponential average after a new value; it begins with the first one (``old`` None)."""
    return new if old is None else decay * old + (1 - decay) * new


class RunningScalars:
    """Numbers that the features need and that no batch may define: constant within an update."""

    def __init__(self, decay: float = 0.99):
        self.decay = decay
        self.loss: float | None = None
        self.dev_loss: float | None = None

    def update_loss(self, value: float) -> None:
        self.loss = running_mean(self.loss, value, self.decay)

    def update_dev_loss(self, value: float) -> None:
        self.dev_loss = running_mean(self.dev_loss, value, self.decay)

    def state_dict(self) -> dict:
        return {"loss": self.loss, "dev_loss": self.dev_loss}

    def load_state_dict(self, state: dict) -> None:
        self.loss, self.dev_loss = state["loss"], state["dev_loss"]


def feature_rows(
    losses: Tensor,
    n_tokens: Tensor,
    source_lengths: Tensor,
    internal: list[Tensor],
    running: RunningScalars,
    progress: float,
) -> Tensor:
    """Rows ``[N, D]``, float32, detached.

    Args:
        losses: token-summed, nats ``[N]``.
        n_tokens: target tokens ``[N]``.
        source_lengths: source tokens ``[N]``.
        internal: blocks of states ``[N, H]``.
        running: running mean of the per-token loss and of J.
        progress: part of the training that is done, 0 to 1.
    """
    n = n_tokens.clamp(min=1).float()
    source = source_lengths.clamp(min=1).float()
    per_token = losses.detach().float() / n
    mean_loss = running.loss if running.loss is not None else 0.0
    dev_loss = running.dev_loss if running.dev_loss is not None else mean_loss
    columns = (
        per_token,
        per_token - mean_loss,
        source.log(),
        n.log(),
        (n / source).log(),
        torch.full_like(per_token, progress),
        torch.full_like(per_token, dev_loss),
    )
    return torch.cat([torch.stack(columns, dim=1), *(block.detach().float() for block in internal)], dim=1)
