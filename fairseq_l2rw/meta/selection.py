"""Which of the student's parameters the hypergradient goes through (``--meta-params``)."""

from __future__ import annotations

import re

from torch import nn

from fairseq_l2rw.errors import L2RWError

#: groups of names that an error lists
LISTED = 30


def expression(pattern: str) -> re.Pattern:
    """The pattern, compiled.

    Raises:
        L2RWError: it is no regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise L2RWError(f"--meta-params {pattern}: not a regular expression ({error})") from None


def in_front(parameters: dict[str, nn.Parameter], pattern: str) -> tuple[dict[str, nn.Parameter], int]:
    """The parameters, those whose name the pattern is found in first, and how many those are.

    Args:
        parameters: by name; a shared one has the first of its names.
        pattern: a regular expression, searched for anywhere in the name.

    Raises:
        L2RWError: it is found in none; lists groups of names.
    """
    search = expression(pattern).search
    chosen = {name: p for name, p in parameters.items() if search(name)}
    if not chosen:
        groups = list(dict.fromkeys(_group(name) for name in parameters))
        more = f" and {len(groups) - LISTED} more" if len(groups) > LISTED else ""
        raise L2RWError(
            f"--meta-params {pattern}: found in no name of the student's parameters; "
            f"there are {', '.join(groups[:LISTED])}{more} (N: a number)"
        )
    return {**chosen, **{name: p for name, p in parameters.items() if name not in chosen}}, len(chosen)


def _group(name):
    """``decoder.layers.3.self_attn.k_proj.bias`` -> ``decoder.layers.N.self_attn.k_proj``."""
    owner = name.rpartition(".")[0] or name
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "N", owner)
