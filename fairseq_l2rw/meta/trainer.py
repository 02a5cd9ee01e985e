"""The schedule: what happens around each student update, and the teacher's step.

Use, in any training loop::

    meta.begin_update(t)                       # t updates are done
    with meta.watched():                       # in the loss function, per micro-batch
        losses, n_tokens = ...                 # the student's forward pass (only `ghost` needs to watch it)
    rows, weights = meta.weigh(...)            # likewise
    meta.record(...)                           # likewise
    loss.backward(); clip
    meta.before_step(raw_norm, max_norm)
    optimizer.step()
    report = meta.after_step(dev_batch)        # gradients still in place
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Callable

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import hypergradient, one_pass_objective, reweighters, selection
from fairseq_l2rw.meta.config import READING, MetaConfig
from fairseq_l2rw.meta.dev_pass import DevPass
from fairseq_l2rw.meta.features import FeatureLayout, RunningScalars, feature_rows, running_mean
from fairseq_l2rw.meta.functional import RandomState, own_random_stream, trainable
from fairseq_l2rw.meta.ghost import SMALLEST_WEIGHT
from fairseq_l2rw.meta.history import ScoreHistory
from fairseq_l2rw.meta.learner import Learner
from fairseq_l2rw.meta.masters import Master
from fairseq_l2rw.meta.objective import DevGradient, Objective
from fairseq_l2rw.meta.one_pass_objective import OnePassObjective
from fairseq_l2rw.meta.probe import ProbeTrainer
from fairseq_l2rw.meta.records import BatchRecord, StepRecord
from fairseq_l2rw.meta.skipped import CountsSkipped
from fairseq_l2rw.meta.student import Student
from fairseq_l2rw.meta.teacher_report import TeacherReport
from fairseq_l2rw.meta.train_scale import TrainScale
from fairseq_l2rw.meta.weight_gradients import NoGradient, WeightGradient, WeightGradients
from fairseq_l2rw.meta.weighting import guarded
from fairseq_l2rw.meta.workers import Workers

#: dev batches, at most, that the probes see before the first teacher update
FIRST_LOOK = 64
#: the factor of the dev loss to begin with where activations are in half precision
HALF_LOSS_SCALE = 2.0**15


class MetaTrainer(CountsSkipped):
    """Learns a reweighter beside a student.

    Args:
        student: the model that is trained.
        layout: widths of the internal states that :meth:`weigh` will be given.
        config: settings.
        teacher: name of the reweighter; not ``uniform``.
        inputs: ``internal``, ``surface`` or both.
        hidden: width of the teacher's hidden layers; None for its default.
        workers: the data-parallel workers; one unless told otherwise.
        identify: batch -> a whole number for each of its examples ``[N]``, for the reports.
        number: batch -> which training examples it has ``[N]``: whole numbers from 0 on, the same each time. What
            ``config.history`` needs; without it there is none, and :meth:`weigh` can do without the batch.
        observe: told of each batch and its weights ``[N]``, once the teacher gives them.
        half: activations are in half precision (16 bits, with or without master copies of the parameters).

    Raises:
        L2RWError: ``half``, and settings that need single precision.
    """

    def __init__(
        self,
        student: Student,
        layout: FeatureLayout,
        config: MetaConfig,
        teacher: str = "deep",
        inputs: tuple[str, ...] = reweighters.INPUTS,
        hidden: int | None = None,
        workers: Workers | None = None,
        identify: Callable[[Any], Tensor] | None = None,
        observe: Callable[[Any, Tensor], None] | None = None,
        half: bool = False,
        number: Callable[[Any], Tensor] | None = None,
    ):
        if half:
            _check_half(config)
        self.student, self.config = student, config
        self.workers, self.identify, self.observe, self.number = workers or Workers(), identify, observe, number
        named, count = selection.in_front(trainable(student.module), config.params)
        self.names, self.parameters = list(named), list(named.values())
        self.gradients = WeightGradients(
            student, config, self.names, self.parameters, count, self.workers, half, self._dev_gradient, self._take_scale
        )
        self.through = self.gradients.through
        device = self.parameters[0].device
        contrast = config.contrast if config.objective == "contrastive" else {}
        if contrast and config.states == "probe" and hasattr(student, "examine"):
            inputs = tuple("probe" if name == "internal" else name for name in inputs)
            if config.history and number is not None:
                layout = replace(layout, past=len(config.heads))
        with own_random_stream(config.seed):
            self.teacher = reweighters.build(teacher, layout, config.heads, inputs, hidden, config.prior).to(device)
        self.learner = Learner(self.teacher, config, getattr(student, "least_loss", 0.0))
        self.probe = None if self.teacher.probe is None else ProbeTrainer(self.teacher.probe, config.seed)
        dev_pass = DevPass(HALF_LOSS_SCALE if half else 1.0, self.workers)
        make = OnePassObjective if one_pass_objective.fits(contrast, student) else Objective
        self.objective = make(contrast, config.momentum, config.seed, self.probe is not None, dev_pass)
        # without a prior there is nothing that influences are measured by
        on_train = contrast and config.prior_strength and config.scale == "train" and hasattr(student, "subset")
        self.train_scale = TrainScale(len(config.heads), dev_pass, self.workers) if on_train else None
        self.history = ScoreHistory(layout.past) if self.probe is not None and layout.past else None
        if self.history is not None:
            self.probe.probe.decay = config.history
        self.running = RunningScalars()
        self.mean_tokens: float | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.updates = 0
        self._begin_records()
        self._ignored = self._unfinished = False

    # ---- the student's side -------------------------------------------------

    def attach(self, optimizer: torch.optim.Optimizer, masters: list[Master] | None = None) -> None:
        """Names the student's optimizer.

        Args:
            masters: what it steps for each of :attr:`parameters`; the parameters themselves unless told otherwise.

        Raises:
            L2RWError: its class has no linearisation rule.
        """
        self.gradients.attach(optimizer, masters)
        self.optimizer = optimizer

    def check_student(self, batch: Any) -> None:
        """Before a training in half precision: can the student's influences be had? Changes nothing.

        Args:
            batch: a few examples.

        Raises:
            L2RWError: ``half``, and a layer has no forward-mode rule.
        """
        self.gradients.repeated.check_student(len(self.through), batch)

    @property
    def gradient_mode(self) -> str:
        """How the hypergradient is had by now: ``config.gradient``, or what took its place."""
        return self.gradients.mode

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

    @property
    def recorded(self) -> bool:
        """Is this student update part of the window of a teacher update?"""
        until_due = (self.config.start - self.updates) % self.config.interval
        return self.started and until_due < self.config.window

    def begin_update(self, updates: int, dev_batch: Callable[[], Any] | None = None) -> None:
        """A student update begins, ``updates`` are done; what an unfinished one left is dropped.

        ``dev_batch`` is for reweighters that need one before the step; here one is taken after it.
        """
        self.updates = updates
        if self._unfinished and self.due:  # an overflow or a lack of memory, told by the training loop
            self.skipped += 1
        self._unfinished = True
        self.drop_records()

    def drop_records(self) -> None:
        """The gradients of this update so far are lost, and so is what was recorded of it."""
        self._begin_records()
        self._ignored = False
        self.gradients.drop_unfinished()

    def _begin_records(self) -> None:
        """An update has none yet: of the micro-batches, rows, numbers and scores of their examples, and what the teacher learns from."""
        self._rows: list[Tensor] = []
        self._numbers: list[Tensor] = []
        self._scores: list[Tensor] = []
        self._records: list[BatchRecord] = []
        self.gradients.begin()
        self._inputs: Tensor | None = None  # of the teacher, from weigh to record

    def watched(self):
        """A context for the student's forward pass of a micro-batch, from the batch to the losses."""
        return self.gradients.watched() if self.due else nullcontext()

    def weigh(
        self,
        losses: Tensor,
        n_tokens: Tensor,
        source_lengths: Tensor,
        internal: list[Tensor],
        batch: Any = None,
        random_state: RandomState | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and weights of a micro-batch.

        Args:
            losses: l_i, token-summed, nats ``[N]``.
            n_tokens: n_i ``[N]``.
            source_lengths: ``[N]``.
            internal: states, one ``[N, H]`` for each block of the layout.
            batch: as :meth:`record`'s, for the history; ``random_state``, likewise, is for reweighters that differentiate before
                the step, and not used here.

        Returns:
            ``(features [N, D], weights [N])``, detached.
        """
        rows = self.features(losses, n_tokens, source_lengths, internal)
        if self.history is not None:
            rows[:, -self.teacher.layout.past :] = self.history.of(self.number(batch)).to(rows)
        if not self.started:
            return rows, torch.ones_like(losses.detach())
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):  # as in the teacher's own step
            self._inputs = self.teacher.inputs(rows)
            weights = self.teacher.weights(self._inputs).prod(dim=1)
        if self.config.normalization == "batch":
            weights = guarded(weights)
        if self.config.gradient in READING:
            weights = weights.clamp(min=SMALLEST_WEIGHT)
        return rows, weights.to(losses.dtype)

    def judge(
        self, updates: int, losses: Tensor, n_tokens: Tensor, source_lengths: Tensor, internal: list[Tensor], batch: Any = None
    ) -> Tensor:
        """Weights ``[N]``, detached, of examples that the student does not train on now; the history takes what is thought of them.

        Arguments as :meth:`begin_update` and :meth:`weigh`; the examples are the same on all workers, and no update is under way.
        """
        self.updates = updates  # a training that goes on has begun none
        rows, weights = self.weigh(losses, n_tokens, source_lengths, internal, batch)
        inputs, self._inputs = self._inputs, None
        if self.history is not None and self.started:
            self.history.take(self.number(batch), self.teacher.scores(inputs))
        return weights

    def features(self, losses, n_tokens, source_lengths, internal) -> Tensor:
        """Rows ``[N, D]`` for the teacher; arguments as :meth:`weigh`."""
        rows = feature_rows(losses, n_tokens, source_lengths, internal, self.running, self.progress)
        past = self.teacher.layout.past
        return torch.cat([rows, rows.new_zeros(len(rows), past)], dim=1) if past else rows

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
        """Keeps a micro-batch of this update; see :class:`BatchRecord` for the arguments. The losses are attached.

        Raises:
            L2RWError: the influence is to be read from the backward pass, and the forward pass was not watched.
        """
        if self.due:
            self.gradients.attach_losses(losses)
        self._rows.append(features)
        inputs, self._inputs = self._inputs, None
        if inputs is None and self.started:  # the weights came from elsewhere
            inputs = self.teacher.inputs(features)
        if self.history is not None and self.started:
            self._numbers.append(self.number(batch).to(features.device))
            self._scores.append(self.teacher.scores(inputs))
        if self.observe is not None and self.started:
            self.observe(batch, weights)
        if self.recorded:
            self._records.append(BatchRecord(batch, features, inputs, weights, losses.detach(), sizes, n_tokens, random_state))

    def ignore(self) -> None:
        """The last micro-batch was a dummy, because this worker had run out of data.

        Its rows do not count; those of the micro-batches before it stay in the sum of losses, but the training loop leaves
        their sizes out of the denominator, and so does this.
        """
        self._ignored = True
        for kept in (self._rows, self._numbers, self._scores, self._records):
            del kept[-1:]
        self.gradients.reader.drop_last()

    # ---- around the optimizer's step ----------------------------------------

    def before_step(self, raw_norm: float | None = None, max_norm: float = 0.0) -> None:
        """Notes theta where the step belongs to the window of a teacher update.

        Args:
            raw_norm: norm of the gradient before it was clipped.
            max_norm: the threshold of the clipping; 0 for none.
        """
        if self.recorded:
            self.gradients.window.before_step(raw_norm, max_norm)

    def after_step(self, dev_batch: Callable[[], Any]) -> TeacherReport | None:
        """Takes a teacher update where one is due, and renews the running statistics.

        Args:
            dev_batch: gives the next dev batch; called only where one is needed.

        Returns:
            What the teacher update was; None where there was none.
        """
        self._unfinished = False
        if self._ignored:
            self._records = [replace(r, sizes=torch.zeros_like(r.sizes)) for r in self._records]
        window = self.gradients.window
        window.after_step(self._records)
        if self.due and self.probe is not None and not self.probe.turn:
            self._begin_probe(dev_batch)
        report = self._teacher_update(dev_batch) if self.due and window.steps else None
        # last: the teacher's gradient is taken where the weights were
        self._teach_probe()
        rows = self._gathered(self._rows, self.teacher.layout.width)
        if self.history is not None and self.started:
            scores = self._gathered(self._scores, len(self.config.heads))
            self.history.take(self._gathered(self._numbers, dtype=torch.long), scores)
        self._renew_statistics(rows)
        self._begin_records()
        if self.due and self.config.interval >= self.config.window:  # no window to come begins within this one
            window.clear()
        return report

    def _renew_statistics(self, rows: Tensor) -> None:
        rows = rows[torch.isfinite(rows).all(1)]
        if len(rows) == 0:
            return
        self.teacher.standardizer.update(rows)
        self.running.update_loss(float(rows[:, 0].mean()))
        tokens = float(rows[:, 3].exp().mean())
        self.mean_tokens = running_mean(self.mean_tokens, tokens, 0.99)

    def _begin_probe(self, dev_batch):
        """Shows the probe dev batches, sound and spoilt in every way: as many as :data:`FIRST_LOOK`, or as it keeps."""
        def seen(batch):
            return self.features(*self.objective.dev_pass.look(self.student, batch))

        batches, sound = [], []
        while len(batches) < FIRST_LOOK and 2 * sum(len(rows) for rows in sound) < self.probe.capacity:
            batches.append(dev_batch())
            sound.append(seen(batches[-1]))
        for head, kind in enumerate(self.config.heads):
            spoilt = [self.student.corrupt(batch, kind, self.config.seed + n) for n, batch in enumerate(batches)]
            self.probe.begin(head, [(a, seen(b)) for a, b in zip(sound, spoilt) if b is not None])

    def _teach_probe(self) -> None:
        """Shows the probe the dev batches that the newest dev gradient came from."""
        if self.probe is None or self.objective.examined is None:
            return
        head, examined = self.objective.examined
        self.objective.examined = None
        sound, spoilt = (self.features(*seen) for seen in examined.values())
        self.probe.learn(head, sound, spoilt)

    def _dev_gradient(self, dev_batch: Any, step_vector: hypergradient.StepVector) -> DevGradient:
        dev = self.objective.dev_gradient(self.student, self.through, dev_batch, step_vector.inner_products)
        if dev is None:
            raise NoGradient(self.objective.failure)
        self.running.update_dev_loss(dev.value)
        return dev

    def _teacher_update(self, dev_batch: Callable[[], Any]) -> TeacherReport | None:
        try:
            found = self.gradients.find(dev_batch)
            report = None if found is None else self._learn_from(found)
        except NoGradient as failure:
            report = self._skip(str(failure))
        if self.gradients.mode == "ghost":
            try:
                self.gradients.look_ahead(dev_batch)
            except NoGradient as failure:
                self._skip(str(failure))
        return report

    def _take_scale(self, dev: DevGradient, step: StepRecord, vector: list[Tensor]) -> None:
        """A turn of the train scale, with v of the newest step."""
        kind = self.config.heads[dev.head]
        if self.train_scale is not None and self._on_train(kind):
            seed = self.config.seed + self.updates
            self.train_scale.take(dev.head, kind, self.student, self.through, vector, step.records, seed)

    def _learn_from(self, found: WeightGradient) -> TeacherReport:
        dev, steps = found.dev, found.steps
        if not all(torch.isfinite(g).all() for g in found.gradients):
            raise NoGradient(
                "influences of training pairs are not finite or did not fit into memory: give a smaller --max-tokens, "
                "or train in single precision"
            )
        self.skipped_in_a_row = 0
        # W_s dJ / dw_i is an example's own share, whatever the size of its batch
        shares = torch.cat([g * step.denominator for g, step in zip(found.gradients, steps)])
        gradient = torch.cat(found.gradients)
        if self.learner.exact:
            inputs = self._of_all_rows("standardized", self.teacher.width)  # where the weights were
            gradient_norm = self.learner.follow(dev.head, inputs, gradient.float())
        else:
            gradient_norm = self._learn(dev, self._of_all_rows("features", self.teacher.layout.width), shares.float())
        parts = [step.weights * c / step.denominator for c, step in zip(found.influences, steps)]
        return TeacherReport(
            self.config.heads[dev.head], dev.value, gradient_norm, torch.cat(found.influences), gradient,
            weights=torch.cat([step.weights for step in steps]), shares=torch.cat(parts), ids=self._ids(),
            scales=self._scales(),
        )  # fmt: skip

    def _scales(self) -> dict[str, float]:
        """As :attr:`TeacherReport.scales`."""
        if self.train_scale is None:
            return {}
        return {head: part for head, part in zip(self.config.heads, self.train_scale.parts) if self._on_train(head)}

    def _on_train(self, kind: str) -> bool:
        """Can training examples be spoilt in this way?"""
        return kind not in getattr(self.student, "dev_only", ())

    def _ids(self) -> Tensor | None:
        """Names of all workers' examples in the window, in the order of its rows."""
        if self.identify is None:
            return None
        none = torch.zeros(0, dtype=torch.int64, device=self.parameters[0].device)
        own = (torch.cat([none, *(self.identify(r.batch).to(none) for r in step.records)]) for step in self.gradients.window.steps)
        return torch.cat([self.workers.gather(ids) for ids in own])

    def _gathered(self, tensors: list[Tensor], *shape: int, dtype: torch.dtype = torch.float) -> Tensor:
        """Rows of all workers from this worker's micro-batches: ``[N, *shape]``."""
        return self.workers.rows(tensors, self.parameters[0].device, *shape, dtype=dtype)

    def _of_all_rows(self, name: str, width: int) -> Tensor:
        """``features`` or ``standardized`` of all workers' rows of the window ``[N, width]``."""
        steps = ([getattr(r, name) for r in step.records] for step in self.gradients.window.steps)
        return torch.cat([self._gathered(own, width) for own in steps])

    # ---- the teacher's step -------------------------------------------------

    def _learn(self, dev, rows: Tensor, shares: Tensor) -> float:
        """Trains the head of this turn; returns the mean norm of its gradient."""
        scale = self._influence_scale(dev, shares)
        if scale is None:  # nothing to compare with yet
            return 0.0
        return self.learner.learn(dev.head, rows, shares, scale, self.config.seed * 1_000_003 + self.updates)

    def _influence_scale(self, dev, shares) -> float | None:
        if self.config.prior_strength == 0:
            return 1.0
        if self.config.objective != "contrastive":
            return self.learner.deviation(dev.head, shares)
        scale = self.objective.scale(dev, self.mean_tokens)
        if scale is None or self.train_scale is None:
            return scale
        return self.train_scale(dev.head, scale, self.mean_tokens)

    # ---- checkpoints --------------------------------------------------------

    def state_dict(self) -> dict:
        """Tensors and plain Python only; equal on all workers."""
        return {
            "heads": list(self.config.heads),
            "teacher": self.teacher.state_dict(),
            **self.learner.state_dict(),
            "probe": None if self.probe is None else self.probe.state_dict(),
            "objective": self.objective.state_dict(),
            "train_scale": None if self.train_scale is None else self.train_scale.state_dict(),
            "history": None if self.history is None else self.history.state_dict(),
            "running": self.running.state_dict(),
            "mean_tokens": self.mean_tokens,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            **self.gradients.state_dict(),
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
            self.learner.load_state_dict(state)
            if self.probe is not None:
                self.probe.load_state_dict(state["probe"])
            if self.history is not None:
                self.history.load_state_dict(state["history"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise L2RWError(
                "the teacher in the checkpoint does not fit these options (--teacher-inputs, --teacher-states, --teacher-history, "
                "--teacher-interactions, --teacher-hidden-dim, --teacher-layers, --meta-objective, --meta-contrast); give those it was trained with"
            ) from error
        self.objective.load_state_dict(state["objective"], self.through)
        if self.train_scale is not None and state.get("train_scale"):  # older checkpoints lack it
            self.train_scale.load_state_dict(state["train_scale"])
        self.running.load_state_dict(state["running"])
        self.mean_tokens = state["mean_tokens"]
        self.gradients.load_state_dict(state)
        self.skipped, self.skipped_in_a_row = state["skipped"], state.get("skipped_in_a_row", 0)

    def load_statistics(self, state: dict) -> None:
        """Takes the running statistics alone, from the state of any reweighter of this student."""
        self.running.load_state_dict(state["running"])
        self.mean_tokens = state.get("mean_tokens")
        name = "standardizer."
        saved = {key[len(name) :]: value for key, value in state["teacher"].items() if key.startswith(name)}
        if saved and saved["mean"].shape == self.teacher.standardizer.mean.shape:
            self.teacher.standardizer.load_state_dict(saved)


def _check_half(config: MetaConfig) -> None:
    for option, value, needed in (
        ("--meta-window", config.window, 1),
        ("--meta-gradient", config.gradient, "forward"),
    ):
        if value != needed:
            raise L2RWError(
                f"{option} {value} needs single precision; leave out --fp16, --bf16 or --amp, or give {needed}"
            )
