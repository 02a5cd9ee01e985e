"""Which image is for what."""

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision import digits
from fairseq_l2rw.vision.data import cut
from tests.vision.harness import dataset


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_disjoint_and_balanced(seed):
    data = dataset(120)
    parts = cut(data, meta=20, valid=12, size=0, noise="uniform:0.5", seed=seed)
    names = [set(part.names) for part in (parts.meta, parts.valid, parts.train)]
    assert [len(n) for n in names] == [20, 12, 88]
    assert len(set.union(*names)) == 120
    for part, each in ((parts.meta, 5), (parts.valid, 3)):
        assert torch.bincount(part.labels).tolist() == [each] * 4
        assert torch.equal(part.labels, part.truth)
    assert 0.2 < float(parts.wrong.double().mean()) < 0.55


def test_the_seed_decides():
    a, b, c = (cut(dataset(), 20, 0, 50, "uniform:0.5", seed) for seed in (1, 1, 2))
    assert a.train.names == b.train.names and torch.equal(a.train.labels, b.train.labels)
    assert a.train.names != c.train.names and len(a.train) == 50


def test_parts_do_not_depend_on_the_noise():
    clean, noisy = (cut(dataset(), 20, 12, 0, noise, 1) for noise in ("none", "flip:0.5"))
    assert clean.train.names == noisy.train.names and clean.meta.names == noisy.meta.names
    assert not clean.wrong.any()


def test_standardised_pixels():
    parts = cut(dataset(), 20, 0, 0, "none", 1)
    every = parts.pixels(dataset().train.images)
    assert float(every.mean()) == pytest.approx(0, abs=1e-5) and float(every.std()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [((200, 0, 0), "--meta-size 200: class 0 has 30"), ((20, 108, 0), "--valid-size 108"), ((20, 12, 89), "--train-size 89: 88")],
)
def test_too_few_images(sizes, message):
    with pytest.raises(L2RWError, match=message):
        cut(dataset(120), *sizes, "none", 1)


def test_digits():
    data = digits.read()
    assert data.train.images.shape == (1300, 1, 8, 8) and data.test.images.shape == (497, 1, 8, 8)
    assert data.train.images.dtype == torch.uint8 and int(data.train.images.max()) == 255
    assert data.train.labels.unique().tolist() == list(range(10))


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(L2RWError, match="pip install scikit-learn"):
        digits.read()
