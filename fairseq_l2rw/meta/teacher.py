"""The teacher's network: one nested head for each test that an example must pass.

Equations, for head k and the standardised features x_i of example i::

    w_i^k = sigmoid( f_k(loss of i) + g_k(everything else) ),    w_i = prod_k w_i^k

f_k and g_k are MLPs with one tanh layer. Their output layers start at zero, f_k's bias at logit p, so
that every weight starts at the prior p and the deep teacher contains the loss teacher. "Everything
else" is the surface information without the loss, the states, and where two blocks of states e, d have
the same width their product e d and distance |e - d| (do source and target say the same?).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta.features import LOSS_COLUMNS, SURFACE, FeatureLayout


class Standardizer(nn.Module):
    """Running mean and variance of each column; constant between two calls of :meth:`update`."""

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


class Head(nn.Module):
    """logit = f(loss) + g(everything else); either part may be absent."""

    def __init__(self, loss_width: int, other_width: int, hidden: int, prior: float):
        super().__init__()
        self.f = _mlp(loss_width, min(hidden, 32)) if loss_width else None
        self.g = _mlp(other_width, hidden) if other_width else None
        self.bias = nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))

    def forward(self, loss: Tensor, other: Tensor) -> Tensor:
        logit = self.bias.expand(len(loss))
        if self.f is not None:
            logit = logit + self.f(loss).squeeze(1)
        if self.g is not None:
            logit = logit + self.g(other).squeeze(1)
        return logit


class Teacher(nn.Module):
    """All heads, on rows ``[N, D]`` of a :class:`FeatureLayout`.

    Args:
        layout: widths of the internal states.
        heads: names, one a head.
        see_loss: give f the loss.
        see_surface: give g the rest of the surface information.
        see_internal: give g the states.
        hidden: width of g's hidden layer (f's is at most 32).
        prior: p.
    """

    def __init__(self, layout: FeatureLayout, heads, see_loss, see_surface, see_internal, hidden, prior):
        super().__init__()
        self.layout, self.heads = layout, tuple(heads)
        self.see_loss, self.see_surface, self.see_internal = see_loss, see_surface, see_internal
        self.standardizer = Standardizer(layout.width)
        loss, other = self._inputs(torch.zeros(1, layout.width))
        self.nets = nn.ModuleList(Head(loss.shape[1], other.shape[1], hidden, prior) for _ in self.heads)

    def _inputs(self, standardized: Tensor) -> tuple[Tensor, Tensor]:
        """What f sees ``[N, 2 or 0]`` and what g sees ``[N, *]``."""
        surface, internal = self.layout.split(standardized)
        parts = [surface[:, LOSS_COLUMNS:]] if self.see_surface else []
        if self.see_internal:
            parts += internal
            for i, a in enumerate(internal):
                for b in internal[i + 1 :]:
                    if a.shape == b.shape:
                        parts += [a * b, (a - b).abs()]
        loss = surface[:, : LOSS_COLUMNS if self.see_loss else 0]
        return loss, torch.cat(parts, dim=1) if parts else standardized[:, :0]

    def forward(self, rows: Tensor) -> Tensor:
        """w_i^k for every head: ``[N, K]``, each between 0 and 1."""
        loss, other = self._inputs(self.standardizer(rows))
        return torch.sigmoid(torch.stack([net(loss, other) for net in self.nets], dim=1))

    def logits(self, standardized: Tensor, head: int) -> Tensor:
        """Logit of one head ``[N]`` for rows that are standardised already ``[N, D]``."""
        return self.nets[head](*self._inputs(standardized))


def _mlp(width: int, hidden: int) -> nn.Sequential:
    out = nn.Linear(hidden, 1)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), out)


assert SURFACE[:LOSS_COLUMNS] == ("loss", "loss_deviation")
