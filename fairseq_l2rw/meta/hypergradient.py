"""The reverse sweep over a window of K student steps: from the dev gradient to one number per example of each step.

Equations, for s from the last step of the window to the first (see the package's symbols; W_s = sum_j w_j m_j over all
workers and micro-batches of the step, m_i the size that w_i multiplies in the denominator, n_i or 1)::

    v   = Clip^T sum_z (d z' / d g)^T adj_z          z: parameters, momentum buffers, moments
    c_i = grad l_i(theta_s) . v
    dJ / dw_i = (c_i - m_i c) / W_s,  c = sum_j w_j c_j / W_s      (normalisation `batch`)
    dJ / dw_i = c_i / sum_j m_j                                      (normalisation `tokens`)
    adj_z <- sum_z' (d z' / d z)^T adj_z',  and adj_theta += H v,  H v = grad_theta sum_i w_i c_i / W_s

adj_theta begins as the gradient of J at the parameters after the last step, all others as zero. H v, a second-order
term, is needed for K > 1 only.
"""

from __future__ import annotations

from typing import Callable, Iterator

import torch
from torch import Tensor

from fairseq_l2rw.meta import clipping
from fairseq_l2rw.meta.records import StepRecord

#: entries of a parameter that is taken together with others
SMALL = 2**14


class Adjoint:
    """adj_z: of the parameters, and of each parameter's state tensors by name (missing: zero)."""

    def __init__(self, theta: list[Tensor], state: list[dict[str, Tensor]] | None = None):
        self.theta = theta
        self.state = state if state is not None else [{} for _ in theta]


def step_back(rule, step: StepRecord, adjoint: Adjoint) -> tuple[list[Tensor], Adjoint]:
    """v of one step, and the adjoint before it but for H v.

    Where the step's gradient is exactly zero (rows of words that are not in the batch), every example's is zero too; v is
    set to zero there, because Adam's derivative, about lr / eps where a gradient has always been zero, would swamp
    everything else. So it is for parameters without a gradient.
    """
    theta, state, vector = [], [], []
    for old, h, after, g, adj_theta, adj_state in zip(
        step.parameters, step.hyper, step.states, step.gradients, adjoint.theta, adjoint.state
    ):
        if g is None:  # not stepped
            adj_g = None
        else:
            adj_g, adj_theta, adj_state = rule.reverse(h, old, after, g, adj_theta, adj_state)
        vector.append(adj_g)
        theta.append(adj_theta)
        state.append(adj_state)
    stepped = [i for i, g in enumerate(step.gradients) if g is not None]
    clipped = clipping.adjoint(
        [step.gradients[i] for i in stepped], step.raw_norm, step.max_norm, [vector[i] for i in stepped]
    )
    for i, v in zip(stepped, clipped):
        vector[i] = torch.where(step.gradients[i] == 0, 0, v)
    vector = [torch.zeros_like(old) if v is None else v for old, v in zip(step.parameters, vector)]
    return vector, Adjoint(theta, state)


