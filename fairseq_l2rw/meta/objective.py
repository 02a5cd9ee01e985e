"""The dev objective J and the averages of its gradients.

``loss`` (the paper's): J is the per-token loss of a dev batch. ``contrastive``: for kind k of noise

    J_k = l(x, y) - alpha_k l(x, corrupt_k(x, y)),    adjoint = g - alpha_k g_k

with g, g_k the dev gradients of the clean and of the spoilt batch, each an exponential average over
teacher updates (``momentum``; 0 takes the newest). The kinds take turns, one a teacher update. An average over updates is
an approximation anyway and as large as the student, so it is kept in bfloat16 where the student is in single precision.

Inner products <a, b> = -a . S(b), with S(b) the step vector of adjoint b, tell two things at no extra pass.
They pair the newest gradient with the average of OTHER dev batches, because within one batch its own
noise inflates them::

    midpoint of alpha_k     (<g,g> + <g,g_k>) / (<g,g_k> + <g_k,g_k>)
    dev scale               n/2 (<g, g - alpha g_k> - <g_k, g - alpha g_k>)

At the midpoint an average clean and an average spoilt dev pair have opposite influences of equal size;
the dev scale is half the distance between their influences, for pairs of n tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta.dev_pass import DevPass
from fairseq_l2rw.meta.masters import at_least_single
from fairseq_l2rw.meta.student import Student

CLEAN = "clean"
CANNOT_SPOIL = "a dev batch cannot be spoilt as '{}': leave that kind out of --meta-contrast, or give a larger --meta-subset"
#: `auto` contrasts this much harder than the midpoint (in trials it separated better)
AUTO_FACTOR = 1.7
#: the share of the newest inner products in their averages
PRODUCT_SHARE = 0.2


@dataclass(frozen=True)
class DevGradient:
    """J at the new parameters.

    Attributes:
        head: index of the head that this objective trains.
        adjoint: lambda, one tensor a parameter.
        value: J on the newest clean dev batch, nats per token (the contrast left out).
        alpha: alpha_k in force; 0 for ``loss``.
    """

    head: int
    adjoint: list[Tensor]
    value: float
    alpha: float


class Objective:
    """J, its turn of kinds and its averages.

    Args:
        contrast: kind -> alpha or ``"auto"``; empty for ``loss``.
        momentum: decay of the averages of gradients.
        seed: of the corrupted dev batches.
        examine: look at the states of dev batches (``Student.examine``).
        dev_pass: computes gradients of dev batches.

    Attributes:
        averages: term -> running average of its gradients, without the correction for its beginning; all that is kept of them.
        examined: head and what was seen of each term in the newest turn (losses detached); None where nothing was.
        failure: why the last turn gave nothing; empty if it did.
    """

    def __init__(
        self, contrast: dict, momentum: float, seed: int, examine: bool = False, dev_pass: DevPass | None = None
    ):
        self.dev_pass, self.failure = dev_pass or DevPass(), ""
        self.contrast, self.momentum, self.seed = dict(contrast), momentum, seed
        self.kinds = list(contrast)
        self.examine = examine
        self.examined: tuple[int, dict] | None = None
        self.turn = 0
        self.averages: dict[str, list[Tensor]] = {}
        self.counts: dict[str, int] = {}
        self.products: dict[str, list[float]] = {}

    def dev_gradient(
        self,
        student: Student,
        parameters: list[nn.Parameter],
        batch: Any,
        products: Callable[[list[list[Tensor]], list[list[Tensor]]], list[list[float]]] | None = None,
    ) -> DevGradient | None:
        """Gradient of J in this turn.

        Args:
            products: ``(left, right)`` -> a . S(b) for each b in right, each a in left
                (:meth:`~fairseq_l2rw.meta.hypergradient.StepVector.inner_products`); without it alpha and scale stay unknown.

        Returns:
            None where the turn gives nothing: the batch cannot be spoilt in that way or does not fit into memory, or
            a gradient is not finite. The averages are then as they were.
        """
        self.failure = ""
        head, kind = 0, None
        if self.kinds:
            head = self.turn % len(self.kinds)
            kind = self.kinds[head]
        turn, self.turn = self.turn, self.turn + 1
        terms = (CLEAN,) if kind is None else (CLEAN, kind)
        found = self._apart(student, parameters, batch, terms, turn)
        if found is None:
            return None
        value, newest, examined = found
        if self.examine:
            self.examined = head, examined
        if kind is None and self.momentum == 0:  # nothing to average it with, or to compare with it later
            return DevGradient(head, newest[CLEAN], value, 0.0)
        alpha = self.alpha(kind) if kind else 0.0
        if kind and products is not None and all(self.counts.get(term) for term in terms):
            self._calibrate(kind, newest, products)
        for term in terms:
            self._take(term, newest.pop(term))
        adjoint = self._average(CLEAN)
        if kind:
            for a, b in zip(adjoint, self.averages[kind]):
                a.add_(b.to(a.dtype), alpha=-alpha / self._correction(kind))
        return DevGradient(head, adjoint, value, alpha)

    def _apart(self, student, parameters, batch, terms, turn) -> tuple[float, dict[str, list[Tensor]], dict] | None:
        """The clean loss, and of each term its gradient and what was seen; None, and why in :attr:`failure`, where one cannot be had."""
        newest, values, examined = {}, {}, {}
        for term in terms:
            # after the sound pass, which may have shown what the spoilt one is made from
            data = batch if term == CLEAN else student.corrupt(batch, term, self.seed + turn)
            if data is None:
                self.failure = CANNOT_SPOIL.format(term)
                return None
            keep = len(terms) > 1 and term == CLEAN and getattr(student, "one_pass", False)
            values[term], gradient, examined[term] = self.dev_pass(student, parameters, data, self.examine, keep)
            if gradient is None:
                self.failure = self.dev_pass.failure
                return None
            newest[term] = gradient
        return values[CLEAN], newest, examined

    def alpha(self, kind: str) -> float:
        """alpha_k: as given, or from the inner products so far (0.3 before there are any)."""
        given = self.contrast[kind]
        if given != "auto":
            return given
        if kind not in self.products:
            return 0.3
        clean, clean_spoilt, spoilt_clean, spoilt = self.products[kind]
        above, below = clean + spoilt_clean, clean_spoilt + spoilt
        midpoint = above / below if above > 0 and below > 0 else 0.3
        return min(max(AUTO_FACTOR * midpoint, 0.02), 1.0)

    def _calibrate(self, kind, newest, products) -> None:
        """Takes the inner products of the newest gradients with the averages without them into averages of their own."""
        terms = (CLEAN, kind)
        found = products([newest[a] for a in terms], [self.averages[b] for b in terms])
        self._take_products(kind, [-found[b][a] / self._correction(terms[b]) for a in (0, 1) for b in (0, 1)], PRODUCT_SHARE)

    def _take_products(self, kind: str, seen: list[float], share: float) -> None:
        old = self.products.get(kind)
        self.products[kind] = seen if old is None else [(1 - share) * o + share * s for o, s in zip(old, seen)]

    def scale(self, dev: DevGradient, mean_tokens: float) -> float | None:
        """The dev scale of this turn's kind, in the influence's unit; None while it is unknown.

        Args:
            mean_tokens: n, mean target length of a training pair.
        """
        kind = self.kinds[dev.head] if self.kinds else None
        if kind not in self.products:
            return None
        distance, size = self._distance(kind, dev.alpha)
        # while both average pairs still look alike the distance is noise: hold it away from zero
        scale = 0.5 * mean_tokens * max(distance, 0.1 * size)
        return scale if scale > 0 else None

    def _distance(self, kind: str, alpha: float) -> tuple[float, float]:
        """Of the influences of an average clean and an average spoilt dev token, and their size."""
        clean, clean_spoilt, spoilt_clean, spoilt = self.products[kind]
        return (clean - alpha * clean_spoilt) - (spoilt_clean - alpha * spoilt), abs(clean) + alpha * abs(spoilt)

    def _take(self, term, gradient):
        m = self.momentum
        if term not in self.averages or m == 0:
            self.averages[term] = [_kept(g * (1 - m)) for g in gradient] if m else gradient
            self.counts[term] = 1
        else:
            for a, g in zip(self.averages[term], gradient):
                a.copy_(a.to(g.dtype).mul_(m).add_(g, alpha=1 - m))
            self.counts[term] += 1

    def _correction(self, term) -> float:
        return 1 - self.momentum ** self.counts[term]

    def _average(self, term):
        return [at_least_single(a) / self._correction(term) for a in self.averages[term]]

    def state_dict(self) -> dict:
        return {
            "turn": self.turn,
            "averages": self.averages,
            "counts": dict(self.counts),
            "products": {k: list(v) for k, v in self.products.items()},
            "dev_pass": self.dev_pass.state_dict(),
        }

    def load_state_dict(self, state: dict, like: Sequence[Tensor]) -> None:
        self.turn = state["turn"]
        self.averages = {
            term: [g.to(p.device, copy=True) for g, p in zip(gradient, like)]
            for term, gradient in state["averages"].items()
        }
        if "dev_pass" in state:  # older checkpoints lack it
            self.dev_pass.load_state_dict(state["dev_pass"])
        self.counts, self.products = dict(state["counts"]), {k: list(v) for k, v in state["products"].items()}


def _kept(average: Tensor) -> Tensor:
    """As an average is kept between updates."""
    return average.to(torch.bfloat16) if average.dtype == torch.float32 else average
