"""The linear discriminant against an independent one, and which images it is told of."""

import pytest
import torch

from fairseq_l2rw.vision.discriminant import FLOOR, PARTS, Discriminant

WIDTH, CLASSES = 6, 3


def states(n, seed=1):
    """States of which those of a class have a mean of their own, as many of each class; labels; index."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    means = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = torch.randn(n, WIDTH, generator=generator, dtype=torch.float64) @ torch.diag(torch.linspace(0.5, 2, WIDTH).double())
    return means[labels] + mixed, labels, torch.arange(n)


def learnt(*batches, decay=0.9):
    made = Discriminant(WIDTH, CLASSES, decay)
    for batch in batches:
        made.learn(*batch)
    return made


def test_against_another_library():
    """scikit-learn's: its shrinkage s is ours with 0.1 = s / (1 - s), but for a factor of the whole matrix."""
    discriminant_analysis = pytest.importorskip("sklearn.discriminant_analysis")
    known, labels, index = states(90)
    asked = states(20, seed=2)[0]
    other = discriminant_analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1 / 1.1)
    want = torch.tensor(other.fit(known.numpy(), labels.numpy()).decision_function(asked.numpy())) / 1.1
    got = learnt((known, labels, index))(asked)
    assert torch.allclose(got, want.log_softmax(1).clamp(min=FLOOR).float(), atol=1e-5)
    assert float(got.max(1).values.exp().mean()) > 0.6, "the classes can be told apart"


def test_a_trusted_image_is_judged_by_the_other_parts():
    known, labels, index = states(60)
    got = learnt((known, labels, index))(known, index)
    for part in range(PARTS):
        own = index % PARTS == part
        without = learnt((known[~own], labels[~own], index[~own]))
        assert torch.allclose(got[own], without(known[own]), atol=1e-6)
    assert not torch.allclose(got, learnt((known, labels, index))(known), atol=1e-3)  # a negative control


def test_older_batches_count_less():
    first, second, asked = states(30), states(30, seed=5), states(9, seed=7)[0]
    half = learnt(first, second, decay=0.5)
    # a batch that counts half is the other one twice
    assert torch.allclose(half(asked), learnt(first, second, second, decay=1.0)(asked), atol=1e-6)
    assert not torch.allclose(half(asked), learnt(first, second, decay=1.0)(asked), atol=1e-3)


def test_what_is_not_known():
    known, labels, index = states(30)
    made = learnt()
    assert not made.known and torch.allclose(made(known).exp(), torch.full((30, CLASSES), 1 / CLASSES))
    some = labels != 2
    made = learnt((known[some], labels[some], index[some]))
    assert made.known and torch.equal(made(known)[:, 2], torch.full((30,), FLOOR)) and torch.isfinite(made(known)).all()
    alone = learnt((known[:1], labels[:1], index[:1]))  # without its part nothing is left
    assert torch.allclose(alone(known[:1], index[:1]).exp(), torch.full((1, CLASSES), 1 / CLASSES))
    spoilt = known.clone()
    spoilt[3, 0] = float("nan")
    rest = torch.arange(30) != 3
    assert torch.equal(learnt((spoilt, labels, index))(known), learnt((known[rest], labels[rest], index[rest]))(known))


def test_state():
    known, labels, index = states(30)
    made, other = learnt((known, labels, index)), learnt()
    other(known)
    other.load_state_dict(made.state_dict())
    assert other.known and torch.equal(other(known, index), made(known, index))
