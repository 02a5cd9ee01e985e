"""What weighs the images of a run, behind one interface: nothing, our core, or Meta-Weight-Net as published.

Around each student update, in this order: ``begin``, ``weigh``, the backward pass, ``before_step``, the optimizer's
step, ``after_step``.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import (
    FeatureLayout,
    MetaConfig,
    MetaTrainer,
    RandomState,
    RuleTrainer,
    reweighters,
)
from fairseq_l2rw.meta.config import parse_contrast
from fairseq_l2rw.meta.workers import workers as all_workers
from fairseq_l2rw.vision import workers
from fairseq_l2rw.vision.average import averaged
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.discriminant import Discriminant
from fairseq_l2rw.vision.meta_weight_net import MetaWeightNet
from fairseq_l2rw.vision.student import KINDS, Batch, ImageStudent


class Method:
    """Every weight is 1; the methods replace what they need."""

    def begin(self, updates: int, batch: Batch, meta: Callable[[], Batch], lr: float) -> None:
        """Before the student's forward pass.

        Args:
            updates: done so far.
            batch: of the update that begins.
            meta: gives this update's meta batch.
            lr: the student's learning rate.
        """

    def weigh(self, batch: Batch, losses: Tensor, features: Tensor, state: RandomState) -> Tensor:
        """w_i ``[N]``, detached; ``state`` is the generator's before the forward pass."""
        return torch.ones_like(losses.detach())

    def judge(self, updates: int, batch: Batch) -> Tensor:
        """w_i ``[N]``, detached, of images that are not trained on now, with ``updates`` done; only where ``--skip-below`` serves."""
        raise NotImplementedError

    def before_step(self, raw_norm: float | None, max_norm: float) -> None:
        """Gradients are clipped, the optimizer has not stepped."""

    def after_step(self, meta: Callable[[], Batch]) -> dict:
        """The optimizer has stepped; returns figures to log."""
        return {}

    @property
    def skipped(self) -> int | None:
        """Teacher updates that came to nothing so far; None where no teacher learns."""
        return None

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class Uniform(Method):
    """Plain training."""


class Published(Method):
    """Meta-Weight-Net, see :mod:`fairseq_l2rw.vision.meta_weight_net`."""

    def __init__(self, student: ImageStudent, config: VisionConfig):
        self.net = MetaWeightNet(student)
        self.meta_loss = 0.0

    def begin(self, updates, batch, meta, lr):
        self.meta_loss = self.net.update(batch, meta(), lr)

    def weigh(self, batch, losses, features, state):
        return self.net.weights(losses).detach()

    def after_step(self, meta):
        return {"meta_loss": self.meta_loss}

    def state_dict(self):
        return self.net.state_dict()

    def load_state_dict(self, state):
        self.net.load_state_dict(state)


