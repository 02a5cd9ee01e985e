"""Influences of a whole student update from its own backward pass, and whether it tells all of them.

Nothing that a backward pass shows says what it does not show. But the gradient of the whole step is there, and so is what its examples
add up to::

    g . v = sum_i w_i c_i / W

Where both sides differ, a parameter is used where no ghost saw it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta import clipping
from fairseq_l2rw.meta.ghost import Ghost
from fairseq_l2rw.meta.records import StepRecord
from fairseq_l2rw.meta.workers import Workers


class GhostReader:
    """The ghosts of an update's micro-batches.

    Args:
        names, parameters: the student's that the hypergradient goes through.
        dtype: of the products; None: as the parameters are.
        workers: the data-parallel workers.

    Attributes:
        axes: what is known of the axis of the examples, from all updates.
        problems: after :meth:`read` has given None, uses that are not covered, in words; those of this worker.
    """

    def __init__(self, names: list[str], parameters: list[nn.Parameter], dtype: torch.dtype | None, workers: Workers):
        self.names, self.parameters, self.dtype, self.workers = names, parameters, dtype, workers
        self.problems: list[str] = []
        self.axes: dict = {}
        self._checked = False
        self.begin()

    def begin(self) -> None:
        """An update has no micro-batches yet."""
        self._watching: Ghost | None = None
        self.ghosts: list[Ghost] = []

    def watch(self, vector: list[Tensor] | None) -> Ghost:
        """A context for the forward pass of a micro-batch; ``vector`` is v, None where it is not known yet."""
        self._watching = Ghost(self.names, self.parameters, self.axes, vector, self.dtype)
        return self._watching

    def attach(self, losses: Tensor) -> bool:
        """Tells the losses ``[N]`` of the pass that was watched, attached; False where none was."""
        ghost, self._watching = self._watching, None
        if ghost is None:
            return False
        ghost.attach(losses)
        self.ghosts.append(ghost)
        return True

    def drop_last(self) -> None:
        """The last micro-batch does not count."""
        del self.ghosts[-1:]

    def read(self, step: StepRecord, vector: list[Tensor], weights: Tensor, denominator: Tensor) -> Tensor | None:
        """c_i of all workers' examples ``[N]``, nats, detached, once; None where something is not covered on any worker.

        Args:
            step: the update's; its gradients are in place.
            vector: v.
            weights: w_i of all workers' examples ``[N]``.
            denominator: W.
        """
        device = self.parameters[0].device
        self.problems = [problem for ghost in self.ghosts for problem in ghost.problems]
        if self.workers.anywhere(bool(self.problems), device):
            return None
        own = [ghost.influence(vector if ghost.vector is None else None) for ghost in self.ghosts]
        c = self.workers.rows(own, device)
        if not self._checked:
            self._checked = True
            self.problems = self._escaped(step, vector, weights * c / denominator)
            if self.workers.anywhere(bool(self.problems), device):
                return None
        return c

    def _escaped(self, step: StepRecord, vector: list[Tensor], shares: Tensor) -> list[str]:
        """What escaped the ghosts, in words; ``shares``: w_i c_i / W ``[N]``."""
        seen = {i for ghost in self.ghosts for i in ghost.seen}
        missed = [
            f"{name} (its use was not seen)"
            for name, p, v in zip(self.names, self.parameters, vector)
            if self.ghosts and id(p) not in seen and p.grad is not None and (p.grad * v).any()
        ]
        f = 1.0 if step.raw_norm is None else clipping.factor(step.raw_norm, step.max_norm)
        moved = [(g, v) for g, v in zip(step.gradients, vector) if g is not None]
        g, v = [g for g, _ in moved], [v for _, v in moved]
        rounding = (1e-5 if self.dtype is None else 1e-3) * clipping.norm(g) * clipping.norm(v) / f
        whole = clipping.dot(g, v) / f
        # clipping makes v orthogonal to g: in a batch of one pair nothing but rounding is left
        if not missed and abs(float(shares.sum()) - whole) > 0.02 * float(shares.abs().sum()) + rounding:
            missed.append(f"the step as a whole ({float(shares.sum()):.3g} instead of {whole:.3g})")
        return missed
