"""Averages of an example's scores over the times that it is seen."""

import copy
import io

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.history import ScoreHistory
from tests.meta.harness import run_update
from tests.meta.test_probe import BATCHES, examined_trainer

DECAY = 0.6
WHICH = {id(BATCHES[0]): torch.tensor([3, 0, 7, 4, 1]), id(BATCHES[1]): torch.tensor([9, 2, 6, 5])}


def trainer_with(decay, **settings):
    return examined_trainer(number=lambda batch: WHICH[id(batch)], history=decay, **settings)


def test_kept_and_given_back():
    history = ScoreHistory(2)
    assert torch.equal(history.of(torch.tensor([5, 0])), torch.zeros(2, 2))
    some = torch.tensor([[0.5, -2.0], [30.0, 0.25]])
    history.take(torch.tensor([5, 11]), some)
    assert torch.equal(history.of(torch.tensor([11, 4, 5])), torch.stack([some[1], torch.zeros(2), some[0]]))
    file = io.BytesIO()
    torch.save(history.state_dict(), file)
    file.seek(0)
    again = ScoreHistory(2)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again.of(torch.tensor([11, 5])), history.of(torch.tensor([11, 5])))
    assert history.of(torch.zeros(0, dtype=torch.long)).shape == (0, 2)
    history.of(torch.tensor([1000]))
    assert len(history.scores) == 12, "asked of by one worker alone, and the same on all"


def test_an_example_has_the_average_of_its_scores():
    """Against the equation, written with a dictionary; the scores are those of the probe that gave the weights, without a past."""
    trainer, past, given = trainer_with(DECAY), {}, []
    record = trainer.record

    def seen(batch, rows, *others):
        fresh = rows.clone()
        fresh[:, -2:] = 0
        given.append((batch, rows, trainer.probe.probe(fresh)))
        record(batch, rows, *others)

    trainer.record = seen
    for t in range(4):
        given.clear()
        run_update(trainer, BATCHES, t, 0.5, updates=t)
        for batch, rows, scores in given:
            for number, row, now in zip(WHICH[id(batch)].tolist(), rows, scores):
                before = past.get(number, torch.zeros(2))
                assert torch.allclose(row[-2:].float(), before, rtol=1e-5, atol=1e-6), "the row has what was kept"
                past[number] = (now if t == 0 else DECAY * before + (1 - DECAY) * now).float()
        for number, average in past.items():
            assert torch.allclose(trainer.history.of(torch.tensor([number]))[0], average, rtol=1e-5, atol=1e-6)


def test_the_teacher_sees_the_average():
    trainer = trainer_with(DECAY)
    run_update(trainer, BATCHES, 0, 0.5)
    rows = torch.randn(3, trainer.teacher.layout.width, generator=torch.Generator().manual_seed(1)).double()
    rows[0, -2:] = 0
    with_past = trainer.teacher.inputs(rows)[:, -2:]
    rows[:, -2:] = rows[:, -2:] * 5
    other = trainer.teacher.inputs(rows)[:, -2:]
    assert torch.equal(with_past[0], other[0]) and (with_past[1:] != other[1:]).all()


def test_without_numbers_or_decay_there_is_none():
    assert examined_trainer(history=DECAY).history is None
    assert trainer_with(0.0).history is None
    assert trainer_with(DECAY, states="direct").history is None


def test_resuming():
    one, other = trainer_with(DECAY), trainer_with(DECAY)
    for t in range(3):
        run_update(one, BATCHES, t, 0.5, updates=t)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert other.history.scores.abs().max() > 0 and torch.equal(one.history.scores, other.history.scores)
    with pytest.raises(L2RWError, match="--teacher-history"):
        trainer_with(0.0).load_state_dict(one.state_dict())


def test_a_dummy_batch_leaves_no_trace():
    trainer = trainer_with(DECAY)
    run_update(trainer, BATCHES[:1], 0, 0.5)
    before = trainer.history.scores.clone()
    record = trainer.record

    def ignored(batch, *others):
        record(batch, *others)
        if batch is BATCHES[1]:
            trainer.ignore()

    trainer.record = ignored
    run_update(trainer, BATCHES, 1, 0.5, updates=1)
    assert trainer.history.of(WHICH[id(BATCHES[1])]).abs().max() == 0
    assert not torch.equal(trainer.history.scores[: len(before)], before)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none(decay):
    with pytest.raises(L2RWError, match=f"--teacher-history {decay}"):
        trainer_with(decay)
