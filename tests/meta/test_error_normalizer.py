"""Influences over the part of the probability that is wrong."""

import math

import pytest
import torch

from fairseq_l2rw.meta.error_normalizer import DECAY, SMALLEST_ERROR, ErrorNormalizer
from tests.meta.test_trainer import SETTINGS, equal, go_on, resumed, trainer_of


def test_against_the_equation():
    normalizer, means = ErrorNormalizer(2), [None, None]
    generator = torch.Generator().manual_seed(3)
    for turn in range(6):
        head = turn % 2
        c = torch.randn(5, generator=generator, dtype=torch.float64)
        losses = torch.rand(5, generator=generator) * 3
        losses[0] = 1e-6  # learnt by heart
        q = [1 - math.exp(-loss) for loss in losses.tolist()]
        mean = sum(q) / 5
        means[head] = mean if means[head] is None else DECAY * means[head] + (1 - DECAY) * mean
        got = normalizer(head, c, losses)
        wanted = [a * means[head] / max(b, SMALLEST_ERROR) for a, b in zip(c.tolist(), q)]
        assert got.tolist() == pytest.approx(wanted, rel=1e-5)
        assert torch.equal(got.sign(), c.sign())
    assert normalizer.means == pytest.approx(means, rel=1e-5)


def test_equal_losses_change_nothing():
    c = torch.tensor([0.5, -2.0])
    assert torch.allclose(ErrorNormalizer(1)(0, c, torch.full((2,), 0.7)), c)


def test_what_the_loss_cannot_fall_below_is_no_error():
    c, losses = torch.randn(4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    assert torch.allclose(ErrorNormalizer(1, least=1.2)(0, c, losses + 1.2), ErrorNormalizer(1)(0, c, losses))


def test_influence_of_a_logit_does_not_depend_on_how_far_it_is_learnt():
    """Two classes: the loss's gradient by the logits is q (1, -1) for the wrong and the right one; so c over q is the same."""
    v = torch.tensor([0.3, -0.8], dtype=torch.float64)
    logits = torch.tensor([[0.0, 0.0], [-2.0, 2.0], [1.5, -0.5]], dtype=torch.float64, requires_grad=True)
    losses = torch.nn.functional.cross_entropy(logits, torch.ones(3, dtype=torch.long), reduction="none")
    c = torch.autograd.grad(losses.sum(), logits)[0] @ v
    assert c.max() - c.min() > 0.5
    same = ErrorNormalizer(1)(0, c, losses.detach())
    assert torch.allclose(same, same[:1].expand(3))


def test_rows_that_the_teacher_learns_from():
    """The kept influences of one update are those of a training without it, over the error; the student's first step is the same."""
    plain, normalised = (trainer_of(**SETTINGS, influence_normalization=how) for how in ("none", "error"))
    kept = []
    for trainer in (plain, normalised):
        last = 0
        while not any(len(rows) for rows in trainer.learner.replay):
            go_on(trainer, last, last + 1)
            last += 1
        kept.append(next(rows.at(torch.arange(len(rows))) for rows in trainer.learner.replay if len(rows)))
    (rows, c), (same_rows, of_error) = kept
    assert torch.equal(rows, same_rows) and not torch.allclose(c, of_error)
    assert torch.allclose(of_error, ErrorNormalizer(1)(0, c, rows[:, 0]))


@pytest.mark.parametrize("forgotten", [False, True])
def test_resuming(forgotten):
    settings = {**SETTINGS, "influence_normalization": "error"}
    one = trainer_of(**settings)
    go_on(one, 0, 7)
    other = resumed(one, settings, **({"normalizer": None} if forgotten else {}))
    for trainer in (one, other):
        go_on(trainer, 7, 11)
    assert equal(one.state_dict(), other.state_dict()) == (not forgotten)
