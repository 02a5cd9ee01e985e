"""Influences by passes that repeat the student's step, in the first way that all its layers allow.

Forward mode as long as every layer has a rule for it, else finite differences, from the first layer on that has none. Once, it is
looked at whether the pass repeats the step at all.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import influence
from fairseq_l2rw.meta.dev_pass import out_of_memory
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.student import Student

logger = logging.getLogger(__name__)


class RepeatedPass:
    """Influences and curvature of a student's micro-batches.

    Args:
        student: the model.
        parameters: all that are trained; those that a direction v names come first.
        mode: ``forward`` or ``finite-difference``.
        half: activations are in half precision, where finite differences tell nothing.

    Attributes:
        mode: the one that is used by now.
    """

    def __init__(self, student: Student, parameters: list[nn.Parameter], mode: str = "forward", half: bool = False):
        self.student, self.parameters, self.mode, self.half = student, parameters, mode, half
        self._checked = False

    def check_student(self, count: int, batch: Any) -> None:
        """In half precision: has every layer that the first ``count`` parameters reach a forward-mode rule? Changes nothing.

        Args:
            batch: a few examples.

        Raises:
            L2RWError: one has none.
        """
        if self.half:
            try:
                influence.check_forward_mode(self.student, self.parameters, count, batch)
            except influence.NoForwardMode as error:
                raise _needs_single_precision(error) from error

    def influence(self, theta: list[Tensor], vector: list[Tensor], record: BatchRecord) -> Tensor:
        """c_i of a micro-batch ``[N]``, nats, detached; not a number where the pass does not fit into memory.

        Args:
            theta: the parameters of its step, detached.
            vector: v, of the first parameters.

        Raises:
            L2RWError: in half precision, a layer has no forward-mode rule.
        """
        arguments = (self.student, self.parameters, theta, vector, record)
        try:
            losses, c = influence.MODES[self.mode](*arguments)
        except influence.NoForwardMode as error:
            if self.half:
                raise _needs_single_precision(error) from error
            logger.warning(
                "a layer of the student has no forward-mode rule: --meta-gradient finite-difference takes its place (%s)",
                error,
            )
            self.mode = "finite-difference"
            return self.influence(theta, vector, record)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            logger.warning("the influence pass over a batch does not fit into memory: give a smaller --max-tokens")
            return torch.full_like(record.losses, float("nan"))
        self._check(losses, record)
        return c

    def curvature(self, theta: list[Tensor], vector: list[Tensor], record: BatchRecord, denominator: Tensor) -> list[Tensor]:
        """H v of a micro-batch, detached, of the parameters of v; arguments as :meth:`influence`, and W."""
        return influence.CURVATURES[self.mode](self.student, self.parameters, theta, vector, record, denominator)

    def _check(self, losses: Tensor, record: BatchRecord) -> None:
        """Once: does the pass really repeat the student's step?"""
        if self._checked:
            return
        self._checked = True
        made = record.losses.float()
        # in the mean: single losses of a step in half precision may be several per cent away
        apart = float((losses.float() - made).abs().mean())
        if apart > 1e-2 * float(made.abs().mean()) + 1e-3:
            logger.warning(
                "the influence pass does not repeat the student's step (losses differ by %.3g in the mean): "
                "the student draws random numbers outside torch's generator; influences are noisy",
                apart,
            )


def _needs_single_precision(error: influence.NoForwardMode) -> L2RWError:
    return L2RWError(
        f"--meta-gradient: a layer of the student has no forward-mode rule ({error}), and finite differences "
        "need single precision; leave out --fp16, --bf16 or --amp"
    )
