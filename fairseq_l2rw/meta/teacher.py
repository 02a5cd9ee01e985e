"""The teacher's network: one nested head for each test that an example must pass.

Equations, for head k and the standardised features x_i of example i::

    w_i = prod_k w_i^k,    w_i^k = sigmoid( f_k(loss of i, s_k(x_i)) )                         states "probe"
                           w_i^k = sigmoid( f_k(loss of i) + g_k(everything else) )            states "direct"

With ``probe``, the states reach head k as one number, the score s_k of a :class:`~fairseq_l2rw.meta.probe.Probe`. With
``direct``, "everything else" is the surface information without the loss, the states, and where two blocks of states
e, d have the same width their product e d and distance |e - d| (do source and target say the same?).

f_k and g_k are MLPs with one tanh layer. Their output layers start at zero, f_k's bias at logit p, so that every weight
starts at the prior p and the deep teacher contains the loss teacher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta.features import LOSS_COLUMNS, SURFACE
from fairseq_l2rw.meta.networks import Standardizer, interactions, mlp
from fairseq_l2rw.meta.probe import Probe

#: hidden units of what sees the states, or g, by how the states are seen
HIDDEN = {"probe": 64, "direct": 128}
#: of f, which sees two numbers or three, at most
HIDDEN_OF_F = 32


class Head(nn.Module):
    """logit = f(a few numbers) + g(everything else); either part may be absent."""

    def __init__(self, few: int, other: int, hidden: int, prior: float):
        super().__init__()
        self.f = mlp(few, min(hidden, HIDDEN_OF_F)) if few else None
        self.g = mlp(other, hidden) if other else None
        self.bias = nn.Parameter(torch.tensor(math.log(prior / (1 - prior))))

    def forward(self, few: Tensor, other: Tensor) -> Tensor:
        logit = self.bias.expand(len(few))
        if self.f is not None:
            logit = logit + self.f(few).squeeze(1)
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
        see_internal: let the heads see the states.
        hidden: width of the probe's hidden layers, or of g's (f's is at most :data:`HIDDEN_OF_F`); None: as :data:`HIDDEN` says.
        prior: p.
        states: how they see them, ``probe`` or ``direct``; the probe sees the lengths too, and takes g's place.
    """

    def __init__(self, layout, heads, see_loss, see_surface, see_internal, hidden, prior, states="direct"):
        super().__init__()
        self.layout, self.heads = layout, tuple(heads)
        self.see_loss, self.see_surface, self.see_internal = see_loss, see_surface, see_internal
        self.standardizer = Standardizer(layout.width)
        probed = see_internal and states == "probe"
        hidden = hidden or HIDDEN["probe" if probed else "direct"]
        self.probe = Probe(layout, len(self.heads), hidden) if probed else None
        few, other = (part.shape[1] for part in self._parts(torch.zeros(1, self.width), 0))
        self.nets = nn.ModuleList(Head(few, other, hidden, prior) for _ in self.heads)

    @property
    def width(self) -> int:
        """Columns of :meth:`inputs`."""
        return self.layout.width + (len(self.heads) if self.probe is not None else 0)

    def own_parameters(self) -> list[nn.Parameter]:
        """Those that the hypergradient trains: all but the probe's."""
        return list(self.nets.parameters())

    def inputs(self, rows: Tensor, head: int | None = None) -> Tensor:
        """Standardised rows, and behind them the probe's scores where there is one: ``[N, D or D + K]``, detached.

        Args:
            head: the only one that will be asked about them; the other heads' scores are then left at 0.
        """
        standardized = self.standardizer(rows)
        if self.probe is None:
            return standardized
        return torch.cat([standardized, self.probe(rows, head).to(standardized)], dim=1)

    def scores(self, inputs: Tensor) -> Tensor:
        """The probe's scores in rows of :meth:`inputs`, averaged with the past ones: ``[N, K]``; no column without a probe."""
        return inputs[:, self.layout.width :]

    def _parts(self, inputs: Tensor, head: int) -> tuple[Tensor, Tensor]:
        """What f of a head sees, and what its g sees."""
        width = self.layout.width
        surface, internal = self.layout.split(inputs[:, :width])
        few = surface[:, : LOSS_COLUMNS if self.see_loss else 0]
        if self.probe is not None:
            return torch.cat([few, self.scores(inputs)[:, head : head + 1]], dim=1), inputs[:, :0]
        parts = [surface[:, LOSS_COLUMNS:]] if self.see_surface else []
        if self.see_internal:
            parts += interactions(internal)
        return few, torch.cat(parts, dim=1) if parts else inputs[:, :0]

    def forward(self, rows: Tensor) -> Tensor:
        """w_i^k for every head, from raw rows: ``[N, K]``, each between 0 and 1."""
        return self.weights(self.inputs(rows))

    def weights(self, inputs: Tensor) -> Tensor:
        """As :meth:`forward`, for rows of :meth:`inputs`."""
        return torch.sigmoid(torch.stack([self.logits(inputs, head) for head in range(len(self.heads))], dim=1))

    def logits(self, inputs: Tensor, head: int) -> Tensor:
        """Logit of one head ``[N]`` for rows of :meth:`inputs`."""
        return self.nets[head](*self._parts(inputs, head))


assert SURFACE[:LOSS_COLUMNS] == ("loss", "loss_deviation")
