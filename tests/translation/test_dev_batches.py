"""Dev batches: every pair once an epoch, in an order that (seed, epoch) decide."""

import numpy as np
import pytest
import torch

from fairseq_l2rw.translation.dev_batches import DevBatches
from tests.translation.harness import dataset_of, pairs

RNG = np.random.default_rng(3)
SENTENCES = pairs(RNG.integers(1, 12, 50), RNG.integers(1, 12, 50))


def dev_batches(max_tokens=40, max_sentences=None, max_positions=(64, 64), seed=1, sentences=SENTENCES):
    return DevBatches(dataset_of(sentences), max_tokens, max_sentences, max_positions, seed)


def ids(batch):
    return sorted(batch["id"].tolist())


def epoch(batches):
    """The rest of the present epoch (or, at its end, the next one), as lists of ids."""
    out = [ids(batches())]
    while batches.position < len(batches._batches):
        out.append(ids(batches()))
    return out


def test_every_pair_once_an_epoch():
    batches = dev_batches()
    for number in range(3):
        order = epoch(batches)
        assert batches.epoch == number
        assert sorted(sum(order, [])) == list(range(50))
        assert len(order) > 5


def test_each_epoch_has_an_order_of_its_own():
    batches = dev_batches()
    one, two = epoch(batches), epoch(batches)
    assert one != two and sorted(one) != sorted(two)  # other batches, not only in another order


def test_the_seed_decides():
    assert epoch(dev_batches(seed=1)) == epoch(dev_batches(seed=1)) != epoch(dev_batches(seed=2))


def test_no_global_generator_is_used():
    orders = []
    for outer in (1, 2):
        np.random.seed(outer)
        torch.manual_seed(outer)
        batches = dev_batches()
        orders.append(epoch(batches) + epoch(batches))
    assert orders[0] == orders[1]
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    epoch(dev_batches())
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("taken", [0, 1, 5, "a whole epoch", 25])
def test_resuming_in_the_middle(taken):
    one = dev_batches()
    if taken == "a whole epoch":
        epoch(one)
    else:
        for _ in range(taken):
            one()
    other = dev_batches()
    other()  # wherever it stood
    other.load_state_dict(one.state_dict())
    following = [ids(one()) for _ in range(25)]
    assert [ids(other()) for _ in range(25)] == following
    fresh = dev_batches()
    assert ([ids(fresh()) for _ in range(25)] == following) == (taken == 0)  # negative control


def test_state_is_plain():
    batches = dev_batches()
    for _ in range(3):
        batches()
    assert batches.state_dict() == {"epoch": 0, "position": 3}


def test_size_of_a_batch():
    for batch in (b := dev_batches(max_tokens=40)) and [b() for _ in range(20)]:
        assert batch["target"].numel() <= 40 and batch["net_input"]["src_tokens"].numel() <= 40
    for batch in (b := dev_batches(max_tokens=None, max_sentences=3)) and [b() for _ in range(20)]:
        assert len(batch["id"]) <= 3


def test_pairs_of_like_length_stand_together():
    batches = dev_batches(max_tokens=None, max_sentences=5)
    spread = [np.ptp([max(batches.dataset.size(i)) for i in ids(batches())]) for _ in range(10)]
    assert max(spread) <= 4  # of 2 to 12


def test_pairs_that_are_too_long_are_left_out():
    batches = dev_batches(max_positions=(8, 64))
    kept = sorted(sum(epoch(batches), []))
    assert kept == [i for i, (source, _) in enumerate(SENTENCES) if len(source) <= 8]
    assert sorted([*kept, *batches.left_out]) == list(range(50))


def test_one_pair():
    batches = dev_batches(sentences=SENTENCES[:1])
    assert [ids(batches()) for _ in range(3)] == [[0]] * 3 and batches.epoch == 2


def test_a_few_pairs_beside_the_order():
    batches, other = dev_batches(max_positions=(8, 64)), dev_batches(max_positions=(8, 64))
    kept = [i for i, (source, _) in enumerate(SENTENCES) if len(source) <= 8]
    for _ in range(20):
        assert ids(batches.few()) == kept[:2]
        assert ids(batches()) == ids(other())
    assert ids(dev_batches(sentences=SENTENCES[:1]).few()) == [0]
