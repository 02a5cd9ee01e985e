"""Registry of reweighters: what gives a weight to each example.

A new one is one small file here, decorated with

* ``@register(NAME)``: a function ``build(layout, heads, inputs, hidden, prior)`` that returns the network (rows ``[N, D]``
  -> weights of each head ``[N, K]``), or None where every weight is 1; ``hidden`` is None where nobody asked for a width;
* ``@register_rule(NAME)``: a :class:`~fairseq_l2rw.meta.reweighters.rule.Rule`, which has no network and learns nothing.
"""

from __future__ import annotations

from typing import Callable

from fairseq_l2rw.errors import L2RWError

#: what ``--teacher-inputs`` may name
INPUTS = ("internal", "surface")

_BUILDERS: dict[str, Callable] = {}
_RULES: dict[str, type] = {}


def register(name: str):
    """Decorator: the builder of the reweighter that users call ``name``."""

    def add(builder):
        _BUILDERS[name] = builder
        return builder

    return add


def register_rule(name: str):
    """Class decorator: the rule that users call ``name``."""

    def add(rule):
        _RULES[name] = rule
        return rule

    return add


def names() -> list[str]:
    return sorted([*_BUILDERS, *_RULES])


def rule_class(name: str) -> type | None:
    """The rule of reweighter ``name``; None where it is a network."""
    return _RULES.get(name)


def check_name(name: str) -> None:
    """Raises L2RWError for an unknown reweighter."""
    if name not in _BUILDERS and name not in _RULES:
        raise L2RWError(f"--teacher {name}: unknown teacher; choose one of {', '.join(names())}")


def parse_inputs(text: str) -> tuple[str, ...]:
    """``internal``, ``surface`` or both (``both``, or comma-separated)."""
    wanted = INPUTS if text == "both" else tuple(dict.fromkeys(p.strip() for p in text.split(",") if p.strip()))
    if not wanted or not set(wanted) <= set(INPUTS):
        raise L2RWError(f"--teacher-inputs {text}: give internal, surface or both")
    return wanted


def build(name, layout, heads, inputs=INPUTS, hidden=None, prior=0.95):
    """The network of reweighter ``name``, or None where every weight is 1; a KeyError where it is a rule."""
    check_name(name)
    return _BUILDERS[name](layout, heads, inputs, hidden, prior)


from fairseq_l2rw.meta.reweighters import deep, l2r, loss, self_paced, surface, uniform  # noqa: E402,F401
