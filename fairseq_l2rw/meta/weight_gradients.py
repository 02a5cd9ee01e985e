"""How dJ / dw of the weights of a window of student updates is had, by each ``--meta-gradient``.

``backward`` and ``ghost`` read c_i in the backward pass that the student makes anyway, ``forward`` and ``finite-difference`` make
another pass, ``unrolled`` differentiates the window's steps; the equations are in :mod:`fairseq_l2rw.meta.hypergradient`. Where the
student does not allow one of them, another takes its place from then on.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Callable, Iterable

import torch
from torch import Tensor, nn

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import clipping, hypergradient, influence, unrolled
from fairseq_l2rw.meta.config import MetaConfig
from fairseq_l2rw.meta.ghost_reader import GhostReader
from fairseq_l2rw.meta.linearize import StepRule, rule_for
from fairseq_l2rw.meta.masters import Master
from fairseq_l2rw.meta.objective import DevGradient
from fairseq_l2rw.meta.records import StepRecord
from fairseq_l2rw.meta.repeated_pass import RepeatedPass
from fairseq_l2rw.meta.student import Student
from fairseq_l2rw.meta.window import Window
from fairseq_l2rw.meta.workers import Workers

logger = logging.getLogger(__name__)

NOTHING_SEEN = "no sentence pair was seen in the update"


class NoGradient(Exception):
    """This time there is none; the message says why."""


@dataclass(frozen=True)
class Rows:
    """Rows of one student step, of all workers: w_i, m_i, and W."""

    weights: Tensor
    sizes: Tensor
    denominator: Tensor


@dataclass(frozen=True)
class WeightGradient:
    """J, and of each step of the window, in its order: its rows, c_i ``[N]`` and dJ / dw_i ``[N]``, nats, detached."""

    dev: DevGradient
    steps: list[Rows]
    influences: list[Tensor]
    gradients: list[Tensor]


@dataclass(frozen=True)
class Ahead:
    """What ``ghost`` reads at the next teacher update: J, without its adjoint where it won't be needed again, and v.

    ``turns``: the teacher updates that J has served with that one.
    """

    dev: DevGradient
    vector: list[Tensor]
    turns: int


class WeightGradients:
    """Follows the student's steps, and gives dJ / dw of those of a window.

    Args:
        student: the model that is trained.
        config: settings.
        names, parameters: all that are trained; those that the hypergradient goes through come first.
        count: how many these are.
        workers: the data-parallel workers.
        half: activations are in half precision (16 bits).
        dev_gradient: (dev batch, step vector) -> J and its gradient; raises :class:`NoGradient` where there is none.
        directed: told of each J, with the newest step of the window and its v.

    Attributes:
        through: the parameters that the hypergradient goes through.
        ahead: ``ghost``'s direction; None before the first teacher update.
    """

    def __init__(
        self,
        student: Student,
        config: MetaConfig,
        names: list[str],
        parameters: list[nn.Parameter],
        count: int,
        workers: Workers,
        half: bool,
        dev_gradient: Callable[[Any, hypergradient.StepVector], DevGradient],
        directed: Callable[[DevGradient, StepRecord, list[Tensor]], None],
    ):
        self.student, self.config, self.workers = student, config, workers
        self.parameters, self.through = parameters, parameters[:count]
        self.dev_gradient, self.directed = dev_gradient, directed
        dtype = torch.bfloat16 if config.precision == "bfloat16" else None
        self.reader = GhostReader(names[:count], self.through, dtype, workers)
        self.repeated = RepeatedPass(student, parameters, half=half)
        self.mode = config.gradient
        self.rule: StepRule | None = None
        self.window: Window | None = None
        self._saved_window: list[dict] = []
        self.ahead: Ahead | None = None

    def attach(self, optimizer: torch.optim.Optimizer, masters: list[Master] | None) -> None:
        """As :meth:`MetaTrainer.attach`."""
        self.rule = rule_for(optimizer)
        unrolled_too = self.config.gradient == "unrolled"
        self.window = Window(
            self.config.window, self.rule, optimizer, self.parameters, unrolled_too, len(self.through), masters, self.workers
        )
        self._fill_window()

    def _fill_window(self) -> None:
        if self.window is not None:
            self.window.copies = self.mode != "ghost"
            self.window.load_state_dict(self._saved_window)

    @property
    def mode(self) -> str:
        """How it is had by now: ``config.gradient``, or what took its place."""
        return self._instead or self.repeated.mode

    @mode.setter
    def mode(self, mode: str) -> None:
        self._instead = None if mode in influence.MODES else mode
        if self._instead is None:
            self.repeated.mode = mode

    # ---- during the student's update ----------------------------------------

    def begin(self) -> None:
        """Nothing is read of the student's update yet."""
        self.reader.begin()

    def drop_unfinished(self) -> None:
        """The gradients of the student's update are lost."""
        if self.window is not None:
            self.window.drop_unfinished()

    @property
    def reads(self) -> bool:
        """Is c_i read from the student's own backward pass?"""
        return self.mode == "backward" or self.mode == "ghost" and self.ahead is not None

    def watched(self):
        """A context for the forward pass of a micro-batch of the last step before a teacher update."""
        if not self.reads:
            return nullcontext()
        return self.reader.watch(None if self.mode == "backward" else self.ahead.vector)

    def attach_losses(self, losses: Tensor) -> None:
        """The losses ``[N]``, attached, that the watched forward pass has ended in.

        Raises:
            L2RWError: it was not watched, and had to be.
        """
        if self.reads and not self.reader.attach(losses):
            raise L2RWError(f"--meta-gradient {self.mode}: run the student's forward pass inside `with meta.watched():`")

    # ---- after it -----------------------------------------------------------

    def find(self, dev_batch: Callable[[], Any]) -> WeightGradient | None:
        """dJ / dw of the window's steps; None where ``ghost`` has not looked ahead yet.

        Args:
            dev_batch: gives the next dev batch; not called by ``ghost``.

        Raises:
            NoGradient: there is none this time.
        """
        if self.mode == "ghost":
            return None if self.ahead is None else self._read_ahead(self.ahead)
        step_vector = hypergradient.StepVector(self.rule, self.window.steps[-1])
        dev = self.dev_gradient(dev_batch(), step_vector)
        steps = [self._rows_of(step) for step in self.window.steps]
        if not any(len(step.weights) for step in steps):
            raise NoGradient(NOTHING_SEEN)
        if self.mode == "unrolled":
            gradients = unrolled.weight_gradients(
                self.student, self.rule, self.parameters, self.window.steps, dev.adjoint, self.config.normalization
            )
            influences = [g * step.denominator for g, step in zip(gradients, steps)]
        else:
            influences = self._influences(dev, step_vector, steps)
            gradients = [self._gradient(c, step) for c, step in zip(influences, steps)]
        return WeightGradient(dev, steps, influences, gradients)

    def _gradient(self, c: Tensor, rows: Rows) -> Tensor:
        return hypergradient.weight_gradient(c, rows.weights, rows.sizes, self.config.normalization)

    def look_ahead(self, dev_batch: Callable[[], Any]) -> None:
        """``ghost``: v for the next teacher update, from a new dev gradient, or the last one where it serves several updates; the
        optimizer as the step just made has left it.

        Raises:
            NoGradient: there is no dev gradient this time.
        """
        last, self.ahead = self.ahead, None
        step_vector = hypergradient.StepVector(self.rule, self.window.steps[-1], ahead=True)
        if last is not None and last.turns < self.config.dev_interval:
            dev, turns = last.dev, last.turns + 1
        else:
            dev, turns = self.dev_gradient(dev_batch(), step_vector), 1
        vector = step_vector(dev.adjoint, use_up=turns >= self.config.dev_interval)
        self.ahead = Ahead(dev, vector, turns)

    def _read_ahead(self, ahead: Ahead) -> WeightGradient:
        step = self.window.steps[-1]
        rows = self._rows_of(step)
        if not len(rows.weights):
            raise NoGradient(NOTHING_SEEN)
        c = self._read(ahead.vector, rows)
        if c is None:
            raise NoGradient("--meta-gradient ghost gave way to forward")
        self.directed(ahead.dev, step, ahead.vector)
        f = 1.0 if step.raw_norm is None else clipping.factor(step.raw_norm, step.max_norm)
        if f < 1:
            c = hypergradient.without_common(c, rows.weights, rows.sizes)
        return WeightGradient(ahead.dev, [rows], [c], [self._gradient(c, rows)])

    def _read(self, vector: list[Tensor], rows: Rows) -> Tensor | None:
        """c_i of all workers' rows from the student's own backward pass; None where it cannot be read, now and from then on."""
        c = self.reader.read(self.window.steps[-1], vector, rows.weights, rows.denominator)
        if c is not None:
            self.window.copies = False  # no other pass is to be expected
            return c
        problems = self.reader.problems
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        logger.warning(
            "--meta-gradient %s does not cover %s%s: --meta-gradient forward takes its place",
            self.mode, "; ".join(problems[:3]) or "a use of parameters on another worker", more,
        )  # fmt: skip
        self.mode, self.ahead, self.window.copies = "forward", None, True
        return None

    def _influences(self, dev: DevGradient, step_vector: hypergradient.StepVector, rows: list[Rows]) -> list[Tensor]:
        """c_i of all workers' rows, one ``[N]`` for each step of the window, in its order; may use the adjoint up.

        Raises:
            NoGradient: the backward pass cannot be read, and the parameters of the step, for another pass, were not copied.
        """
        steps = self.window.steps
        vectors: Iterable[tuple[StepRecord, list[Tensor]]]
        if len(steps) == 1:
            vector = step_vector(dev.adjoint, use_up=True)  # as large as the student, and the next pass needs room
            vectors, copied = [(steps[0], vector)], self.window.copies
            c = self._read(vector, rows[0]) if self.mode == "backward" else None
            if c is not None:
                self.directed(dev, steps[0], vector)
                return [c]
            if not copied:
                raise NoGradient("--meta-gradient backward gave way to forward")
        else:
            denominators = {id(step): of.denominator for step, of in zip(steps, rows)}
            curvature = lambda step, vector: self._curvature(step, vector, denominators[id(step)])  # noqa: E731
            vectors = hypergradient.sweep(self.rule, steps, dev.adjoint, curvature)
        out: list[Tensor] = []
        for step, v in vectors:
            if not out:  # the newest step comes first
                self.directed(dev, step, v)
            out.append(self._gathered([self.repeated.influence(step.parameters, v, record) for record in step.records]))
        return out[::-1]

    def _curvature(self, step: StepRecord, vector: list[Tensor], denominator: Tensor) -> list[Tensor]:
        total = [torch.zeros_like(p) for p in self.through]
        for record in step.records:
            torch._foreach_add_(total, self.repeated.curvature(step.parameters, vector, record, denominator))
        return self.workers.add_up(total)

    def _rows_of(self, step: StepRecord) -> Rows:
        weights = self._gathered([r.weights for r in step.records])
        sizes = self._gathered([r.sizes for r in step.records])
        return Rows(weights, sizes, hypergradient.denominator(weights, sizes, self.config.normalization))

    def _gathered(self, tensors: list[Tensor]) -> Tensor:
        return self.workers.rows(tensors, self.parameters[0].device)

    # ---- checkpoints --------------------------------------------------------

    def state_dict(self) -> dict:
        """Tensors and plain Python only; equal on all workers."""
        return {
            "gradient": self.config.gradient,
            "gradient_mode": self.mode,
            "ahead": self.ahead and {**vars(self.ahead), "dev": vars(self.ahead.dev)},
            "window": self.window.state_dict() if self.window is not None else self._saved_window,
        }

    def load_state_dict(self, state: dict) -> None:
        if state.get("gradient", "forward") == self.config.gradient:  # else another one was asked for since
            self.mode = state["gradient_mode"]
        ahead = state.get("ahead")
        if self.mode == "ghost" and ahead:
            vector = [v.to(p, copy=True) for v, p in zip(ahead["vector"], self.through, strict=True)]
            adjoint = [a.to(p, copy=True) for a, p in zip(ahead["dev"]["adjoint"], self.through)]
            dev = DevGradient(**{**ahead["dev"], "adjoint": adjoint})
            # one that an earlier option left without its adjoint serves no further update
            self.ahead = Ahead(dev, vector, ahead["turns"] if adjoint else self.config.dev_interval)
        self._saved_window = state["window"]
        self._fill_window()