class Core(Method):
    """A reweighter of the core: a network that learns, or a rule."""

    def __init__(self, student: ImageStudent, config: VisionConfig, optimizer, max_update: int):
        settings = MetaConfig(
            objective=config.meta_objective,
            contrast=parse_contrast(config.meta_contrast, KINDS) if config.meta_objective == "contrastive" else {},
            states=config.teacher_states,
            history=config.teacher_history,
            momentum=config.meta_momentum,
            params=config.meta_params,
            scale=config.meta_scale,
            influence_normalization=config.influence_normalization,
            normalization=config.weight_normalization,
            gradient=config.meta_gradient,
            interval=config.meta_interval,
            window=config.meta_window,
            start=config.meta_start,
            replay=config.teacher_replay,
            replay_rows=config.teacher_replay_rows,
            prior=config.teacher_prior,
            prior_strength=config.teacher_prior_strength,
            lr=config.teacher_lr,
            weight_decay=config.teacher_weight_decay,
            g_lr_factor=config.teacher_g_lr_factor,
            g_weight_decay=config.teacher_g_weight_decay,
            max_update=max_update,
            seed=config.seed,
        )
        self.student = student
        self.is_rule = reweighters.rule_class(config.teacher) is not None
        inputs = reweighters.parse_inputs(config.teacher_inputs)
        if config.teacher_discriminant and config.teacher == "deep" and "internal" in inputs:
            head = student.module.head
            student.discriminant = Discriminant(head.in_features, head.out_features, config.teacher_discriminant, head.weight.device)
        layout = FeatureLayout(student.widths)
        self.core: MetaTrainer | RuleTrainer
        if self.is_rule:
            self.core = RuleTrainer(student, layout, settings, config.teacher, all_workers())
            return
        self.core = MetaTrainer(
            student,
            layout,
            settings,
            config.teacher,
            inputs,
            config.teacher_hidden_dim,
            all_workers(),
            number=lambda batch: batch.index,
        )
        if config.student_average and self.core.teacher.see_internal:
            student.average = averaged(student.module, config.student_average)
        self.core.attach(optimizer)

    def begin(self, updates, batch, meta, lr):
        if self.is_rule:
            self.core.begin_update(updates, meta)
        else:
            self.core.begin_update(updates)

    def weigh(self, batch, losses, features, state):
        ones = torch.ones_like(losses.detach())
        rows, weights = self.core.weigh(losses, ones, ones, self.student.states(batch, features), batch, state)
        self.core.record(batch, rows, weights, losses, ones, ones, state)
        return weights

    def judge(self, updates, batch):
        assert isinstance(self.core, MetaTrainer)
        losses, features = self.student.outputs(batch, self.student.module)
        ones = torch.ones_like(losses)
        return self.core.judge(updates, losses, ones, ones, self.student.states(batch, features), batch)

    def before_step(self, raw_norm, max_norm):
        self.core.before_step(raw_norm, max_norm)

    def after_step(self, meta):
        self.student.stepped()
        discriminant = self.student.discriminant
        if discriminant is not None and self.core.due and not discriminant.known:
            for _ in range(round(1 / (1 - discriminant.decay))):  # as many as it remembers
                self.core.objective.dev_pass.look(self.student, meta())
                self.student.learn_trusted()
        report = self.core.after_step(meta)
        self.student.learn_trusted()
        if report is None or report.meta_loss is None:
            return {}
        scales = {f"scale_{kind}": scale for kind, scale in report.scales.items()}
        return {"meta_loss": report.meta_loss, "teacher_gnorm": report.gradient_norm, **scales}

    @property
    def skipped(self):
        return self.core.skipped

    def state_dict(self):
        return {**self.core.state_dict(), **{name: part.state_dict() for name, part in self._parts().items()}}

    def load_state_dict(self, state):
        self.core.load_state_dict(state)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict:
        """What shows the teacher more of the student, as far as it is there."""
        parts = {"average": self.student.average, "discriminant": self.student.discriminant}
        return {name: part for name, part in parts.items() if part is not None}


#: methods that are not reweighters of the core
OWN = ("uniform", "finetuned", "mwn")


def check(teacher: str) -> None:
    """Raises L2RWError where ``--teacher`` names nothing."""
    if teacher not in OWN and teacher not in reweighters.names():
        raise L2RWError(f"--teacher {teacher}: unknown teacher; choose one of {', '.join(sorted({*OWN, *reweighters.names()}))}")
    if teacher == "mwn" and workers.count() > 1:
        raise L2RWError("--teacher mwn, as published, is for one worker; start one, or choose --teacher loss")


def build(student: ImageStudent, config: VisionConfig, optimizer: torch.optim.Optimizer, max_update: int) -> Method:
    """The method that ``--teacher`` names.

    Raises:
        L2RWError: there is none of that name, or not for several workers.
    """
    check(config.teacher)
    if config.teacher == "mwn":
        return Published(student, config)
    if config.teacher in ("uniform", "finetuned"):
        return Uniform()
    return Core(student, config, optimizer, max_update)
