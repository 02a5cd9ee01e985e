"""Loss and gradient of one dev batch.

Several workers share it out, each with its part r of the sentences, and sum up; so a dev batch costs each of them
less, and all end with the same gradient to the bit, which keeps their teachers equal::

    l = sum_i l_i / sum_i n_i = sum_r (n_r / n) l_r

Where activations are in half precision small gradients would vanish: the loss is multiplied by a factor before the
backward pass, and the gradient divided by it in single precision. A factor with which the gradient overflows is halved,
and the pass repeated.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Callable

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta.functional import evaluating
from fairseq_l2rw.meta.masters import at_least_single
from fairseq_l2rw.meta.student import Examined, Student
from fairseq_l2rw.meta.workers import Workers

logger = logging.getLogger(__name__)

#: passes without an overflow after which a factor that was halved is doubled again
GROWTH_INTERVAL = 2000


class CannotSpoil(Exception):
    """A dev batch cannot be spoilt in the way that is asked for."""


class DevPass:
    """Computes dev gradients.

    Args:
        loss_scale: the factor to begin with; 1 where activations are in single precision.
        workers: that share a batch out.

    Attributes:
        failure: why the last pass gave no gradient; empty if it did.
    """

    def __init__(self, loss_scale: float = 1.0, workers: Workers | None = None):
        self.loss_scale = self.largest = loss_scale
        self.workers = workers or Workers()
        self.clean = 0
        self.failure = ""

    def __call__(
        self, student: Student, parameters: list[nn.Parameter], batch: Any, examine: bool = False, keep: bool = False
    ) -> tuple[float, list[Tensor] | None, Examined | None]:
        """Loss, nats per token; gradient, detached, in single precision at least; what was seen (``examine``) of all examples.

        ``keep`` does not free the graph of the pass, for the student to use once more. The gradient is None where it is not finite or the batch did
        not fit into memory.
        """
        value, gradient, (seen, _) = self._pass(student, parameters, batch, None, 0.0, examine, keep)
        return value, gradient, seen

    def difference(
        self, student: Student, parameters: list[nn.Parameter], batch: Any, spoil: Callable[[], Any], alpha: float, examine: bool = False
    ) -> tuple[float, list[Tensor] | None, list[Examined | None]]:
        """As a call, the gradient of l(batch) - alpha l(spoilt) by one backward pass: the loss of the batch, and what was seen of both.

        ``spoil`` makes the spoilt one, with as many examples, once the sound one was looked at.

        Raises:
            CannotSpoil: it gave None.
        """
        return self._pass(student, parameters, batch, spoil, alpha, examine, False)

    def _pass(self, student, parameters, batch, spoil, alpha, examine, keep) -> tuple[float, list[Tensor] | None, list[Examined | None]]:
        part, share, shared = self._part(student, batch)
        self.failure = ""
        while True:
            state, gradients, seen = self._own(student, parameters, part, share, spoil, alpha, examine, keep)
            state, *gradients = self.workers.add_up([state, *gradients])
            value, too_large = state.tolist()
            if too_large:
                self.failure = "a dev batch does not fit into memory: give a smaller --meta-max-tokens"
                logger.warning("%s", self.failure)
                return value, None, [None, None]
            sound = math.isfinite(value)
            if sound and torch.stack(torch._foreach_norm(gradients)).isfinite().all():
                self._passed()
                return value, gradients, [one if one is None or not shared else self._of_all(one) for one in seen]
            if not sound or self.loss_scale <= 1:
                self.failure = (
                    "loss or gradient of a dev batch is not finite: the student may have diverged (lower --lr), or "
                    "--meta-subset has pairs that no model can read"
                )
                return value, None, [None, None]
            self.loss_scale, self.clean = self.loss_scale / 2, 0

    def look(self, student: Any, batch: Any) -> Examined:
        """What a forward pass alone shows of all examples, of a student that has ``examine``; everything detached."""
        part, _, shared = self._part(student, batch)
        with torch.no_grad(), evaluating(student.module):
            examined = student.examine(part)
        return self._of_all(examined) if shared else examined

    def _part(self, student, batch) -> tuple[Any, float, bool]:
        """This worker's part of a batch, its share in the loss, and whether others have others."""
        if self.workers.count == 1:
            return batch, 1.0, False
        shared = student.share(batch, self.workers.rank, self.workers.count)
        # too few examples: everyone takes all of them
        return (*shared, True) if shared is not None else (batch, 1 / self.workers.count, False)

    def _passed(self):
        self.clean += 1
        if self.clean == GROWTH_INTERVAL:
            self.loss_scale, self.clean = min(2 * self.loss_scale, self.largest), 0

    def _own(self, student, parameters, part, share, spoil, alpha, examine, keep):
        """``([share of the loss, 1 if out of memory], gradients, what was seen of sound and spoilt)`` of this worker's part."""
        device = parameters[0].device
        gradients, seen = [None] * len(parameters), [None, None]
        try:
            with torch.enable_grad(), evaluating(student.module):
                loss, seen[0] = self._loss(student, part, examine)
                total = loss
                if spoil is not None:
                    spoilt = spoil()
                    if spoilt is None:
                        raise CannotSpoil
                    other, seen[1] = self._loss(student, self._part(student, spoilt)[0], examine)
                    total = loss - alpha * other
                scaled = total * self.loss_scale if self.loss_scale != 1 else total
                gradients = torch.autograd.grad(scaled, parameters, allow_unused=True, retain_graph=keep)
            state = torch.tensor([float(loss.detach()) * share, 0.0], dtype=torch.float64, device=device)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            state = torch.tensor([0.0, 1.0], dtype=torch.float64, device=device)
        out = [at_least_single(torch.zeros_like(p) if g is None else g).detach() for p, g in zip(parameters, gradients)]
        factor = share / self.loss_scale
        return state, out if factor == 1 else list(torch._foreach_mul(out, factor)), seen

    def _loss(self, student, part, examine) -> tuple[Tensor, Examined | None]:
        """Per token, attached, and what was seen, detached."""
        if not examine:
            return student.dev_loss(part), None
        seen = student.examine(part)
        return seen.losses.sum() / seen.n_tokens.sum(), seen._replace(losses=seen.losses.detach())

    def _of_all(self, examined: Examined) -> Examined:
        """What all workers saw, in the order of the whole batch."""

        def whole(rows):
            rows = self.workers.gather(rows)
            order = torch.arange(len(rows), device=rows.device)
            return rows[torch.cat([order[r :: self.workers.count] for r in range(self.workers.count)]).argsort()]

        losses, n_tokens, source_lengths, internal = examined
        return Examined(whole(losses), whole(n_tokens), whole(source_lengths), [whole(block) for block in internal])

    def state_dict(self) -> dict:
        return {"loss_scale": self.loss_scale, "clean": self.clean}

    def load_state_dict(self, state: dict) -> None:
        self.loss_scale, self.clean = state["loss_scale"], state["clean"]


def out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of the machine."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory")
    )