class StepVector:
    """S, adjoint -> v, of the last step of a window.

    Every rule works entry by entry and is linear in adj_theta', so S is a diagonal D, then the adjoint of the clipping. D is
    as large as the student: it is made for a few tensors at a time, each time anew.

    Args:
        ahead: S of a step that is yet to come, by the newest state there is. An approximation: the coming gradient would move
            the moments (:meth:`StepRule.expected`) and, where it is clipped, the factor, which is that of the step before, and
            the direction that the clipping takes out, which is not taken out here (see :func:`without_common`).
    """

    def __init__(self, rule, step: StepRecord, ahead: bool = False):
        self.rule, self.step, self.ahead = rule, step, ahead
        self.moved = [i for i, g in enumerate(step.gradients) if g is not None]

    def __call__(self, adjoint: list[Tensor], use_up: bool = False) -> list[Tensor]:
        """v for adj_theta = ``adjoint``, one tensor a parameter.

        Args:
            use_up: the adjoint's own tensors become v, and its list is emptied.
        """
        step, vector = self.step, list(adjoint)
        if use_up:
            adjoint.clear()  # v takes its place, tensor by tensor
        for some, diagonal in self._diagonals():
            own = [vector[i] for i in some]
            diagonals = [d.view(a.shape) for d, a in zip(diagonal.split([a.numel() for a in own]), own)]
            if use_up:
                torch._foreach_mul_(own, diagonals)
            else:
                own = list(torch._foreach_mul(diagonals, own))
            for i, v in zip(some, own):
                vector[i] = v
        for i in {*range(len(vector))}.difference(self.moved):
            vector[i] = torch.zeros_like(vector[i])
        moved = [vector[i] for i in self.moved]
        if self.ahead:
            torch._foreach_mul_(moved, self._factor())
        else:  # in place
            clipping.adjoint([step.gradients[i] for i in self.moved], step.raw_norm, step.max_norm, moved)
        return vector

    def inner_products(self, left: list[list[Tensor]], right: list[list[Tensor]]) -> list[list[float]]:
        """a . S(b) for each b in ``right`` (the rows) and each a in ``left``, without a vector as large as the student."""
        f, step = self._factor(), self.step
        clipped = f < 1 and not self.ahead
        device = step.parameters[0].device
        plain, along_left, along_right = (
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in ((len(right), len(left)), (1, len(left)), (len(right), 1))
        )
        for some, diagonal in self._diagonals():
            mine, stepped = [_flat(a, some) for a in left], [diagonal * _flat(b, some).to(diagonal) for b in right]
            plain += _products(stepped, mine)
            if clipped:
                g = [_flat(step.gradients, some)]
                along_left += _products(g, mine)
                along_right += _products(stepped, g)
        if clipped:  # see `clipping`: what is at hand is the clipped gradient, f times the raw one
            plain -= along_right * along_left / (f * f * step.raw_norm * (step.raw_norm + clipping.EPSILON))
        return (f * plain).tolist()

    def _factor(self) -> float:
        return 1.0 if self.step.raw_norm is None else float(clipping.factor(self.step.raw_norm, self.step.max_norm))

    def _diagonals(self) -> Iterator[tuple[list[int], Tensor]]:
        """Parameters that were stepped, some at a time, and D for their entries, one parameter after the other ``[entries]``."""
        if self.ahead:
            for i in self.moved:
                yield [i], self._diagonal_ahead(i).flatten()
        else:
            for some in self._alike():
                yield some, self._diagonal(some)

    def _alike(self) -> list[list[int]]:
        """Parameters that are taken together, entry by entry, because they are small and step alike: they are most of all,
        and calling the rule for each would cost more than the numbers do."""
        out: list[list[int]] = []
        groups: dict[tuple, list[int]] = {}
        for i in self.moved:
            g, h = self.step.gradients[i], self.step.hyper[i]
            if g.numel() > SMALL:
                out.append([i])
                continue
            key = (g.dtype, g.device, *sorted(h.items()), *sorted(self.step.states[i]))
            if key not in groups:
                out.append(groups.setdefault(key, []))
            groups[key].append(i)
        return out

    def _diagonal(self, some: list[int]) -> Tensor:
        step, first = self.step, some[0]
        h, g = step.hyper[first], _flat(step.gradients, some)
        theta = _flat(step.parameters, some) if self.rule.reads_parameters(h) else g
        state = {name: _flat({i: step.states[i][name] for i in some}, some) for name in step.states[first]}
        return torch.where(g.bool(), self.rule.diagonal(h, theta, state, g), 0)  # see step_back

    def _diagonal_ahead(self, i: int) -> Tensor:
        theta, g, state = self.step.parameters[i], self.step.gradients[i], self.step.states[i]
        diagonal = self.rule.diagonal(self.step.hyper[i], theta, self.rule.expected(state), g)
        if not state:
            return diagonal
        never = g == 0
        for tensor in state.values():
            never &= tensor == 0
        return diagonal.masked_fill_(never, 0)


def _flat(tensors, some: list[int]) -> Tensor:
    """The entries of some of the tensors, one after the other ``[entries]``."""
    own = [tensors[i].flatten() for i in some]
    return torch.cat(own) if len(own) > 1 else own[0]


def _products(rows: list[Tensor], columns: list[Tensor]) -> Tensor:
    """Inner products of each with each, summed in double precision ``[rows, columns]``."""
    return torch.stack([torch.stack([(x * y).sum(dtype=torch.float64) for y in columns]) for x in rows])


def without_common(influence: Tensor, weights: Tensor, sizes: Tensor) -> Tensor:
    """c_i without what a clipped step takes out of all examples together: ``[N]``.

    A step whose gradient is clipped moves by (1 - h h^T) of it, h its direction, so that sum w_i c_i is zero. What of that falls
    to example i, grad l_i . h, is taken for its share of the size.
    """
    return influence - sizes * (weights * influence).sum() / (weights * sizes).sum()


def sweep(
    rule,
    window: list[StepRecord],
    adjoint: list[Tensor],
    curvature: Callable[[StepRecord, list[Tensor]], list[Tensor]],
) -> Iterator[tuple[StepRecord, list[Tensor]]]:
    """Yields (step, v) from the last step of the window to the first.

    Args:
        curvature: H v at a step's parameters, summed over workers.
    """
    carried = Adjoint(adjoint)
    for step in reversed(window):
        vector, carried = step_back(rule, step, carried)
        yield step, vector
        if step is not window[0]:
            carried.theta = [a + h for a, h in zip(carried.theta, curvature(step, vector))]


def weight_gradient(influence: Tensor, weights: Tensor, sizes: Tensor, normalization: str) -> Tensor:
    """dJ / dw_i from the influences of all rows of a step (all workers, all micro-batches): ``[N]``."""
    total = denominator(weights, sizes, normalization)
    if normalization == "tokens":
        return influence / total
    mean = (weights * influence).sum() / total
    return (influence - sizes * mean) / total


def denominator(weights: Tensor, sizes: Tensor, normalization: str) -> Tensor:
    """W_s: what the step divided by."""
    return sizes.sum() if normalization == "tokens" else (weights * sizes).sum()
