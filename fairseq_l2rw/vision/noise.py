"""Label noise by a transition matrix T, T[a, b] the chance that true class a is labelled b.

``uniform:p``
    with chance p the label is drawn anew from all K classes, the true one included: 1 - p + p/K stays;
``flip:p``
    with chance p it becomes one other class, the same for all images of a class;
``flip2:p``
    with chance p one of two other classes, p/2 each (the flip noise of Meta-Weight-Net's tables).

Which other classes is drawn for each seed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.seeds import generator

#: kind -> other classes a label may go to; 0: all classes
KINDS = {"uniform": 0, "flip": 1, "flip2": 2}


def parse_noise(text: str) -> tuple[str, float]:
    """``uniform:0.4`` -> ``("uniform", 0.4)``; ``none`` -> ``("none", 0.0)``.

    Raises:
        L2RWError: an unknown kind, or a rate that is not between 0 and 1.
    """
    kind, _, rate = text.partition(":")
    if text == "none":
        return "none", 0.0
    if kind not in KINDS:
        raise L2RWError(f"--noise {text}: unknown kind '{kind}'; give none or KIND:RATE with one of {', '.join(KINDS)}")
    try:
        value = float(rate)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise L2RWError(f"--noise {text}: give KIND:RATE with a rate from 0 to 1, such as {kind}:0.4")
    return kind, value


def transition_matrix(kind: str, rate: float, classes: int, seed: int) -> Tensor:
    """T ``[K, K]``, float64, each row sums to 1."""
    matrix = torch.eye(classes, dtype=torch.float64) * (1 - rate)
    if kind == "none":
        return torch.eye(classes, dtype=torch.float64)
    others = KINDS[kind]
    if others == 0:
        return matrix + rate / classes
    if others >= classes:
        raise L2RWError(f"--noise {kind}: needs {others + 1} classes or more, the data have {classes}")
    draws = generator("transition", seed)
    for a in range(classes):
        chosen = torch.randperm(classes - 1, generator=draws)[:others]
        matrix[a, chosen + (chosen >= a)] = rate / others
    return matrix


def spoil(labels: Tensor, matrix: Tensor, seed: int) -> Tensor:
    """Labels ``[N]`` drawn from the rows of T that the true ones name."""
    return torch.multinomial(matrix[labels], 1, generator=generator("noise", seed)).squeeze(1)
