"""How well a score finds wrong labels."""

from __future__ import annotations

import torch
from torch import Tensor


def area_under_curve(scores: Tensor, positive: Tensor) -> float | None:
    """Chance that a positive has a higher score than a negative, ties counted half; None where one of them is missing.

    Args:
        scores: ``[N]``.
        positive: bool ``[N]``.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    # Mann-Whitney: the rank of a tie is the mean of the ranks that it covers
    _, inverse, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[inverse]
    above = float(ranks[positive].double().sum()) - positives * (positives + 1) / 2
    return above / (positives * negatives)
