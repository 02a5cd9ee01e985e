"""The last few thousand (features, influence) rows of one head.

An influence is expensive and the teacher is tiny: each row is used many times.
"""

from __future__ import annotations

import torch
from torch import Tensor


class ReplayRows:
    """A ring of rows.

    Args:
        capacity: rows kept.
        width: D, columns of a row of features.
    """

    def __init__(self, capacity: int, width: int):
        self.capacity = capacity
        self.features = torch.zeros(0, width)
        self.targets = torch.zeros(0)

    def __len__(self) -> int:
        return len(self.targets)

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Appends rows ``[N, D]`` and their targets ``[N]``; the oldest fall out."""
        device = features.device
        self.features = torch.cat([self.features.to(device), features])[-self.capacity :].clone()
        self.targets = torch.cat([self.targets.to(device), targets.to(self.targets.dtype)])[-self.capacity :].clone()

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` rows drawn without replacement (all of them where there are fewer)."""
        index = torch.randperm(len(self), generator=generator)[:count].to(self.targets.device)
        return self.features[index], self.targets[index]

    def state_dict(self) -> dict:
        return {"features": self.features, "targets": self.targets}

    def load_state_dict(self, state: dict) -> None:
        self.features, self.targets = state["features"], state["targets"]
