"""What a reweighter without a network is: weights by a formula, from the student alone or with a dev batch."""

from __future__ import annotations

from typing import Any, Callable

from torch import Tensor, nn

from fairseq_l2rw.meta.config import MetaConfig
from fairseq_l2rw.meta.features import RunningScalars
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.student import Student


class Rule(nn.Module):
    """Base of the rules; what they carry on are buffers, saved with the checkpoint.

    Args:
        student: the model that is trained.
        parameters: theta.
        config: settings.
    """

    student: Student

    #: why weights of this update are 1 and not the rule's; empty if they are the rule's
    failure = ""

    def __init__(self, student: Student, parameters: list[nn.Parameter], config: MetaConfig):
        super().__init__()
        # not a sub-module: the student is saved elsewhere
        self.__dict__["student"], self.theta, self.config = student, parameters, config

    def begin_update(self, updates: int, dev_batch: Callable[[], Any] | None, running: RunningScalars) -> None:
        """A student update with learned weights begins, at the parameters that :meth:`weights` will see.

        Args:
            updates: student updates that are done.
            dev_batch: gives the next dev batch.
            running: running mean of the per-token loss; constant within the update.
        """

    def weights(self, record: BatchRecord) -> Tensor:
        """w_i of a micro-batch, before the student's step ``[N]``, 0 or more, detached.

        Args:
            record: the micro-batch; its ``weights`` are 1.
        """
        raise NotImplementedError

    def forward(self, rows: Tensor) -> Tensor:
        """The weights of any examples, outside a training: rows ``[N, D]`` -> ``[N, 1]``.

        Raises:
            L2RWError: they exist in training only.
        """
        raise NotImplementedError

    @property
    def dev_loss(self) -> float | None:
        """J on the newest dev batch, nats per token; None where none was used."""
        return None

    @property
    def influence(self) -> list[Tensor]:
        """c_i of the micro-batches of this update; empty where there are none."""
        return []
