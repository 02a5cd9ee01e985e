"""The last K student steps, noted as they happen.

Memory: a step costs a copy of the parameters while it is in the window; with K > 1 also one of the gradients and of the
optimizer's state tensors (for Adam four times the parameters in all), and its micro-batches. All is freed when a step leaves.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import nn

from fairseq_l2rw.meta.functional import RandomState
from fairseq_l2rw.meta.records import BatchRecord, StepRecord


class Window:
    """Step records of the last ``length`` steps.

    Args:
        length: K.
        rule: of the student's optimizer.
        optimizer: the student's.
        parameters: theta, in the order of every list.
        keep_earlier: note the state before each step too (``unrolled`` needs it).
        through: how many of the parameters, the first ones, the hypergradient goes through; None: all.

    Attributes:
        copies: are the parameters copied? ``ghost`` needs theta only where a decay is part of the gradient, and takes the
            live ones for it.
    """

    def __init__(
        self,
        length: int,
        rule,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        keep_earlier: bool,
        through: int | None = None,
    ):
        self.length, self.rule, self.optimizer, self.parameters = length, rule, optimizer, parameters
        self.through = parameters[:through]
        self.keep_earlier, self.copies = keep_earlier, True
        self.steps: list[StepRecord] = []
        self._before: dict | None = None

    def before_step(self, raw_norm: float | None, max_norm: float) -> None:
        """Notes what the optimizer's step will overwrite."""
        groups = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
        states = [self.optimizer.state[p] if p in self.optimizer.state else {} for p in self.through]
        self._before = {
            "parameters": [p.detach().clone() if self.copies else p.detach() for p in self.parameters],
            "hyper": [
                self.rule.hyper(groups[id(p)], state) if p.grad is not None else {}
                for p, state in zip(self.through, states)
            ],
            "earlier": [
                {n: t.clone() for n, t in self.rule.state(state, p.detach()).items()} if self.keep_earlier else {}
                for p, state in zip(self.through, states)
            ],
            "raw_norm": raw_norm,
            "max_norm": max_norm,
        }

    def after_step(self, records: list[BatchRecord]) -> None:
        """Takes the step in, and drops the oldest where there are more than K."""
        if self._before is None:
            return
        # the newest step of a longer window outlives the optimizer's next step, which works in place
        keep = (lambda t: t.detach().clone()) if self.length > 1 else (lambda t: t.detach())
        gradients = [None if p.grad is None else keep(p.grad) for p in self.through]
        states = [
            {} if p.grad is None else {n: keep(t) for n, t in self.rule.state(self.optimizer.state[p], p).items()}
            for p in self.through
        ]
        self.steps.append(StepRecord(**self._before, gradients=gradients, states=states, records=records))
        del self.steps[: -self.length]
        self._before = None

    def drop_unfinished(self) -> None:
        """Forgets a step that was begun and never made."""
        self._before = None

    def clear(self) -> None:
        self.steps, self._before = [], None

    def state_dict(self) -> list[dict]:
        """The steps as tensors and plain Python."""
        return [
            {
                **{k: v for k, v in vars(step).items() if k != "records"},
                "records": [{**vars(r), "random_state": asdict(r.random_state)} for r in step.records],
            }
            for step in self.steps
        ]

    def load_state_dict(self, steps: list[dict]) -> None:
        self.steps = [
            StepRecord(
                **{k: v for k, v in step.items() if k != "records"},
                records=[BatchRecord(**{**r, "random_state": RandomState(**r["random_state"])}) for r in step["records"]],
            )
            for step in steps
        ]
