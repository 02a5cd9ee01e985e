"""Invariants that hold for any batch: any number of pairs, any lengths, any weights (hypothesis draws them)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.meta.hypergradient import weight_gradient
from fairseq_l2rw.meta.weighting import effective_sample_size

REAL = st.floats(-1e3, 1e3, allow_nan=False, width=64)
WEIGHT = st.floats(0.0, 1.0, allow_nan=False, width=64)
PAIRS = st.lists(st.tuples(REAL, WEIGHT, st.integers(1, 300)), min_size=1, max_size=40)


def columns(pairs):
    """Influences, weights and lengths of drawn pairs, float64 ``[N]`` each."""
    return [torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)]


def weighted_loss(losses, weights, sizes, normalization):
    """L(theta; omega) of the design, written down once more."""
    denominator = (weights * sizes).sum() if normalization == "batch" else sizes.sum()
    return (weights * losses).sum() / denominator


def close(a, b, c, w, n):
    """Equal but for rounding: the terms that cancel are as large as max |c| max n / W."""
    magnitude = float(c.abs().max() * n.max()) / max(float((w * n).sum()), 1e-3) + 1e-9
    return torch.allclose(a, b, rtol=1e-9, atol=1e-11 * magnitude)


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_the_weight_gradient_is_the_derivative_of_the_weighted_loss(pairs):
    """dJ/dw_i = (c_i - n_i c_mean) / W: autograd through the loss in which c_i stands for l_i says the same."""
    c, w, n = columns(pairs)
    for normalization in ("batch", "tokens"):
        if normalization == "batch" and float((w * n).sum()) < 1e-3:
            continue
        variable = w.clone().requires_grad_()
        weighted_loss(c, variable, n, normalization).backward()
        ours = weight_gradient(c, w, n, normalization)
        assert close(ours, variable.grad, c, w, n)
        assert not close(ours + 1 + ours.abs() / 100, variable.grad, c, w, n)  # negative control


@given(PAIRS)
@settings(max_examples=200, deadline=None)
def test_with_batch_the_weighted_sum_of_the_gradient_is_zero(pairs):
    """The scale of the weights is free there; with `tokens` it is not (negative control)."""
    c, w, n = columns(pairs)
    if float((w * n).sum()) < 1e-3:
        return
    gradient = weight_gradient(c, w, n, "batch")
    bound = float((w * gradient).abs().sum()) + float((c.abs() * w).sum()) / float((w * n).sum())
    assert abs(float((w * gradient).sum())) <= 1e-9 * bound + 1e-12
    of_tokens = weight_gradient(c, w, n, "tokens")
    assert float((w * of_tokens).sum()) == pytest.approx(float((w * c).sum() / n.sum()), rel=1e-9, abs=1e-12)


@given(PAIRS, st.floats(0.01, 100.0))
@settings(max_examples=200, deadline=None)
def test_scaling_the_weights_changes_nothing_with_batch(pairs, factor):
    c, w, n = columns(pairs)
    if float((w * n).sum()) < 1e-3:
        return
    assert float(weighted_loss(c, factor * w, n, "batch")) == pytest.approx(float(weighted_loss(c, w, n, "batch")), rel=1e-9, abs=1e-9)
    scaled = weight_gradient(c, factor * w, n, "batch") * factor
    assert close(scaled, weight_gradient(c, w, n, "batch"), c, w, n)


@given(PAIRS, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_order_does_not_matter(pairs, random):
    """A pair's gradient goes with the pair, wherever it stands in the batch."""
    c, w, n = columns(pairs)
    order = list(range(len(pairs)))
    random.shuffle(order)
    for normalization in ("batch", "tokens"):
        if float((w * n).sum()) < 1e-3:
            continue
        straight = weight_gradient(c, w, n, normalization)
        shuffled = weight_gradient(c[order], w[order], n[order], normalization)
        assert close(shuffled, straight[order], c, w, n)


@given(st.lists(WEIGHT, min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_effective_sample_size(weights):
    """(sum w)^2 / (N sum w^2): 1 for equal weights, 1/N where one pair has all, never outside."""
    total, square, count = math.fsum(weights), math.fsum(w * w for w in weights), len(weights)
    if square < 1e-200:
        return
    size = effective_sample_size(total, square, count)
    assert 1 / count - 1e-9 <= size <= 1 + 1e-9
    assert effective_sample_size(count * 0.3, count * 0.09, count) == pytest.approx(1.0)
    assert effective_sample_size(1.0, 1.0, count) == pytest.approx(1 / count)
