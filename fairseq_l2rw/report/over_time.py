"""Weights over the course of a training, from its influence log: a histogram for each stretch of updates and label."""

from dataclasses import dataclass
from typing import Iterable, Optional, Tuple

import numpy as np

from fairseq_l2rw.report.pairs import Labels

STRETCHES = 48  # at most; from half of them on in use
BINS = 20  # of the weight, from 0 to 1


@dataclass(frozen=True)
class WeightHistory:
    """Histograms.

    Attributes:
        kinds: `Labels.names`; one empty string where there are no labels.
        counts: pairs, ``[kinds, stretches, BINS]``.
        width: updates in a stretch; the first begins with update 0.
    """

    kinds: Tuple[str, ...]
    counts: np.ndarray
    width: int


def summarize(rows: Iterable, labels: Optional[Labels] = None) -> WeightHistory:
    """Counts the rows of an influence log (``update``, ``id``, ``weight``) in one pass, in memory that does not grow.

    The last update is known at the end only, so a stretch is one update at first, and its width doubles when there are
    too many.
    """
    kinds = labels.names if labels else ("",)
    counts = np.zeros((len(kinds), STRETCHES, BINS), dtype=np.int64)
    width, last = 1, 0
    for row in rows:
        kind = labels.number(row.id) if labels else 0
        while row.update // width >= STRETCHES:
            folded = counts.reshape(len(counts), STRETCHES // 2, 2, BINS).sum(2)
            counts = np.concatenate([folded, np.zeros_like(folded)], axis=1)
            width *= 2
        last = max(last, row.update)
        counts[kind, row.update // width, min(int(row.weight * BINS), BINS - 1)] += 1
    return WeightHistory(kinds, counts[:, : last // width + 1], width)
