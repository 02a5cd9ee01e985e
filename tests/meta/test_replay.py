"""The ring of rows."""

import torch

from fairseq_l2rw.meta.replay import ReplayRows


def filled(capacity, *numbers):
    """Rows whose feature and target are the same number, so that mixed-up pairs show."""
    rows = ReplayRows(capacity, 1)
    for group in numbers:
        values = torch.tensor(group, dtype=torch.float32)
        rows.add(values.unsqueeze(1), values)
    return rows


def by_age(rows):
    state = rows.state_dict()
    assert torch.equal(state["features"].squeeze(1), state["targets"])
    return state["targets"].tolist()


def sample(rows, count, seed=0):
    features, targets = rows.sample(count, torch.Generator().manual_seed(seed))
    assert torch.equal(features.squeeze(1), targets)
    return targets.tolist()


def test_the_oldest_fall_out():
    rows = filled(5, [1, 2, 3], [4, 5], [6, 7])
    assert by_age(rows) == [3, 4, 5, 6, 7] and len(rows) == 5
    assert by_age(filled(5, [1, 2, 3], [4, 5, 6, 7], [8, 9, 10])) == [6, 7, 8, 9, 10]
    assert by_age(filled(2, [1, 2, 3])) == [2, 3]  # more in one go than there is room for


def test_samples_are_without_replacement():
    rows = filled(50, range(50))
    for seed in range(5):
        drawn = sample(rows, 20, seed)
        assert len(set(drawn)) == 20
    assert sorted(sample(rows, 1000)) == list(range(50))
    assert sample(rows, 20, 1) == sample(rows, 20, 1) != sample(rows, 20, 2)


def test_every_row_is_drawn_alike():
    rows, counts = filled(10, range(10)), torch.zeros(10)
    for seed in range(400):
        for value in sample(rows, 3, seed):
            counts[int(value)] += 1
    assert counts.min() > 80 and counts.max() < 160  # 120 expected, 9 standard deviation


def test_sampling_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    sample(filled(5, range(5)), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_state_dict_round_trip():
    """Also where the ring has begun to write over its oldest rows: samples go on as they would have."""
    for numbers in ([1, 2, 3], [1, 2, 3, 4]), ([-2, -1, 0, 1, 2], [3]):
        rows, other = filled(5, *numbers), ReplayRows(5, 1)
        state = rows.state_dict()
        other.load_state_dict(state)
        for r in (rows, other):
            values = torch.tensor([4.0, 5.0, 6.0])
            r.add(values.unsqueeze(1), values)
        assert by_age(other) == by_age(rows) == [*numbers[0], *numbers[1], 4, 5, 6][-5:]
        assert sample(other, 3) == sample(rows, 3)
        assert 6 not in state["targets"]  # what was saved is not written over


def test_rows_are_copies():
    rows, values = ReplayRows(5, 1), torch.ones(2)
    rows.add(values.unsqueeze(1), values)
    values.zero_()
    assert rows.targets.tolist() == [1, 1]


def test_targets_in_double_are_taken():
    rows = ReplayRows(5, 1)
    rows.add(torch.ones(2, 1), torch.ones(2, dtype=torch.float64))
    assert rows.targets.dtype == torch.float32
