"""The last few thousand (features, influence) rows of one head.

An influence is expensive and the teacher is tiny: each row is used many times.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ReplayRows:
    """A ring of rows: it grows to its capacity, then the newest are written over the oldest.

    Args:
        capacity: rows kept.
        width: D, columns of a row of features.

    Attributes:
        features: ``[N, D]``, in the order of the ring.
        targets: ``[N]``, likewise.
    """

    def __init__(self, capacity: int, width: int):
        self.capacity = capacity
        self.features = torch.zeros(0, width)
        self.targets = torch.zeros(0)
        self._oldest = 0

    def __len__(self) -> int:
        return len(self.targets)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Appends rows ``[N, D]`` and their targets ``[N]``; the oldest fall out."""
        device = features.device
        features, targets = features[-self.capacity :], targets[-self.capacity :].to(self.targets.dtype)
        room = self.capacity - len(self)
        self.features, self.targets = self.features.to(device), self.targets.to(device)
        if room:
            self.features = torch.cat([self.features, features[:room]])
            self.targets = torch.cat([self.targets, targets[:room]])
        over = len(features) - room
        if over > 0:
            at = (self._oldest + torch.arange(over, device=device)) % self.capacity
            self.features[at], self.targets[at] = features[room:], targets[room:]
            self._oldest = (self._oldest + over) % self.capacity

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Ages (0: the oldest) of ``count`` rows drawn without replacement, or of all where there are fewer: ``[count]``."""
        return torch.randperm(len(self), generator=generator)[:count].to(self.targets.device)

    def at(self, ages: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and targets of these ages."""
        index = (ages + self._oldest) % len(self)
        return self.features[index], self.targets[index]

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The rows of :meth:`draw` and their targets."""
        return self.at(self.draw(count, generator))

    def state_dict(self) -> dict:
        """Rows in the order of their age, the oldest first."""
        return {"features": self.features.roll(-self._oldest, 0), "targets": self.targets.roll(-self._oldest)}

    def load_state_dict(self, state: dict) -> None:
        """Takes rows over; they may be written over from then on."""
        self.features, self.targets, self._oldest = state["features"].clone(), state["targets"].clone(), 0
