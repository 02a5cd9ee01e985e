"""The schedule of a reweighter without a network: the same calls as :class:`MetaTrainer`'s, and nothing that is learnt."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any, Callable

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import hypergradient, reweighters
from fairseq_l2rw.meta.config import MetaConfig
from fairseq_l2rw.meta.features import FeatureLayout, RunningScalars, feature_rows
from fairseq_l2rw.meta.functional import RandomState, trainable
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.skipped import CountsSkipped
from fairseq_l2rw.meta.student import Student
from fairseq_l2rw.meta.teacher_report import TeacherReport
from fairseq_l2rw.meta.weighting import guarded
from fairseq_l2rw.meta.workers import Workers


class RuleTrainer(CountsSkipped):
    """Gives the weights of a rule from ``config.start`` on; arguments as :class:`MetaTrainer`'s."""

    def __init__(
        self,
        student: Student,
        layout: FeatureLayout,
        config: MetaConfig,
        teacher: str,
        workers: Workers | None = None,
        identify: Callable[[Any], Tensor] | None = None,
        observe: Callable[[Any, Tensor], None] | None = None,
    ):
        # a rule has no heads, and its J is the loss
        self.student, self.config, self.workers = student, dataclasses.replace(config, objective="loss"), workers or Workers()
        self.identify, self.observe = identify, observe
        self.parameters = list(trainable(student.module).values())
        self.name = teacher
        self.teacher = reweighters.rule_class(teacher)(student, self.parameters, self.config).to(self.parameters[0].device)
        self.running = RunningScalars()
        self.updates = 0
        self.attached = False
        self._records: list[BatchRecord] = []
        self._ignored = False

    def attach(self, optimizer: torch.optim.Optimizer, masters: list | None = None) -> None:
        """As of MetaTrainer; any optimizer will do."""
        self.attached = True

    @property
    def started(self) -> bool:
        """Do the weights of this update come from the rule (else they are 1)?"""
        return self.updates >= self.config.start

    def begin_update(self, updates: int, dev_batch: Callable[[], Any] | None = None) -> None:
        """A student update begins, ``updates`` are done; what an unfinished one left is dropped."""
        self.updates = updates
        self._records, self._ignored = [], False
        if self.started:
            self.teacher.begin_update(updates, dev_batch, self.running)

    def drop_records(self) -> None:
        """As of MetaTrainer."""
        self._records, self._ignored = [], False

    def watched(self):
        """As of MetaTrainer; there is nothing to watch."""
        return nullcontext()

    def weigh(
        self,
        losses: Tensor,
        n_tokens: Tensor,
        source_lengths: Tensor,
        internal: list[Tensor],
        batch: Any = None,
        random_state: RandomState | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As of MetaTrainer: ``(features [N, D], weights [N])``, detached."""
        rows = self.features(losses, n_tokens, source_lengths, internal)
        losses = losses.detach()
        ones = torch.ones_like(losses)
        if not self.started:
            return rows, ones
        weights = self.teacher.weights(BatchRecord(batch, rows, rows, ones, losses, n_tokens, n_tokens, random_state))
        return rows, (guarded(weights) if self.config.normalization == "batch" else weights).to(losses.dtype)

    def features(self, losses, n_tokens, source_lengths, internal) -> Tensor:
        """Rows ``[N, D]``; a rule reads the loss at most."""
        return feature_rows(losses, n_tokens, source_lengths, internal, self.running, 0.0)

    def record(self, batch, features, weights, losses, sizes, n_tokens, random_state) -> None:
        """Keeps what the report of this update needs; see :class:`BatchRecord` for the arguments."""
        if self.observe is not None and self.started:
            self.observe(batch, weights)
        self._records.append(BatchRecord(batch, features, features, weights, losses.detach(), sizes, n_tokens, random_state))

    def ignore(self) -> None:
        """This worker had run out of data and saw a dummy batch: its rows of this update do not count."""
        self._ignored = True

    def before_step(self, raw_norm: float | None = None, max_norm: float = 0.0) -> None:
        """As of MetaTrainer; there is nothing to note."""

    def after_step(self, dev_batch: Callable[[], Any]) -> TeacherReport | None:
        """Renews the running mean of the loss, and reports the weights of the update once they are the rule's."""
        records = [] if self._ignored else self._records
        rows = self._gathered([r.features[:, :1] for r in records], 1)
        if len(rows):
            self.running.update_loss(float(rows.mean()))
        self._records = []
        if not self.started:
            return None
        if self.workers.anywhere(self.teacher.failure != "", self.parameters[0].device):
            return self._skip(self.teacher.failure or "another worker's weights")
        self.skipped_in_a_row = 0
        return self._report(records)

    def _report(self, records) -> TeacherReport:
        weights, sizes = (self._gathered([getattr(r, name) for r in records]) for name in ("weights", "sizes"))
        if self.teacher.dev_loss is None:  # no dev batch, no influence
            c = torch.full_like(weights, float("nan"))
        else:
            c = self._gathered([] if self._ignored else self.teacher.influence)
        total = hypergradient.denominator(weights, sizes, self.config.normalization)
        return TeacherReport(
            self.config.heads[0],
            self.teacher.dev_loss,
            0.0,
            c,
            hypergradient.weight_gradient(c, weights, sizes, self.config.normalization),
            weights=weights,
            shares=weights * c / total,
            ids=self._ids(records),
        )

    def _ids(self, records) -> Tensor | None:
        if self.identify is None:
            return None
        none = torch.zeros(0, dtype=torch.int64, device=self.parameters[0].device)
        return self.workers.gather(torch.cat([none, *(self.identify(r.batch).to(none) for r in records)]))

    def _gathered(self, tensors: list[Tensor], *shape: int) -> Tensor:
        return self.workers.rows(tensors, self.parameters[0].device, *shape)

    def state_dict(self) -> dict:
        """Tensors and plain Python only; equal on all workers."""
        return {
            "rule": self.name,
            "teacher": self.teacher.state_dict(),
            "running": self.running.state_dict(),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave.

        Raises:
            L2RWError: it belongs to another reweighter.
        """
        if state.get("rule") != self.name:
            raise L2RWError(f"--teacher {self.name}: the checkpoint belongs to another teacher; give that one")
        self.teacher.load_state_dict(state["teacher"])
        self.skipped, self.skipped_in_a_row = state.get("skipped", 0), state.get("skipped_in_a_row", 0)
        self.load_statistics(state)

    def load_statistics(self, state: dict) -> None:
        """Takes the running statistics alone from the state of any reweighter."""
        self.running.load_state_dict(state["running"])
