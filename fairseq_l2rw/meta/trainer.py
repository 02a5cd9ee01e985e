"""The schedule: what happens around each student update, and the teacher's step.

Use, in any training loop::

    meta.begin_update(t)                       # t updates are done
    rows, weights = meta.weigh(...)            # in the loss function, per micro-batch
    meta.record(...)                           # likewise
    loss.backward(); clip
    meta.before_step(raw_norm, max_norm)
    optimizer.step()
    report = meta.after_step(dev_batch)        # gradients still in place
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import hypergradient, influence, reweighters, unrolled
from fairseq_l2rw.meta.config import MetaConfig
from fairseq_l2rw.meta.features import FeatureLayout, RunningScalars, feature_rows
from fairseq_l2rw.meta.functional import RandomState, own_random_stream, trainable
from fairseq_l2rw.meta.linearize import rule_for
from fairseq_l2rw.meta.objective import Objective
from fairseq_l2rw.meta.records import BatchRecord, StepRecord
from fairseq_l2rw.meta.replay import ReplayRows
from fairseq_l2rw.meta.student import Student
from fairseq_l2rw.meta.weighting import guarded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherReport:
    """What one teacher update was.

    Attributes:
        head: name of the head that was trained.
        meta_loss: J on the clean dev batch, nats per token.
        gradient_norm: of the teacher's parameters, mean over the steps taken.
        influence: c_i of all rows of the update ``[N]``, nats.
        weight_gradient: dJ / dw_i ``[N]``.
    """

    head: str
    meta_loss: float
    gradient_norm: float
    influence: Tensor
    weight_gradient: Tensor


class MetaTrainer:
    """Learns a reweighter beside a student.

    Args:
        student: the model that is trained.
        layout: widths of the internal states that :meth:`weigh` will be given.
        config: settings.
        teacher: name of the reweighter; not ``uniform``.
        inputs: ``internal``, ``surface`` or both.
        hidden: width of the teacher's hidden layer.
        gather: rows of this worker ``[N, ...]`` -> rows of all workers, in the order of the
            workers; the identity where there is one.
    """

    def __init__(
        self,
        student: Student,
        layout: FeatureLayout,
        config: MetaConfig,
        teacher: str = "deep",
        inputs: tuple[str, ...] = reweighters.INPUTS,
        hidden: int = 128,
        gather: Callable[[Tensor], Tensor] = lambda rows: rows,
    ):
        self.student, self.config, self.gather = student, config, gather
        self.parameters = list(trainable(student.module).values())
        device = self.parameters[0].device
        with own_random_stream(config.seed):
            self.teacher = reweighters.build(teacher, layout, config.heads, inputs, hidden, config.prior).to(device)
        self.teacher_optimizer = torch.optim.AdamW(
            self.teacher.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        contrast = config.contrast if config.objective == "contrastive" else {}
        self.objective = Objective(contrast, config.momentum, config.seed)
        self.replay = [ReplayRows(config.replay_rows, layout.width) for _ in config.heads]
        self.running = RunningScalars()
        self.influence_square: list[float | None] = [None] * len(config.heads)
        self.mean_tokens: float | None = None
        self.gradient_mode = config.gradient
        self.optimizer = self.rule = None
        self.updates = 0
        self.skipped = 0
        self._rows: list[Tensor] = []
        self._records: list[BatchRecord] = []
        self._ignored = False
        self._step: StepRecord | None = None
        self._checked = False

    # ---- the student's side -------------------------------------------------

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Names the student's optimizer.

        Raises:
            L2RWError: its class has no linearisation rule.
        """
        self.rule = rule_for(optimizer)
        self.optimizer = optimizer

    @property
    def attached(self) -> bool:
        """Has :meth:`attach` been called?"""
        return self.optimizer is not None

    @property
    def started(self) -> bool:
        """Do the weights of this update come from the teacher (else they are 1)?"""
        return self.updates >= self.config.start

    @property
    def due(self) -> bool:
        """Does a teacher update follow this student update?"""
        return self.started and (self.updates - self.config.start) % self.config.interval == 0

    def begin_update(self, updates: int) -> None:
        """A student update begins, ``updates`` are done; what an unfinished one left is dropped."""
        self.updates = updates
        self._rows, self._records, self._step, self._ignored = [], [], None, False

    def weigh(
        self, losses: Tensor, n_tokens: Tensor, source_lengths: Tensor, internal: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Features and weights of a micro-batch.

        Args:
            losses: l_i, token-summed, nats ``[N]``.
            n_tokens: n_i ``[N]``.
            source_lengths: ``[N]``.
            internal: states, one ``[N, H]`` for each block of the layout.

        Returns:
            ``(features [N, D], weights [N])``, detached.
        """
        rows = self.features(losses, n_tokens, source_lengths, internal)
        if not self.started:
            return rows, torch.ones_like(losses.detach())
        with torch.no_grad():
            weights = self.teacher(rows).prod(dim=1)
        if self.config.normalization == "batch":
            weights = guarded(weights)
        return rows, weights.to(losses.dtype)

    def features(self, losses, n_tokens, source_lengths, internal) -> Tensor:
        """Rows ``[N, D]`` for the teacher; arguments as :meth:`weigh`."""
        return feature_rows(losses, n_tokens, source_lengths, internal, self.running, self.progress)

    @property
    def progress(self) -> float:
        """Part of the training that is done; 0 where its length is unknown."""
        return min(1.0, self.updates / self.config.max_update) if self.config.max_update else 0.0

    def record(
        self,
        batch: Any,
        features: Tensor,
        weights: Tensor,
        losses: Tensor,
        sizes: Tensor,
        n_tokens: Tensor,
        random_state: RandomState,
    ) -> None:
        """Keeps a micro-batch of this update; see :class:`BatchRecord` for the arguments."""
        self._rows.append(features)
        if self.due:
            self._records.append(
                BatchRecord(batch, features, weights, losses.detach(), sizes, n_tokens, random_state)
            )

    def ignore(self) -> None:
        """This worker had run out of data and saw a dummy batch: its rows of this update do not count."""
        self._ignored = True

    # ---- around the optimizer's step ----------------------------------------

    def before_step(self, raw_norm: float | None = None, max_norm: float = 0.0) -> None:
        """Notes theta where a teacher update is due.

        Args:
            raw_norm: norm of the gradient before it was clipped.
            max_norm: the threshold of the clipping; 0 for none.
        """
        if not self.due:
            return
        self._step = StepRecord(
            [p.detach().clone() for p in self.parameters], self.rule.snapshot(self.optimizer), raw_norm, max_norm
        )

    def after_step(self, dev_batch: Callable[[], Any]) -> TeacherReport | None:
        """Takes a teacher update where one is due, and renews the running statistics.

        Args:
            dev_batch: gives the next dev batch; called only where one is needed.

        Returns:
            What the teacher update was; None where there was none.
        """
        rows = self.gather(self._own(self._rows, self.teacher.layout.width))
        report = self._teacher_update(rows, dev_batch()) if self._step is not None else None
        self._renew_statistics(rows)  # last: the teacher's gradient is taken where the weights were
        self._rows, self._records, self._step = [], [], None
        return report

    def _own(self, tensors: list[Tensor], *shape: int) -> Tensor:
        """This worker's rows of one update, none where it had run out of data or recorded nothing: ``[N, *shape]``."""
        if not tensors:
            return torch.zeros(0, *shape, device=self.parameters[0].device)
        joined = torch.cat(tensors)
        return joined[:0] if self._ignored else joined

    def _renew_statistics(self, rows: Tensor) -> None:
        if len(rows) == 0:
            return
        self.teacher.standardizer.update(rows)
        self.running.update_loss(float(rows[:, 0].mean()))
        tokens = float(rows[:, 3].exp().mean())
        self.mean_tokens = tokens if self.mean_tokens is None else 0.99 * self.mean_tokens + 0.01 * tokens

    def _teacher_update(self, rows: Tensor, dev_batch: Any) -> TeacherReport | None:
        dev = self.objective.dev_gradient(self.student, self.parameters, dev_batch)
        if dev is None or len(rows) == 0:
            self.skipped += 1
            return None
        self.running.update_dev_loss(dev.value)

        def step_vector(adjoint):
            return hypergradient.step_vector(self.rule, self.optimizer, self.parameters, self._step, adjoint)

        self.objective.calibrate(dev, step_vector)
        weights = self.gather(self._own([r.weights for r in self._records]))
        sizes = self.gather(self._own([r.sizes for r in self._records]))
        if self.gradient_mode == "unrolled":
            gradient = unrolled.weight_gradient(
                self.student, self.rule, self.optimizer, self.parameters, self._step,
                self._records, dev.adjoint, self.config.normalization,
            )  # fmt: skip
            c = gradient * sizes.sum() if self.config.normalization == "tokens" else gradient * (weights * sizes).sum()
        else:
            c = self.gather(self._own(self._influence(step_vector(dev.adjoint))))
            gradient = hypergradient.weight_gradient(c, weights, sizes, self.config.normalization)
        if not torch.isfinite(gradient).all():
            self.skipped += 1
            return None
        gradient_norm = self._learn(dev, rows, c, gradient, weights, sizes)
        return TeacherReport(self.config.heads[dev.head], dev.value, gradient_norm, c, gradient)

    def _influence(self, vector: list[Tensor]) -> list[Tensor]:
        out = []
        for record in self._records:
            compute = influence.MODES[self.gradient_mode]
            try:
                losses, c = compute(self.student, self.parameters, self._step.parameters, vector, record)
            except influence.NoForwardMode as error:
                logger.warning("a layer of the student has no forward-mode rule: "
                               "--meta-gradient finite-difference takes its place (%s)", error)  # fmt: skip
                self.gradient_mode = "finite-difference"
                losses, c = influence.finite_difference(
                    self.student, self.parameters, self._step.parameters, vector, record
                )
            self._check_repeated(losses, record)
            out.append(c)
        return out

    def _check_repeated(self, losses: Tensor, record: BatchRecord) -> None:
        """Once: does the influence pass really repeat the student's step?"""
        if self._checked:
            return
        self._checked = True
        if not torch.allclose(losses.float(), record.losses.float(), rtol=1e-2, atol=1e-3):
            logger.warning(
                "the influence pass does not repeat the student's step (losses differ by up to %.3g): "
                "the student draws random numbers outside torch's generator; influences are noisy",
                float((losses - record.losses).abs().max()),
            )

    # ---- the teacher's step -------------------------------------------------

    def _learn(self, dev, rows, c, gradient, weights, sizes) -> float:
        """Trains the head of this turn; returns the mean norm of its gradient.

        The loss of a step, per row: target_i w_i + tau KL(Bernoulli(w_i) || Bernoulli(p)), the target being
        W dJ / dw_i over a scale s. Its stationary weight is sigmoid(logit p - E[target] / tau).
        """
        config = self.config
        if config.replay == 0 and config.prior_strength == 0:
            # the exact gradient: sum_i dJ/dw_i dw_i/d omega
            return self._step_teacher([(rows, gradient.float(), None)], dev.head, reduction="sum")
        total = sizes.sum() if config.normalization == "tokens" else (weights * sizes).sum()
        target = gradient.float() * total.float()
        scale = self._influence_scale(dev, target)
        if scale is None:  # nothing to compare with yet
            return 0.0
        target = target / scale
        if config.replay == 0:
            return self._step_teacher([(rows, target, config.prior_strength)], dev.head)
        buffer = self.replay[dev.head]
        buffer.add(rows, target)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.updates)
        batches = ((*buffer.sample(config.replay_batch, generator), config.prior_strength) for _ in range(config.replay))
        return self._step_teacher(batches, dev.head)

    def _influence_scale(self, dev, target) -> float | None:
        if self.config.prior_strength == 0:
            return 1.0
        if self.config.objective == "contrastive":
            return self.objective.scale(dev, self.mean_tokens)
        square = float(target.square().mean())
        old = self.influence_square[dev.head]
        self.influence_square[dev.head] = square if old is None else 0.95 * old + 0.05 * square
        return self.influence_square[dev.head] ** 0.5 or None

    def _step_teacher(self, batches, head: int, reduction: str = "mean") -> float:
        norms = []
        parameters = list(self.teacher.parameters())
        prior_logit = torch.logit(torch.tensor(self.config.prior, dtype=torch.float64)).item()
        for rows, target, strength in batches:
            self.teacher_optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                logit = self.teacher.logits(rows, head)
                w = torch.sigmoid(logit)
                per_row = target * w
                if strength:
                    # KL(Bernoulli(w) || Bernoulli(p)) = w (logit w - logit p) + log(1 - w) - log(1 - p)
                    per_row = per_row + strength * (
                        w * (logit - prior_logit) + torch.nn.functional.logsigmoid(-logit)
                    )
                loss = per_row.sum() if reduction == "sum" else per_row.mean()
                loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or float("inf"))
            self.teacher_optimizer.step()
            norms.append(float(norm))
        return sum(norms) / len(norms)

    # ---- checkpoints --------------------------------------------------------

    def state_dict(self) -> dict:
        """Tensors and plain Python only; equal on all workers."""
        return {
            "heads": list(self.config.heads),
            "teacher": self.teacher.state_dict(),
            "teacher_optimizer": self.teacher_optimizer.state_dict(),
            "objective": self.objective.state_dict(),
            "replay": [rows.state_dict() for rows in self.replay],
            "running": self.running.state_dict(),
            "influence_square": list(self.influence_square),
            "mean_tokens": self.mean_tokens,
            "gradient_mode": self.gradient_mode,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave.

        Raises:
            L2RWError: it belongs to a teacher with other heads, inputs or widths.
        """
        try:
            if state.get("heads", list(self.config.heads)) != list(self.config.heads):
                raise ValueError("other heads")
            self.teacher.load_state_dict(state["teacher"])
            self.teacher_optimizer.load_state_dict(state["teacher_optimizer"])
            for rows, saved in zip(self.replay, state["replay"], strict=True):
                rows.load_state_dict(saved)
        except (KeyError, RuntimeError, ValueError) as error:
            raise L2RWError(
                "the teacher in the checkpoint does not fit these options (--teacher-inputs, --teacher-hidden-dim, "
                "--teacher-layers, --meta-objective, --meta-contrast); give those it was trained with"
            ) from error
        self.objective.load_state_dict(state["objective"], self.parameters)
        self.running.load_state_dict(state["running"])
        self.influence_square, self.mean_tokens = list(state["influence_square"]), state["mean_tokens"]
        if state["gradient_mode"] == "finite-difference" and self.gradient_mode == "forward":
            self.gradient_mode = "finite-difference"
        self.skipped = state["skipped"]
