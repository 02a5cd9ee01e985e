"""Rules that differentiate one optimizer step, looked up by the optimizer's CLASS.

A rule describes the step of ONE parameter as a pure function and its adjoint. ``z`` is what the optimizer carries on: the
parameter theta and a dict of state tensors (momentum buffer, moments); ``g`` is the gradient it was given, after clipping;
``h`` is what :meth:`hyper` noted before the step::

    (theta', state') = step(h, theta, state, g)
    (adj_g, adj_theta, adj_state) = reverse(h, theta, state', g, adj_theta', adj_state')

``adj_state`` maps a name of :attr:`STATE` to a tensor; a name that is missing is zero. Which of the two is used:
``reverse`` by the reverse sweep, ``step`` by ``--meta-gradient unrolled``, the slow oracle.

To add an optimizer (``tests/meta/test_recipe.py`` follows this, for RMSprop):

1. Write down its step as equations: which tensors does it carry on (:attr:`StepRule.STATE`, the names in the optimizer's own
   state), which numbers does it depend on (:meth:`StepRule.hyper`)?
2. Write a class like the ones in ``sgd.py``: ``step`` from the equations, ``reverse`` by the chain rule, ``check`` for options
   that it leaves out. Decorate it with ``@register(OptimizerClass)``; of that class alone, for a subclass may step otherwise.
3. Add the optimizer to ``tests/meta/optimizers.py``: the suite compares ``step`` with the optimizer itself, ``reverse`` with
   autograd through ``step``, and whole updates, windows of 1 to 4 steps, clipping on and off, with ``unrolled``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from fairseq_l2rw.errors import L2RWError

_RULES: dict[type, "StepRule"] = {}


class StepRule:
    """Base of all rules; see the module for the symbols."""

    #: names of the state tensors that are carried from step to step
    STATE: tuple[str, ...] = ()

    def check(self, optimizer: Optimizer) -> None:
        """Raises L2RWError where an option of the optimizer has no rule."""

    def hyper(self, group: dict, state: dict) -> dict:
        """Numbers that the step depends on, noted BEFORE it, as plain Python.

        Args:
            group: the parameter's group.
            state: the optimizer's state of the parameter, empty before its first step.
        """
        raise NotImplementedError

    def state(self, state: dict, like: Tensor) -> dict[str, Tensor]:
        """The carried tensors out of the optimizer's state; zeros where there are none yet."""
        return {name: state[name] if state.get(name) is not None else like.new_zeros(like.shape) for name in self.STATE}

    def expected(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What to take for the state after a step that is yet to come: what it is now, unless the rule knows better."""
        return state

    def step(self, h: dict, theta: Tensor, state: dict[str, Tensor], g: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The step as a differentiable function."""
        raise NotImplementedError

    def reverse(
        self, h: dict, theta: Tensor, state: dict[str, Tensor], g: Tensor, adj_theta: Tensor, adj_state: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Adjoints before the step from those after it; ``state`` is the state AFTER the step.

        Entry by entry, and linear in the adjoints: :class:`~fairseq_l2rw.meta.hypergradient.StepVector` rests on that. The
        first is a new tensor.
        """
        raise NotImplementedError

    def diagonal(self, h: dict, theta: Tensor, state: dict[str, Tensor], g: Tensor) -> Tensor:
        """What :meth:`reverse` gives first for an adj_theta' of ones and no other adjoint, in a new tensor.

        Asked for more often than all else; a rule may know a shorter way.
        """
        return self.reverse(h, theta, state, g, torch.ones_like(g), {})[0]

    def reads_parameters(self, h: dict) -> bool:
        """Does :meth:`reverse` depend on theta? Where it does not, theta need not be copied."""
        return True


def register(*classes: type):
    """Class decorator: one instance of the rule serves these optimizer classes."""

    def add(rule_class):
        for cls in classes:
            _RULES[cls] = rule_class()
        return rule_class

    return add


def rule_for(optimizer: Optimizer) -> StepRule:
    """The rule of exactly this class.

    Raises:
        L2RWError: there is none; a subclass may step in another way, so it does not inherit one.
    """
    rule = _RULES.get(type(optimizer))
    if rule is None:
        known = ", ".join(sorted(f"{c.__module__}.{c.__name__}" for c in _RULES))
        raise L2RWError(
            f"--optimizer: no linearisation rule for {type(optimizer).__module__}.{type(optimizer).__name__}; "
            f"use one of {known}, or --teacher uniform"
        )
    rule.check(optimizer)
    return rule


from fairseq_l2rw.meta.linearize import adam, sgd  # noqa: E402,F401  (they register themselves)
