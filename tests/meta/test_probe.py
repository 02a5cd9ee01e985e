"""Probes: logistic regression on the states of sound and spoilt dev examples."""

import copy
import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.features import SURFACE, FeatureLayout
from fairseq_l2rw.meta.probe import Probe, ProbeTrainer
from fairseq_l2rw.meta.student import Examined
from fairseq_l2rw.meta.teacher import Teacher
from tests.meta.harness import fresh, make_trainer, run_update
from tests.oracles import ToyStudent, toy_batch

LAYOUT = FeatureLayout((5, 5))
BATCHES = [toy_batch(5, 1), toy_batch(4, 2)]


def rows(n, seed, shift=0.0):
    """Random rows; ``shift`` moves the first state."""
    out = torch.randn(n, LAYOUT.width, generator=torch.Generator().manual_seed(seed))
    out[:, len(SURFACE)] += shift
    return out


def trained(kinds=2, kind=0, batches=60, shift=2.0, seed=1):
    torch.manual_seed(0)
    trainer = ProbeTrainer(Probe(LAYOUT, kinds, 64), seed)
    for t in range(batches):
        trainer.learn(kind, rows(40, 2 * t), rows(40, 2 * t + 1, shift))
    return trainer


def test_it_tells_sound_from_spoilt_as_well_as_logistic_regression():
    """One head learns, the other stays at zero: the negative control."""
    probe = trained().probe
    sound, spoilt = rows(500, 1001), rows(500, 1002, 2.0)
    x, y = torch.cat([sound, spoilt]).numpy(), np.repeat([1, 0], 500)
    fitted = LogisticRegression().fit(np.concatenate([rows(2000, 3), rows(2000, 4, 2.0)]), np.repeat([1, 0], 2000))
    want = roc_auc_score(y, fitted.decision_function(x))
    scores = probe(torch.cat([sound, spoilt]))
    assert roc_auc_score(y, scores[:, 0]) > want - 0.01 > 0.85
    assert (scores[:, 1] == 0).all()


def test_scores_are_bounded_and_detached():
    scores = trained(shift=20.0, batches=150).probe(rows(50, 7, 500.0))
    assert scores.shape == (50, 2) and not scores.requires_grad
    assert scores.abs().max() <= 3


def test_it_never_sees_the_loss():
    """Nor progress and dev loss: only lengths and states."""
    probe, some = trained().probe, rows(20, 5)
    changed = some.clone()
    changed[:, [SURFACE.index(name) for name in ("loss", "loss_deviation", "progress", "dev_loss")]] += 3.0
    assert torch.equal(probe(some), probe(changed))
    changed[:, SURFACE.index("length_ratio")] += 1.0
    assert not torch.equal(probe(some), probe(changed))


def test_rows_that_are_not_finite_are_left_out():
    trainer = trained(batches=3)
    bad = rows(4, 1)
    bad[0] = float("nan")
    trainer.learn(0, bad, torch.full((4, LAYOUT.width), float("inf")))
    assert len(trainer.rows[0]) == 3 * 80 + 3
    assert torch.isfinite(trainer.probe(rows(5, 2))).all()
    before = copy.deepcopy(trainer.probe.state_dict())
    trainer.learn(1, bad[:1], bad[:1])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trainer.probe.state_dict().values()))


@pytest.mark.parametrize("whole", [True, False])
def test_resuming(whole):
    """As if it had not been interrupted; not so if the kept rows are lost: the negative control."""
    straight = trained(batches=6)
    half = trained(batches=3)
    state = copy.deepcopy(half.state_dict())
    resumed = ProbeTrainer(copy.deepcopy(half.probe), 1)
    if not whole:
        state["rows"] = [{"features": torch.zeros(0, LAYOUT.width), "targets": torch.zeros(0)} for _ in range(2)]
    resumed.load_state_dict(state)
    for t in range(3, 6):
        resumed.learn(0, rows(40, 2 * t), rows(40, 2 * t + 1, 2.0))
    assert torch.equal(resumed.probe(rows(9, 1)), straight.probe(rows(9, 1))) is whole


