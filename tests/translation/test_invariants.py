"""Invariants of loss and states for any batch shape, padding and order (hypothesis draws them)."""

import torch
from fairseq.criterions.label_smoothed_cross_entropy import label_smoothed_nll_loss
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.translation.criterion import smoothed_losses

PAD = 1
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8)
SMOOTHING = st.sampled_from([0.0, 0.1, 0.4])
SHAPE = dict(lengths=LENGTHS, padding=st.integers(0, 6), left=st.booleans(), vocabulary=st.integers(5, 30), epsilon=SMOOTHING, seed=st.integers(0, 99))


def batch(lengths, padding, left, vocabulary, seed):
    """Log-probabilities ``[B, T, V]`` and targets ``[B, T]``, padded to the longest and `padding` more."""
    random = torch.Generator().manual_seed(seed)
    width = max(lengths) + padding
    target = torch.full((len(lengths), width), PAD)
    for row, length in zip(target, lengths, strict=True):
        words = torch.randint(4, vocabulary, (length,), generator=random)
        row[width - length :] = words if left else row[width - length :]
        if not left:
            row[:length] = words
    logits = torch.randn(len(lengths), width, vocabulary, generator=random, dtype=torch.float64)
    return logits.log_softmax(-1), target


@given(**SHAPE)
@settings(max_examples=60, deadline=None)
def test_with_weight_one_the_loss_is_fairseqs(lengths, padding, left, vocabulary, epsilon, seed):
    lprobs, target = batch(lengths, padding, left, vocabulary, seed)
    losses, nll = smoothed_losses(lprobs, target, epsilon, PAD)
    stock, stock_nll = label_smoothed_nll_loss(lprobs.flatten(0, 1), target.flatten(), epsilon, ignore_index=PAD)
    assert torch.allclose(losses.sum(), stock.sum(), rtol=1e-10) and torch.allclose(nll.sum(), stock_nll.sum(), rtol=1e-10)
    assert losses.shape == nll.shape == (len(lengths),)


@given(**SHAPE)
@settings(max_examples=60, deadline=None)
def test_padding_and_order_do_not_matter(lengths, padding, left, vocabulary, epsilon, seed):
    """Each sentence alone, without its padding, has the loss that it has in the batch."""
    lprobs, target = batch(lengths, padding, left, vocabulary, seed)
    together, _ = smoothed_losses(lprobs, target, epsilon, PAD)
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed))
    shuffled, _ = smoothed_losses(lprobs[order], target[order], epsilon, PAD)
    assert torch.allclose(shuffled, together[order], rtol=1e-12)
    for row, loss in enumerate(together):
        real = target[row].ne(PAD)
        alone, _ = smoothed_losses(lprobs[row, real][None], target[row, real][None], epsilon, PAD)
        assert torch.allclose(alone[0], loss, rtol=1e-12)
