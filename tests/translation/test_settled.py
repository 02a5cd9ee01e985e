"""Pairs that the teacher has settled: left out, re-checked now and then, the same on every worker and after a resume."""

import io

import numpy as np
import torch

from fairseq_l2rw.translation.settled import RECHECK, SettledPairs

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
    assert pairs.staying(EVERY, 1).all()


def test_what_was_below_is_left_out_but_for_the_rechecks():
    stay = settled().staying(EVERY, 2)
    assert stay[PAIRS // 2 :].all()
    assert abs(stay[: PAIRS // 2].mean() - RECHECK) < 0.01


def test_a_new_weight_decides_anew():
    pairs = settled()
    pairs.note(EVERY, torch.full((PAIRS,), 0.5))
    assert pairs.staying(EVERY, 2).all()


def test_rechecks_depend_on_seed_epoch_and_pair_alone():
    stay = settled().staying(EVERY, 2)
    order = torch.randperm(PAIRS, generator=torch.Generator().manual_seed(0))
    again = np.concatenate([settled().staying(part, 2) for part in order.split(999)])
    assert (again == stay[order.numpy()]).all()
    for other in (settled().staying(EVERY, 3), settled(seed=2).staying(EVERY, 2)):
        both = (stay & other)[: PAIRS // 2].mean()
        assert both < 2 * RECHECK**2, "the same pairs are checked again and again"


def test_a_batch_is_never_empty():
    pairs = settled(low=EVERY)
    left_out = EVERY[torch.from_numpy(~pairs.staying(EVERY, 2))][:5]
    assert pairs.staying(left_out, 2).tolist() == [True, False, False, False, False]


def test_folders_are_told_apart():
    pairs = settled()
    pairs.open(1, 10)
    assert pairs.staying(torch.arange(10), 2).all()
    pairs.open(0, PAIRS)
    assert not pairs.staying(EVERY, 3).all()


def test_saved_and_read():
    pairs = settled(low=EVERY[3:1001:7])
    file = io.BytesIO()
    torch.save(pairs.state_dict(), file)
    file.seek(0)
    again = SettledPairs(0.3, 1)
    again.open(0, PAIRS)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert (again.staying(EVERY, 2) == pairs.staying(EVERY, 2)).all()
    assert len(file.getvalue()) < PAIRS / 8 + 3000  # a bit a pair


def test_another_corpus_begins_anew():
    again = SettledPairs(0.3, 1)
    again.open(0, 100)
    again.load_state_dict(settled().state_dict())
    assert again.staying(torch.arange(100), 2).all()