def test_heads_see_the_states_through_the_probe_alone():
    teacher = Teacher(LAYOUT, ("a", "b"), True, True, True, 8, 0.9, states="probe")
    with torch.no_grad():
        for p in teacher.own_parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.5)
    teacher.standardizer.update(rows(50, 1))
    some = rows(6, 2)
    changed = some.clone()
    changed[:, 3:] += 1.0  # lengths and states, nothing that f sees by itself
    assert torch.equal(teacher(some), teacher(changed))  # a probe that has learnt nothing says nothing
    trainer = ProbeTrainer(teacher.probe, 1)
    for t in range(5):
        trainer.learn(1, rows(40, 2 * t), rows(40, 2 * t + 1, 2.0))
    weights, others = teacher(some), teacher(changed)
    assert torch.equal(weights[:, 0], others[:, 0]) and not torch.allclose(weights[:, 1], others[:, 1])
    own = {id(p) for p in teacher.own_parameters()}
    assert own and not own & {id(p) for p in teacher.probe.parameters()}
    assert teacher.inputs(some).shape == (6, teacher.width) == (6, LAYOUT.width + 2)


# ---- under a MetaTrainer ------------------------------------------------------

class ExaminedToyStudent(ToyStudent):
    """A toy student whose dev batches can be looked at."""

    examinations = 0

    def examine(self, batch):
        self.examinations += 1
        losses, n_tokens = self.losses(batch)
        internal = self.module.embedding(batch[0]).mean(1).detach()
        return Examined(losses, n_tokens, torch.full_like(n_tokens, 4), [internal])


CONTRAST = dict(objective="contrastive", contrast={"rotated": 0.5, "constant": 0.5})


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.05, eps=1e-3)


def examined_trainer(**settings):
    student = fresh(adam, student_class=ExaminedToyStudent)
    return make_trainer(*student, **{**CONTRAST, "momentum": 0.8, "replay": 2, "prior_strength": 0.1, **settings})


def test_the_probe_learns_from_the_dev_passes():
    """Two a teacher update, as without a probe; the teacher's own optimizer leaves it alone."""
    trainer = examined_trainer()
    trainer.probe.turn = 1  # no first look
    assert [len(r) for r in trainer.probe.rows] == [0, 0]
    held = {id(p) for group in trainer.learner.optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in trainer.teacher.probe.parameters()}
    for t in range(3):
        run_update(trainer, BATCHES, t, 0.5, updates=t)
    assert trainer.student.examinations == 6
    assert [len(r) for r in trainer.probe.rows] == [36, 18] and trainer.objective.examined is None


@pytest.mark.parametrize(
    "settings", [dict(states="direct"), dict(objective="loss", contrast={})], ids=["direct", "no kinds"]
)
def test_no_probe_where_there_is_nothing_to_learn_it_from(settings):
    trainer = examined_trainer(**settings)
    run_update(trainer, BATCHES, 0, 0.5)
    assert trainer.probe is None and trainer.student.examinations == 0
    assert make_trainer(*fresh(adam), **CONTRAST).probe is None, "a student that cannot examine dev batches"


def dev_batches():
    seeds = itertools.count()
    return lambda: toy_batch(9, next(seeds))


@pytest.mark.parametrize("capacity, looked", [(4000, 64), (100, 6)])
def test_the_first_look(capacity, looked):
    """Before the first teacher update, and never again; no more dev batches than the probe keeps; the kinds alike."""
    trainer, taken = examined_trainer(start=2, interval=2), []
    trainer.probe.capacity = capacity
    before = copy.deepcopy(trainer.teacher.probe.state_dict())
    batches = dev_batches()

    def dev_batch():
        taken.append(trainer.updates)
        return batches()

    for t in range(5):
        run_update(trainer, BATCHES, t, 0.5, updates=t, dev_batch=dev_batch)
    assert taken == [2] * (looked + 1) + [4]
    assert trainer.student.examinations == 3 * looked + 4
    assert [len(r) for r in trainer.probe.rows] == [18 * (looked + 1)] * 2
    assert trainer.probe.turn == 4
    for head in range(2):
        name = f"nets.{head}.0.weight"
        assert not torch.equal(before[name], trainer.teacher.probe.state_dict()[name])


