"""Pairs that the teacher has settled: left out, re-checked now and then, the same on every worker and after a resume."""

import io
from types import SimpleNamespace

import numpy as np
import torch

from fairseq_l2rw.translation.settled import RECHECK, SettledPairs, Staying

PAIRS = 20_000
EVERY = torch.arange(PAIRS)


def settled(low=EVERY[: PAIRS // 2], seed=1):
    pairs = SettledPairs(0.3, seed)
    pairs.open(0, PAIRS)
    pairs.note(EVERY, torch.full((PAIRS,), 0.3))
    pairs.note(low, torch.full((len(low),), 0.29))
    return pairs


def test_nothing_is_left_out_before_it_has_a_weight():
    pairs = SettledPairs(0.3, 1)
    pairs.open(0, PAIRS)
    assert pairs.staying(1).all()


def test_what_was_below_is_left_out_but_for_the_rechecks():
    stay = settled().staying(2)
    assert stay[PAIRS // 2 :].all()
    assert abs(stay[: PAIRS // 2].mean() - RECHECK) < 0.01


def test_a_new_weight_decides_anew():
    pairs = settled()
    pairs.note(EVERY, torch.full((PAIRS,), 0.5))
    assert pairs.staying(2).all()


def test_rechecks_depend_on_seed_epoch_and_pair_alone():
    stay = settled().staying(2)
    fewer = settled(low=EVERY[: PAIRS // 4]).staying(2)
    assert (fewer[: PAIRS // 4] == stay[: PAIRS // 4]).all() and fewer[PAIRS // 4 :].all()
    for other in (settled().staying(3), settled(seed=2).staying(2)):
        both = (stay & other)[: PAIRS // 2].mean()
        assert both < 2 * RECHECK**2, "the same pairs are checked again and again"


def test_an_epoch_is_never_empty():
    pairs = SettledPairs(0.3, 1)
    pairs.open(0, 3)
    pairs.note(torch.arange(3), torch.zeros(3))
    epoch = next(epoch for epoch in range(2, 99) if (pairs._draw(np.arange(3), epoch) >= RECHECK).all())
    assert pairs.staying(epoch).tolist() == [True, False, False]


def test_within_an_epoch_the_answer_stays_that_of_its_beginning():
    pairs = settled()
    stay = pairs.staying(2)
    pairs.note(EVERY, torch.full((PAIRS,), 0.5))
    again = SettledPairs(0.3, 1)
    again.load_state_dict(pairs.state_dict())
    again.open(0, PAIRS)
    for one in (pairs, again):
        assert (one.staying(2) == stay).all()
        assert one.staying(3).all()


def test_the_batches_are_of_those_that_stay_in_the_order_of_all():
    whole = SimpleNamespace(ordered_indices=lambda: np.array([3, 0, 4, 1, 2]))
    staying = Staying(whole, np.array([True, False, True, True, False]))
    assert staying.ordered_indices().tolist() == [3, 0, 2]


def test_folders_are_told_apart():
    pairs = settled()
    pairs.open(1, 10)
    assert pairs.staying(2).all() and len(pairs.staying(2)) == 10
    pairs.open(0, PAIRS)
    assert not pairs.staying(3).all()


def test_saved_and_read():
    pairs = settled(low=EVERY[3:1001:7])
    file = io.BytesIO()
    torch.save(pairs.state_dict(), file)
    file.seek(0)
    again = SettledPairs(0.3, 1)
    again.open(0, PAIRS)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert (again.staying(2) == pairs.staying(2)).all()
    assert len(file.getvalue()) < PAIRS / 8 + 3000  # a bit a pair


def test_another_corpus_begins_anew():
    again = SettledPairs(0.3, 1)
    again.open(0, 100)
    again.load_state_dict(settled().state_dict())
    assert again.staying(2).all()
