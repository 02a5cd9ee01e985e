"""Building blocks of the teacher's and the probes' networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardizer(nn.Module):
    """Running mean and variance of each column; constant between two calls of :meth:`update`."""

    weight: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, width: int, decay: float = 0.99, limit: float = 5.0):
        super().__init__()
        self.decay, self.limit = decay, limit
        self.register_buffer("weight", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.zeros(width))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Takes rows ``[N, D]`` into the averages, each call with the same share."""
        keep = self.decay
        self.weight.mul_(keep).add_(1 - keep)
        self.mean.mul_(keep).add_(rows.mean(0), alpha=1 - keep)
        self.square.mul_(keep).add_(rows.square().mean(0), alpha=1 - keep)

    def forward(self, rows: Tensor) -> Tensor:
        """(x - mean) / std, cut at ``limit``; 0 for a constant column, and before the first update."""
        total = self.weight.clamp(min=1e-12)
        mean = self.mean / total
        variance = (self.square / total - mean.square()).clamp(min=0)
        # a column that does not vary (progress within few updates) says nothing
        std = variance.sqrt().clamp(min=1e-4)
        return ((rows - mean) / std).clamp(-self.limit, self.limit) * (self.weight > 0)


def mlp(width: int, hidden: int) -> nn.Sequential:
    """One tanh layer and one output, which starts at zero."""
    out = nn.Linear(hidden, 1)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), out)


def interactions(blocks: list[Tensor]) -> list[Tensor]:
    """Blocks of states ``[N, H]``, and for two of the same width their product and their distance."""
    parts = list(blocks)
    for i, a in enumerate(blocks):
        for b in blocks[i + 1 :]:
            if a.shape == b.shape:
                parts += [a * b, (a - b).abs()]
    return parts
