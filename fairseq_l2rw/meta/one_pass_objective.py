"""J where a sound and a spoilt dev batch share their forward pass: mostly by one backward pass.

The images of a spoilt dev batch are those of the sound one, so both losses come from one pass. With one kind of noise and an alpha that is
given, g and g_k (:mod:`fairseq_l2rw.meta.objective`) are needed for the dev scale alone. So what is averaged is their difference::

    adjoint a = average of (g - alpha g_k)                                       one backward pass
    dev scale   n/2 (<g, a> - <g_k, a>),  <a, b> = -a . S(b)                     g and g_k apart, a without them

and they are taken apart in the first turns and in one turn of a few, since the scale is an average over many anyway. The adjoint is that
of :class:`Objective`, but for rounding.
"""

from __future__ import annotations

import torch

from fairseq_l2rw.meta.dev_pass import CannotSpoil
from fairseq_l2rw.meta.objective import CANNOT_SPOIL, CLEAN, DevGradient, Objective
from fairseq_l2rw.meta.student import Student

#: the first turns take the gradients apart, then one in each ``INTERVAL`` turns
FIRST, INTERVAL = 8, 4
#: the share of the newest inner products in their averages: they come seldom
SHARE = 0.4


class OnePassObjective(Objective):
    """Arguments and attributes as :class:`Objective`'s; :attr:`averages` are of the difference, under the kind's name."""

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
                (pair,) = products([newest[CLEAN], newest[kind]], [self.averages[kind]])
                self._take_products(kind, [-p / self._correction(kind) for p in pair], SHARE)
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
        return DevGradient(0, self._average(kind), value, alpha)

    def _distance(self, kind, alpha):
        sound, spoilt = self.products[kind]
        return sound - spoilt, abs(sound) + abs(spoilt)


def fits(contrast: dict, student: Student) -> bool:
    """Is it the objective for this student and contrast?"""
    return len(contrast) == 1 and getattr(student, "one_pass", False) and "auto" not in contrast.values()