def test_the_first_look_tells_sound_from_spoilt():
    """By itself, before any turn: the labels of `constant` are all the same. Not so without it: the negative control."""
    scores = {}
    for begun in (True, False):
        trainer = examined_trainer(hidden=64)
        student, examine = trainer.student, trainer.student.examine

        def readable(batch):  # a label that can be read off the states
            seen = examine(batch)
            seen.internal[0][:, 0] = batch[1]
            return seen

        student.examine = readable
        if begun:
            trainer._begin_probe(dev_batches())
        batches = [toy_batch(9, 900 + n) for n in range(40)]
        spoilt = [student.corrupt(batch, "constant", 0) for batch in batches]
        rows = [torch.cat([trainer.features(*student.examine(b)) for b in each]) for each in (batches, spoilt)]
        y = np.repeat([1, 0], len(rows[0]))
        scores[begun] = roc_auc_score(y, trainer.teacher.probe(torch.cat(rows))[:, 1])
    assert scores[True] > 0.9 and scores[False] < 0.6, scores


def test_the_first_look_is_not_repeated_after_resuming():
    one = examined_trainer()
    run_update(one, BATCHES, 0, 0.5)
    other = examined_trainer()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for trainer in (one, other):
        trainer.student.examinations = 0
        run_update(trainer, BATCHES, 1, 0.5, updates=1)
        assert trainer.student.examinations == 2
    assert examined_trainer().probe.turn == 0


def test_the_first_look_without_a_kind_that_cannot_be_made():
    trainer = examined_trainer(contrast={"impossible": 0.5, "constant": 0.5})
    run_update(trainer, BATCHES, 0, 0.5)
    assert [len(r) for r in trainer.probe.rows] == [0, 1152]


def test_a_probe_is_saved_and_restored():
    one = examined_trainer()
    for t in range(4):
        run_update(one, BATCHES, t, 0.5, updates=t)
    other = examined_trainer()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    rows = torch.randn(5, one.teacher.layout.width, dtype=torch.float64)
    assert torch.equal(one.teacher.probe(rows), other.teacher.probe(rows)) and one.teacher.probe(rows).abs().max() > 0
    with pytest.raises(L2RWError, match="--teacher-states"):
        examined_trainer(states="direct").load_state_dict(one.state_dict())


def test_the_exact_teacher_gradient_through_a_probe():
    """sum_i dJ/dw_i dw_i/d omega with the scores that the weights were made with, though the probe learns on."""
    trainer = examined_trainer(replay=0, prior_strength=0.0)
    trainer.probe.learn(0, torch.randn(20, trainer.teacher.layout.width), torch.randn(20, trainer.teacher.layout.width) + 1)
    teacher = copy.deepcopy(trainer.teacher)
    seen, step = {}, trainer.learner.optimizer.step

    def watched():
        seen.update((n, p.grad) for n, p in trainer.teacher.named_parameters())
        step()

    trainer.learner.optimizer.step = watched
    rows = []
    record = trainer.record
    trainer.record = lambda batch, features, *others: (rows.append(features), record(batch, features, *others))
    report, _ = run_update(trainer, BATCHES, 3, 0.5)
    loss = (teacher(torch.cat(rows))[:, 0] * report.weight_gradient).sum()
    names, parameters = zip(*[(n, p) for n, p in teacher.named_parameters() if n.startswith("nets.0")])
    for name, want in zip(names, torch.autograd.grad(loss, parameters)):
        assert torch.allclose(seen[name], want, rtol=1e-5, atol=1e-6 * float(want.abs().max())), name
        assert want.abs().max() > 1e-6, name


def test_dropout_of_the_inputs():
    """Drawn from the generator alone, in training alone, and right on average; torch's own stream is left alone."""
    probe, some = trained().probe, rows(40, 5)
    plain = probe.logit(some, 0)
    before = torch.get_rng_state()
    draw = lambda seed: probe.logit(some, 0, torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4)) and not torch.equal(draw(3), plain)
    assert torch.equal(torch.get_rng_state(), before)
    linear = torch.nn.Linear(probe._inputs(some).shape[1], 1)
    probe.nets[0] = linear  # of a linear probe the mean over many masks is what there is without
    mean = torch.stack([draw(seed) for seed in range(2000)]).mean(0)
    assert torch.allclose(mean, probe.logit(some, 0), atol=0.1)
