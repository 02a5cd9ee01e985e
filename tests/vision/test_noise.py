"""Label noise: rates, where labels go, and what a seed decides."""

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.noise import parse_noise, spoil, transition_matrix

TRUTH = torch.arange(50_000) % 10


@pytest.mark.parametrize(("kind", "rate", "wrong"), [("uniform", 0.4, 0.36), ("flip", 0.4, 0.4), ("flip2", 0.4, 0.4), ("uniform", 1, 0.9)])
def test_part_that_is_wrong(kind, rate, wrong):
    labels = spoil(TRUTH, transition_matrix(kind, rate, 10, 1), 1)
    assert float((labels != TRUTH).double().mean()) == pytest.approx(wrong, abs=0.01)


@pytest.mark.parametrize(("kind", "others"), [("flip", 1), ("flip2", 2), ("uniform", 9)])
def test_classes_that_labels_go_to(kind, others):
    matrix = transition_matrix(kind, 0.4, 10, 3)
    labels = spoil(TRUTH, matrix, 3)
    assert torch.allclose(matrix.sum(1), torch.ones(10, dtype=torch.float64))
    for c in range(10):
        seen = labels[TRUTH == c]
        away = seen[seen != c]
        assert len(away.unique()) == others
        rates = torch.bincount(seen, minlength=10) / len(seen)
        assert torch.allclose(rates.double(), matrix[c], atol=0.03)


def test_the_seed_decides():
    first = transition_matrix("flip", 0.2, 10, 1)
    assert torch.equal(first, transition_matrix("flip", 0.2, 10, 1))
    assert not torch.equal(first, transition_matrix("flip", 0.2, 10, 2))
    assert torch.equal(spoil(TRUTH, first, 1), spoil(TRUTH, first, 1))
    assert not torch.equal(spoil(TRUTH, first, 1), spoil(TRUTH, first, 2))


def test_no_noise():
    assert torch.equal(spoil(TRUTH, transition_matrix("none", 0.0, 10, 1), 1), TRUTH)


@pytest.mark.parametrize("text", ["swap:0.4", "uniform", "uniform:lots", "uniform:1.4", "flip:-0.1", "flip:nan", ""])
def test_bad_noise(text):
    with pytest.raises(L2RWError, match="--noise .*give"):
        parse_noise(text)


def test_too_few_classes():
    with pytest.raises(L2RWError, match="needs 3 classes or more, the data have 2"):
        transition_matrix("flip2", 0.4, 2, 1)
