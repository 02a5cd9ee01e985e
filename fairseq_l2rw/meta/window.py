"""The last K student steps, noted as they happen.

Memory: a step costs a copy of the parameters while it is in the window (none where the influence is read from the backward
pass and the optimizer's rule does not ask for them); with K > 1 also one of the gradients and of the optimizer's state tensors
(for Adam four times the parameters in all), and its micro-batches. All is freed when a step leaves.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta.functional import RandomState
from fairseq_l2rw.meta.masters import Master
from fairseq_l2rw.meta.records import BatchRecord, StepRecord
from fairseq_l2rw.meta.workers import Workers


class Window:
    """Step records of the last ``length`` steps.

    Args:
        length: K.
        rule: of the student's optimizer.
        optimizer: the student's.
        parameters: theta, in the order of every list.
        keep_earlier: note the state before each step too (``unrolled`` needs it).
        through: how many of the parameters, the first ones, the hypergradient goes through; None: all.
        masters: what the optimizer steps for each parameter; the parameters themselves unless told otherwise.
        workers: whose batches are saved together.

    Attributes:
        copies: are all parameters copied, for a pass that repeats the step? Else those alone that the rule reads; the others
            are the live ones.
    """

    def __init__(
        self,
        length: int,
        rule,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        keep_earlier: bool,
        through: int | None = None,
        masters: list[Master] | None = None,
        workers: Workers | None = None,
    ):
        self.length, self.rule, self.optimizer = length, rule, optimizer
        self.masters = masters or [Master(p, p) for p in parameters]
        self.through = self.masters[:through]
        self.keep_earlier, self.copies, self.workers = keep_earlier, True, workers or Workers()
        self.steps: list[StepRecord] = []
        # the batches of all workers, for a checkpoint within a window: the hook that saves may not ask the others
        self._everyones: list[list[dict]] = []
        self._before: dict | None = None

    def before_step(self, raw_norm: float | None, max_norm: float) -> None:
        """Notes what the optimizer's step will overwrite."""
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        states = [self._state_of(m.stepped) for m in self.through]
        earlier = self._carried() if self.keep_earlier else [{} for _ in self.through]
        hyper = [
            self.rule.hyper(groups[id(m.stepped)], state) if m.stepped.grad is not None else {}
            for m, state in zip(self.through, states)
        ]
        read = [self.copies or bool(h) and self.rule.reads_parameters(h) for h in hyper]
        read += [self.copies] * (len(self.masters) - len(read))
        self._before = {
            "parameters": [theta.clone() if copy else theta for theta, copy in zip(self._theta(), read)],
            "hyper": hyper,
            "earlier": [{name: tensor.clone() for name, tensor in state.items()} for state in earlier],
            "raw_norm": raw_norm,
            "max_norm": max_norm,
        }

    def after_step(self, records: list[BatchRecord]) -> None:
        """Takes the step in, and drops the oldest where there are more than K."""
        if self._before is None:
            return
        # the newest step of a longer window outlives the optimizer's next step, which works in place
        keep = (lambda t: t.detach().clone()) if self.length > 1 else (lambda t: t.detach())
        gradients = [None if m.stepped.grad is None else keep(m.part(m.stepped.grad)) for m in self.through]
        states = [
            {} if m.stepped.grad is None else {name: keep(tensor) for name, tensor in state.items()}
            for m, state in zip(self.through, self._carried())
        ]
        self.steps.append(StepRecord(**self._before, gradients=gradients, states=states, records=records))
        if self.length > 1:
            self._everyones.append(self.workers.gather_list([_plain(r) for r in records]))
        del self.steps[: -self.length], self._everyones[: -self.length]
        self._before = None

    def _state_of(self, stepped) -> dict:
        return self.optimizer.state[stepped] if stepped in self.optimizer.state else {}

    def _theta(self) -> list[Tensor]:
        return [m.part(m.stepped.detach()) for m in self.masters]

    def _carried(self) -> list[dict[str, Tensor]]:
        """The state tensors of each parameter."""
        # a flat master serves many parameters: its zeros are made once
        of = {id(m.stepped): m.stepped for m in self.through}
        states = {key: self.rule.state(self._state_of(p), p.detach()) for key, p in of.items()}
        return [{name: m.part(t) for name, t in states[id(m.stepped)].items()} for m in self.through]

    def drop_unfinished(self) -> None:
        """Forgets a step that was begun and never made."""
        self._before = None

    def clear(self) -> None:
        self.steps, self._everyones, self._before = [], [], None

    def state_dict(self) -> list[dict]:
        """The steps as tensors and plain Python, with the batches of all workers."""
        return [
            {**{k: v for k, v in vars(step).items() if k != "records"}, "records": records}
            for step, records in zip(self.steps, self._everyones)
        ]

    def load_state_dict(self, steps: list[dict]) -> None:
        """Takes steps back; batches go to the workers in turn: to their sum it makes no difference who has which."""
        device = self.masters[0].stepped.device
        steps = [_moved(step, device) for step in steps]
        self._everyones = [step["records"] for step in steps]
        self.steps = [
            StepRecord(
                **{k: v for k, v in step.items() if k != "records"},
                records=[
                    BatchRecord(**{**r, "random_state": RandomState(**r["random_state"])})
                    for r in step["records"][self.workers.rank :: self.workers.count]
                ],
            )
            for step in steps
        ]


def _plain(record: BatchRecord) -> dict:
    return {**vars(record), "random_state": asdict(record.random_state)}


def _moved(value: Any, device: torch.device) -> Any:
    """Its tensors on ``device``; states of random generators stay on the CPU, where torch wants them."""
    if isinstance(value, dict):
        return {k: v if k == "random_state" else _moved(v, device) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(v, device) for v in value)
    return value.to(device) if isinstance(value, Tensor) else value
