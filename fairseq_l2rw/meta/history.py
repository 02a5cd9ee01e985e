"""What the probes said of an example when it was seen before.

Equation, for the score s_k of head k, at the t-th time that example x is seen, with the decay a (``--teacher-history``)::

    h_k(x, 1) = s_k(x, 1),    h_k(x, t) = a h_k(x, t-1) + (1 - a) s_k(x, t)

and the teacher is given h_k(x, t) for s_k(x, t). A single score is noisy: the student has other dropout and augmentation each
time, and errors of its own that pass. What is wrong with an example stays.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ScoreHistory:
    """The averages h_k of all examples by their numbers, in single precision; it grows with the largest number.

    Args:
        heads: K, scores of an example.
    """

    def __init__(self, heads: int):
        self.scores = torch.zeros(0, heads)

    def of(self, numbers: Tensor) -> Tensor:
        """h of examples ``[N]``: ``[N, K]``, on the CPU; 0 for one that has not been seen."""
        # no growing here: each worker asks for its own examples, and their histories stay the same
        numbers = numbers.cpu()
        out = torch.zeros(len(numbers), self.scores.shape[1])
        known = numbers < len(self.scores)
        out[known] = self.scores[numbers[known]]
        return out

    def take(self, numbers: Tensor, averages: Tensor) -> None:
        """Keeps averages ``[N, K]`` of examples ``[N]``."""
        numbers = numbers.cpu()
        need = int(numbers.max()) + 1 if len(numbers) else 0
        if need > len(self.scores):
            more = self.scores.new_zeros(max(need, 2 * len(self.scores)) - len(self.scores), self.scores.shape[1])
            self.scores = torch.cat([self.scores, more])
        self.scores[numbers] = averages.to(self.scores)

    def state_dict(self) -> dict:
        """Tensors only."""
        return {"scores": self.scores}

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave."""
        self.scores = state["scores"].clone()
