"""What the probes said of an example when it was seen before.

Equation, for the score s_k of head k, at the t-th time that example x is seen::

    h_k(x, 1) = s_k(x, 1),    h_k(x, t) = a h_k(x, t-1) + (1 - a) s_k(x, t)

A single score is noisy: the student has other dropout and augmentation each time, and errors of its own that pass. The
noise of a label stays.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ScoreHistory:
    """The averages of all examples, by their ids (whole numbers from 0 on); it grows with the largest.

    Args:
        heads: K, scores of an example.
    """

    def __init__(self, heads: int):
        self.scores = torch.zeros(0, heads)

    def of(self, ids: Tensor) -> Tensor:
        """h of examples ``[N]``: ``[N, K]``; 0 for one that has not been seen."""
        self._reach(ids)
        return self.scores[ids.to(self.scores.device)].to(ids.device)

    def take(self, ids: Tensor, scores: Tensor) -> None:
        """Keeps averages ``[N, K]`` of examples ``[N]``."""
        self._reach(ids)
        self.scores[ids.to(self.scores.device)] = scores.to(self.scores)

    def _reach(self, ids):
        need = int(ids.max()) + 1 if len(ids) else 0
        if need > len(self.scores):
            more = self.scores.new_zeros(max(need, 2 * len(self.scores)) - len(self.scores), self.scores.shape[1])
            self.scores = torch.cat([self.scores, more])

    def state_dict(self) -> dict:
        return {"scores": self.scores}

    def load_state_dict(self, state: dict) -> None:
        self.scores = state["scores"].clone()
