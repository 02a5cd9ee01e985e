"""Clipping of the gradient by its norm, and the adjoint of that.

Equation, with n = ||g|| and the factor as torch and fairseq have it::

    clip(g) = f g,    f = min(1, max_norm / (n + 1e-6))

Its derivative is the identity where f = 1, else, with h = g / n::

    Clip^T u = f (u - h (h . u) n / (n + 1e-6))
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def factor(raw_norm: float | Tensor, max_norm: float):
    """f; ``max_norm`` <= 0 means that nothing is clipped."""
    if not max_norm > 0:
        return 1.0
    f = max_norm / (raw_norm + EPSILON)
    return f.clamp(max=1.0) if isinstance(f, Tensor) else min(1.0, f)


def clip(gradients: list[Tensor], max_norm: float, rest: float = 0.0) -> list[Tensor]:
    """clip(g), differentiable; ``rest`` is the square of the norm of what else is clipped with it, a constant."""
    if not max_norm > 0:
        return gradients
    norm = (torch.stack([g.square().sum() for g in gradients]).sum() + rest).sqrt()
    f = factor(norm, max_norm)
    return [g * f for g in gradients]


def adjoint(clipped: list[Tensor], raw_norm: float | None, max_norm: float, vector: list[Tensor]) -> list[Tensor]:
    """Clip^T u. Where something was clipped, u is changed in place: it may be as large as the student.

    Args:
        clipped: the gradient after clipping.
        raw_norm: its norm before; None where nobody clipped.
        max_norm: the threshold.
        vector: u.
    """
    if raw_norm is None:
        return vector
    f = factor(raw_norm, max_norm)
    if f >= 1.0:
        return vector
    # h = clipped / (f n)
    scale = 1.0 / (f * raw_norm)
    along = dot(clipped, vector) * scale
    kept = along * raw_norm / (raw_norm + EPSILON)
    torch._foreach_mul_(vector, f)
    torch._foreach_add_(vector, clipped, alpha=-f * scale * kept)
    return vector


def dot(a: list[Tensor], b: list[Tensor]) -> float:
    """<a, b> over all parameters, summed in double precision."""
    return float(sum((x * y).sum(dtype=torch.float64) for x, y in zip(a, b)))


def norm(a: list[Tensor]) -> float:
    """||a|| over all parameters."""
    return dot(a, a) ** 0.5
