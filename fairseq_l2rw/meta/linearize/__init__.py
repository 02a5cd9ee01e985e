"""Rules that differentiate one optimizer step, looked up by the optimizer's CLASS.

A rule answers what the reverse sweep asks (K = 1: only d theta' / d g matters):

``snapshot(optimizer)``
    what must be noted before the step, because the step overwrites it;
``adjoint(optimizer, snapshot, parameters, adjoint)``
    after the step: (d theta' / d g)^T lambda, one tensor a parameter, g the gradient
    that the optimizer was given (after clipping, still in ``p.grad``);
``step(optimizer, snapshot, parameters, old, gradients)``
    theta' as a differentiable function of g: the slow way that ``unrolled`` takes.

To add an optimizer: write the three functions as methods of a class in a file of its own,
decorate it with ``@register(OptimizerClass)``, and add the class to ``tests/meta/test_linearize.py``,
which compares ``step`` with the optimizer itself and ``adjoint`` with brute force.
"""

from __future__ import annotations

from torch.optim import Optimizer

from fairseq_l2rw.errors import L2RWError

_RULES: dict[type, object] = {}


def register(*classes: type):
    """Class decorator: one instance of the rule serves these optimizer classes."""

    def add(rule_class):
        for cls in classes:
            _RULES[cls] = rule_class()
        return rule_class

    return add


def rule_for(optimizer: Optimizer):
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


def group_of(optimizer: Optimizer) -> dict[int, dict]:
    """id(parameter) -> its parameter group."""
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}


from fairseq_l2rw.meta.linearize import adam, sgd  # noqa: E402,F401  (they register themselves)
