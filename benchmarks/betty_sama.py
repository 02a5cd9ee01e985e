"""SAMA by Betty's own code, from a checkout of github.com/leopard-ai/betty (``benchmarks.versus --betty DIR``).

Its package refuses Python 3.11 at installation and wants a whole training in its own engine; but its update is one function of two
"problems", which runs as it is. :class:`Problem` is what that function asks of the lower problem, the student.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError


class Problem:
    """A student as Betty's ``sama`` sees it.

    Args:
        parameters: theta'.
        optimizer: that has just stepped, gradients still in place.
        base_loss: L at the parameters as they are, attached to the teacher.
        alpha: length of the difference.
    """

    cur_batch = None

    def __init__(
        self, parameters: list[Tensor], optimizer: torch.optim.Optimizer, base_loss: Callable[[], Tensor], alpha: float
    ):
        self.parameters, self.optimizer, self.base_loss = parameters, optimizer, base_loss
        self.config = SimpleNamespace(sama_adam_alpha=alpha, sama_multitask=False)
        self._groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}

    def meta_trainable_parameters(self) -> list[Tensor]:
        return self.parameters

    def training_step_exec(self, batch: Any) -> Tensor:
        return self.base_loss()

    def get_opt_param_group_for_param(self, param: Tensor) -> dict:
        return self._groups[id(param)]

    def get_opt_state_for_param(self, param: Tensor) -> dict:
        return {**self.optimizer.state[param], "last_grad": param.grad}  # Betty's engine keeps it there


def load(folder: str) -> Callable:
    """Betty's ``sama``, from its source.

    Raises:
        L2RWError: the folder holds no such thing.
    """
    if not (Path(folder) / "betty" / "hypergradient" / "sama.py").is_file():
        raise L2RWError(f"--betty {folder}: no betty/hypergradient/sama.py there; give a checkout of leopard-ai/betty")
    sys.path.append(folder)
    return importlib.import_module("betty.hypergradient.sama").sama


def teacher_gradient(sama: Callable, problem: Problem, dev_gradient: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
    """dJ / d omega by Betty's code; arguments as :func:`benchmarks.sama.teacher_gradient`."""
    upper = SimpleNamespace(trainable_parameters=lambda: teacher)
    return list(sama(dev_gradient, problem, upper, False))
