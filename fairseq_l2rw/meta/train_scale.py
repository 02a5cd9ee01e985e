"""How far apart the influences of a sound and of a spoilt training example lie.

The dev scale (:mod:`fairseq_l2rw.meta.objective`) is half the distance between the influences of an average sound and an average spoilt
*dev* example. Both are inner products with gradients of dev examples, which share what is common to their domain. Where the training
text is of another, the influences of its examples lie much closer together, and weights that the dev scale measures hardly leave the prior.
So now and then the examples of a step that have the highest weights are spoilt as dev examples are. With v the step vector of the adjoint
and n the mean length of a training example::

    train scale = n/2 <grad l(spoilt) - grad l(sound), v>,    l in nats per token, at the new parameters, dropout off

as an average over measurements. It is in force where it is smaller than the dev scale, unless it does not stand out of its standard error:
then influences of training examples do not tell this kind of noise, and a small scale would blow up their own noise.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta import clipping
from fairseq_l2rw.meta.dev_pass import DevPass
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.workers import Workers

#: the part of a batch that is spoilt, and how many examples at least
PART, FEWEST = 0.2, 16
#: measurements of a head in its first turns; then one in each ``INTERVAL`` of them
FIRST, INTERVAL = 8, 4
#: the share of the newest measurement in the average, once it is smaller than that of each so far
SHARE = 0.1
#: standard errors that the average is above zero
STANDARD_ERRORS = 2.0
#: the smallest scale, as a part of the dev scale
SMALLEST = 0.05


class TrainScale:
    """One average for each head.

    Args:
        heads: how many there are.
        dev_pass: of the dev batches; its factor of the loss holds here, too.
        workers: the data-parallel workers, each of which measures on its own batch.

    Attributes:
        parts: of each head, the scale last in force over the dev scale.
    """

    def __init__(self, heads: int, dev_pass: DevPass | None = None, workers: Workers | None = None):
        self.dev_pass, self.workers = dev_pass or DevPass(), workers or Workers()
        self.turns, self.counts = [0] * heads, [0] * heads
        self.means, self.squares = [0.0] * heads, [0.0] * heads
        self.parts = [1.0] * heads

    def take(
        self,
        head: int,
        kind: str,
        student: Any,
        parameters: list[nn.Parameter],
        vector: list[Tensor],
        records: list[BatchRecord],
        seed: int,
    ) -> None:
        """A turn of a head: measures where that is due.

        Args:
            student: with ``subset``.
            vector: v, for ``parameters``.
            records: this worker's micro-batches of the step; it may have none.
            seed: of the corruption.
        """
        due = self.counts[head] < FIRST or self.turns[head] % INTERVAL == 0
        self.turns[head] += 1
        if not due:
            return
        sums = torch.zeros(2, dtype=torch.float64, device=parameters[0].device)
        for record in records:
            distance, tokens = self._own(kind, student, parameters, vector, record, seed)
            sums += sums.new_tensor([distance * tokens, tokens])
        total, tokens = self.workers.add_up([sums])[0].tolist()
        if tokens and math.isfinite(total):
            self._average(head, total / tokens)

    def _own(self, kind, student, parameters, vector, record, seed) -> tuple[float, float]:
        """<grad l(spoilt) - grad l(sound), v> per token for the examples of the highest weights, and their tokens.

        None of them where one of the gradients cannot be had.
        """
        batch, weights, n_tokens = record.batch, record.weights, record.n_tokens
        if hasattr(student, "whole"):
            gather = self.workers.gather
            batch, weights, n_tokens = student.whole(batch, gather), gather(weights), gather(n_tokens)
        chosen = weights.topk(min(len(weights), max(FEWEST, round(PART * len(weights))))).indices
        chosen = chosen.sort().values  # batches may have to be in order of length
        sound = student.subset(batch, chosen)
        alone = DevPass(self.dev_pass.loss_scale)  # the other workers have examples of their own

        def slope(batch, keep=False):
            gradient = None if batch is None else alone(student, parameters, batch, keep=keep)[1]
            return math.nan if gradient is None else clipping.dot(gradient, vector)

        first = slope(sound, getattr(student, "one_pass", False))
        # spoilt only now: that pass may have shown what with
        distance = slope(student.corrupt(sound, kind, seed)) - first
        return (distance, float(n_tokens[chosen].sum())) if math.isfinite(distance) else (0.0, 0.0)

    def _average(self, head: int, distance: float) -> None:
        self.counts[head] += 1
        share = max(SHARE, 1 / self.counts[head])
        self.means[head] += share * (distance - self.means[head])
        self.squares[head] += share * (distance**2 - self.squares[head])

    def __call__(self, head: int, dev_scale: float, mean_tokens: float) -> float:
        """The scale in force, in the unit of the influence.

        Args:
            dev_scale: of this head, likewise.
            mean_tokens: n.
        """
        count = min(self.counts[head], round((2 - SHARE) / SHARE))  # as many independent ones make such an average
        mean = self.means[head]
        variance = max(self.squares[head] - mean**2, 0.0)
        if count < FIRST or mean < STANDARD_ERRORS * (variance / (count - 1)) ** 0.5:
            part = 1.0
        else:
            part = min(max(0.5 * mean_tokens * mean / dev_scale, SMALLEST), 1.0)
        self.parts[head] = part
        return part * dev_scale

    def state_dict(self) -> dict:
        return {
            "turns": list(self.turns),
            "counts": list(self.counts),
            "means": list(self.means),
            "squares": list(self.squares),
            "parts": list(self.parts),
        }

    def load_state_dict(self, state: dict) -> None:
        self.turns, self.counts = list(state["turns"]), list(state["counts"])
        self.means, self.squares, self.parts = (list(state[name]) for name in ("means", "squares", "parts"))
