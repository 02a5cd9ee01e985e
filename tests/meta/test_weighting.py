"""Sums over weights."""

import pytest
import torch

from fairseq_l2rw.meta.weighting import effective_sample_size, guarded


@pytest.mark.parametrize(
    "weights, size",
    [([1, 1, 1, 1], 1.0), ([0.2, 0.2], 1.0), ([0, 0, 0, 5], 0.25), ([1, 3], 0.8), ([0, 0], 0.0)],
)
def test_effective_sample_size(weights, size):
    w = torch.tensor(weights, dtype=torch.float64)
    assert effective_sample_size(float(w.sum()), float(w.square().sum()), len(w)) == pytest.approx(size)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1e-9, 1e-8], [0.0]])
def test_guarded_against_all_zero(weights):
    assert guarded(torch.tensor(weights)).tolist() == [1.0] * len(weights)


@pytest.mark.parametrize("weights", [[1e-3, 0.0], [0.0, 1.0], [0.9, 0.1], [1e-5]])
def test_guarded_leaves_others_alone(weights):
    w = torch.tensor(weights)
    assert torch.equal(guarded(w), w)
