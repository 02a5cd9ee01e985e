"""J where a sound and a spoilt dev batch share their forward pass: mostly by one backward pass.

The images of a spoilt dev batch are those of the sound one, so both losses come from one pass. With one kind of noise and an alpha that is
given, g and g_k (:mod:`fairseq_l2rw.meta.objective`) are needed for the dev scale alone. So what is averaged is their difference::

    adjoint a = average of (g - alpha g_k)                                     one backward pass
    r, r_k    = averages of <g, a'> / eta', <g_k, a'> / eta'                   g and g_k apart; a': a without them
    dev scale   n/2 (r - r_k) eta,   <a, b> = -a . S(b),   eta = <a, a> / |a|^2

They are taken apart, and the averages taken, as often as the train scale is measured. eta, for SGD the learning rate, is had in every turn, so that the scale
follows a rate that falls at once; averages of products that were made with the old one would make influences look small until they have
gone. The adjoint is that of :class:`Objective`, but for rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_l2rw.meta import clipping
from fairseq_l2rw.meta.dev_pass import CannotSpoil
from fairseq_l2rw.meta.objective import CANNOT_SPOIL, CLEAN, DevGradient, Objective
from fairseq_l2rw.meta.student import Student
from fairseq_l2rw.meta.train_scale import FIRST, INTERVAL, SHARE


class OnePassObjective(Objective):
    """Arguments and attributes as :class:`Objective`'s; :attr:`averages` are of the difference and :attr:`products` r and r_k, under the kind's name."""

    #: eta of the newest turn
    rate: float | None = None

    def dev_gradient(self, student, parameters, batch, products=None):
        (kind,) = self.kinds
        self.failure = ""
        turn, self.turn = self.turn, self.turn + 1
        alpha = self.contrast[kind]
        if turn < FIRST or turn % INTERVAL == 0:
            found = self._apart(student, parameters, batch, (CLEAN, kind), turn)
            if found is None:
                return None
            value, newest, seen = found
            if products is not None and self.counts.get(kind):
                before = self._average(kind)
                ((sound, spoilt, own),) = products([newest[CLEAN], newest[kind], before], [before])
                rate = _rate(own, before)
                if rate:
                    self.counts[CLEAN] = self.counts.get(CLEAN, 0) + 1  # measurements
                    self._take_products(kind, [-sound / rate, -spoilt / rate], max(SHARE, 1 / self.counts[CLEAN]))
            gradient = newest[CLEAN]
            torch._foreach_add_(gradient, newest[kind], alpha=-alpha)
        else:
            spoil = lambda: student.corrupt(batch, kind, self.seed + turn)  # noqa: E731
            try:
                value, gradient, both = self.dev_pass.difference(student, parameters, batch, spoil, alpha, self.examine)
            except CannotSpoil:
                self.failure = CANNOT_SPOIL.format(kind)
                return None
            if gradient is None:
                self.failure = self.dev_pass.failure
                return None
            seen = dict(zip((CLEAN, kind), both))
        if self.examine:
            self.examined = 0, seen
        self._take(kind, gradient)
        adjoint = self._average(kind)
        if products is not None:
            self.rate = _rate(products([adjoint], [adjoint])[0][0], adjoint)
        return DevGradient(0, adjoint, value, alpha)

    def _distance(self, kind, alpha):
        sound, spoilt = (ratio * self.rate for ratio in self.products[kind])
        return sound - spoilt, abs(sound) + abs(spoilt)


def _rate(along: float, adjoint: list[Tensor]) -> float:
    """eta, from a . S(a) and a; 0 for an adjoint of zeros."""
    square = clipping.dot(adjoint, adjoint)
    return -along / square if square > 0 else 0.0


def fits(contrast: dict, student: Student) -> bool:
    """Is it the objective for this student and contrast?"""
    return len(contrast) == 1 and getattr(student, "one_pass", False) and "auto" not in contrast.values()
