"""Sums over weighted examples, and what is reported of weights."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_sample_size(weight_sum: float, square_sum: float, count: float) -> float:
    """(sum w)^2 / (N sum w^2): 1 for equal weights, 1 / N where one example has all."""
    return weight_sum * weight_sum / (count * square_sum) if square_sum > 0 else 0.0


def guarded(weights: Tensor, smallest: float = 1e-6) -> Tensor:
    """The weights, or all 1 where they sum to nearly nothing: that batch would divide by zero.

    Args:
        weights: w_i ``[N]``.
        smallest: mean weight below which a batch counts as empty.
    """
    return torch.where(weights.mean() < smallest, torch.ones_like(weights), weights)
