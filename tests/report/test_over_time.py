"""Histograms of the weights over time."""

from types import SimpleNamespace

import numpy as np
import pytest

from fairseq_l2rw.report.over_time import BINS, STRETCHES, summarize
from fairseq_l2rw.report.pairs import Labels


def rows(updates):
    return [
        SimpleNamespace(update=update, id=i, weight=w) for update in updates for i, w in enumerate((0.0, 0.52, 1.0))
    ]


@pytest.mark.parametrize("last", [1, 47, 48, 49, 1_000, 5_000])
def test_every_row_is_in_its_stretch(last):
    history = summarize(rows(range(1, last + 1)))
    assert history.kinds == ("",) and history.counts.shape[1] <= STRETCHES
    expected = np.bincount(np.arange(1, last + 1) // history.width)
    for bin_ in (0, int(0.52 * BINS), BINS - 1):
        assert history.counts[0, :, bin_].tolist() == expected.tolist()
    assert history.counts.sum() == 3 * last


def test_by_label():
    history = summarize(rows([10, 20]), Labels({0: "misaligned", 1: "clean"}))
    assert history.kinds == ("clean", "misaligned", "no label")
    assert history.counts.sum((1, 2)).tolist() == [2, 2, 2]
    assert history.counts[1, :, 0].sum() == 2


def test_nothing():
    assert summarize([]).counts.sum() == 0
