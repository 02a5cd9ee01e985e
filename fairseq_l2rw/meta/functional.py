"""Running a module at other parameters, in another mode, with another random state.

``torch.func.functional_call`` is not used: with tied embeddings it swaps the shared
parameter twice and restores it once, which gives wrong tangents and leaves the module broken.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, each once, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


@contextmanager
def swapped(module: nn.Module, parameters: list[nn.Parameter], values: list[Tensor]):
    """Lets ``module`` run with ``values`` (plain, dual or graph-carrying tensors) for ``parameters``.

    Every slot that holds a parameter is replaced once and put back once, however often the parameter is shared. Values
    take the parameter's precision: those of master copies are rounded, as mixed precision does it. Running statistics stay
    as they are: they belong to the module's own parameters.
    """
    replacement = {id(p): v.to(p.dtype) for p, v in zip(parameters, values)}
    slots, flat = [], []
    for child in module.modules():
        changed = False
        for name, p in child._parameters.items():
            if p is not None and id(p) in replacement:
                slots.append((child, name, p))
                changed = True
        # recurrent layers keep a second list of their weights
        if changed and isinstance(child, nn.RNNBase):
            flat.append((child, child._flat_weights))
    try:
        for child, name, p in slots:
            child._parameters[name] = replacement[id(p)]  # type: ignore[assignment]  # a dual or plain tensor is what is wanted here
        for child, _ in flat:
            child._flat_weights = [getattr(child, n) for n in child._flat_weights_names]
        with untracked(module):
            yield
    finally:
        for child, name, p in slots:
            child._parameters[name] = p
        for child, weights in flat:
            child._flat_weights = weights


def evaluating(module: nn.Module):
    """Evaluation mode (no dropout), each sub-module put back as it was."""
    return in_mode(module, training=False)


@contextmanager
def in_mode(module: nn.Module, training: bool):
    """Training or evaluation mode, each sub-module put back as it was."""
    modes = [(m, m.training) for m in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


@contextmanager
def untracked(module: nn.Module):
    """Lets BatchNorm in training mode use the batch's statistics without updating the running ones; others as they are."""
    tracking: list[Any] = [m for m in module.modules() if getattr(m, "track_running_stats", False) and m.training]
    for m in tracking:
        m.track_running_stats = False
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True


@dataclass(frozen=True)
class RandomState:
    """State of torch's global generators: of the CPU, and of the current GPU if one is in use."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def capture(cls) -> RandomState:
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return cls(torch.get_rng_state(), cuda)

    def apply(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)

    @contextmanager
    def replayed(self):
        """Draws inside are those that followed :meth:`capture`; the outer stream is not disturbed."""
        outer = RandomState.capture()
        self.apply()
        try:
            yield
        finally:
            outer.apply()


@contextmanager
def own_random_stream(seed: int):
    """Seeds the global generator inside, and leaves it outside as if nothing had been drawn."""
    outer = RandomState.capture()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        outer.apply()
