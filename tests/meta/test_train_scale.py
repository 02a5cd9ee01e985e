"""The distance between sound and spoilt training examples, and the scale that comes of it."""

import math

import pytest
import torch

from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer
from fairseq_l2rw.meta.functional import RandomState
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.train_scale import FEWEST, FIRST, INTERVAL, SHARE, SMALLEST, TrainScale
from fairseq_l2rw.meta.workers import Workers
from tests.meta.harness import fresh, run_update
from tests.meta.learnable import learnable_batch
from tests.oracles import ToyStudent, toy_batch


class Selective(ToyStudent):
    """A toy student that gives parts of a batch, and keeps what it was asked for."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.chosen = []

    def subset(self, batch, index):
        self.chosen.append(index)
        return tuple(part[index] for part in batch)


def record_of(batch, weights):
    _, labels, n_tokens = batch
    rows = torch.zeros(len(labels), 0)
    return BatchRecord(batch, rows, rows, weights, n_tokens, n_tokens, n_tokens, RandomState.capture())


def vector_of(student, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in student.module.parameters()]


def weights_of(n, seed=4):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance_by_hand(student, batch, weights, vector, kind="rotated", step=1e-6):
    """The same from losses alone: central differences along v, of the examples that the definition names."""
    chosen = sorted(sorted(range(len(weights)), key=lambda i: -weights[i])[: max(FEWEST, round(0.2 * len(weights)))])
    sound = tuple(part[chosen] for part in batch)
    spoilt = student.corrupt(sound, kind, 0)
    mode = student.module.training
    student.module.eval()
    values = []
    with torch.no_grad():
        for sign in (1, -1):
            for p, v in zip(student.module.parameters(), vector):
                p.add_(v, alpha=sign * step)
            values.append(float(student.dev_loss(spoilt) - student.dev_loss(sound)))
            for p, v in zip(student.module.parameters(), vector):
                p.sub_(v, alpha=sign * step)
    student.module.train(mode)
    return (values[0] - values[1]) / (2 * step), float(batch[2][chosen].sum())


def take(scale, student, vector, records, head=0, kind="rotated", seed=1):
    scale.take(head, kind, student, list(student.module.parameters()), vector, records, seed)


@pytest.mark.parametrize("n", [7, 40, 200])
def test_the_distance_is_that_of_losses_along_v(n):
    student, batch, weights = Selective(), toy_batch(n, 2), weights_of(n)
    vector, scale = vector_of(student), TrainScale(1)
    want, _ = distance_by_hand(student, batch, weights, vector)
    take(scale, student, vector, [record_of(batch, weights)])
    assert abs(want) > 1e-2
    assert scale.means == [pytest.approx(want, rel=1e-6)]
    (chosen,) = student.chosen
    assert len(chosen) == min(n, max(16, n // 5)) and weights[chosen].min() >= weights.sort(descending=True).values[len(chosen) - 1]


def test_micro_batches_count_by_their_tokens_whoever_has_them():
    student = Selective()
    vector, records, want, tokens = vector_of(student), [], 0.0, 0.0
    for seed, n in ((2, 40), (3, 21)):
        batch, weights = toy_batch(n, seed), weights_of(n, seed)
        distance, own = distance_by_hand(student, batch, weights, vector)
        want, tokens = want + distance * own, tokens + own
        records.append(record_of(batch, weights))
    alone = TrainScale(1)
    take(alone, student, vector, records)
    assert alone.means == [pytest.approx(want / tokens, rel=1e-6)]

    class Two(Workers):
        count = 2
        sums = torch.zeros(2, dtype=torch.float64)

        def add_up(self, tensors):
            self.sums = self.sums + tensors[0]
            return [self.sums]

    for parts in ([records[:1], records[1:]], [[], records]):
        workers = Two()
        for part in parts:
            scale = TrainScale(1, workers=workers)
            take(scale, student, vector, part)
        assert scale.means == [pytest.approx(want / tokens, rel=1e-6)]


def test_it_is_measured_in_each_of_the_first_turns_and_in_some_of_those_that_follow():
    student = Selective()
    vector, record, scale, measured = vector_of(student), record_of(toy_batch(9, 2), weights_of(9)), TrainScale(2), []
    for turn in range(FIRST + 3 * INTERVAL):
        before = scale.counts[1]
        take(scale, student, vector, [record], head=1)
        if scale.counts[1] > before:
            measured.append(turn)
    assert measured[:FIRST] == list(range(FIRST))
    assert {b - a for a, b in zip(measured[FIRST:], measured[FIRST + 1 :])} == {INTERVAL}
    assert scale.counts[0] == 0, "the other head has turns of its own"


def test_examples_that_cannot_be_spoilt_count_for_nothing():
    student = Selective()
    scale, record = TrainScale(1), record_of(toy_batch(9, 2), weights_of(9))
    take(scale, student, vector_of(student), [record], kind="impossible")
    take(scale, student, vector_of(student), [])
    take(scale, student, [torch.full_like(p, float("nan")) for p in student.module.parameters()], [record])
    with torch.no_grad():
        for p in student.module.parameters():
            p.fill_(float("nan"))
    take(scale, student, vector_of(student), [record])
    assert scale.counts == [0] and scale(0, 2.0, 10.0) == 2.0


def averaged(distances):
    scale = TrainScale(1)
    for distance in distances:
        scale._average(0, distance)
    return scale


def test_the_average_is_the_mean_at_first_and_then_exponential():
    values = [float(v) for v in weights_of(30)]
    scale = averaged(values)
    want = sum(values[:10]) / 10
    for value in values[10:]:
        want = (1 - SHARE) * want + SHARE * value
    assert scale.means == [pytest.approx(want)]


def test_which_scale_is_in_force():
    """Half the distance for pairs of that length; never above the dev scale, nor far below it."""
    alike = averaged([0.02] * FIRST)
    assert alike(0, 1.0, 20.0) == pytest.approx(0.5 * 20 * 0.02)
    assert alike(0, 0.1, 20.0) == 0.1
    assert alike(0, 10.0, 20.0) == pytest.approx(SMALLEST * 10)
    assert averaged([0.02] * (FIRST - 1))(0, 1.0, 20.0) == 1.0, "too few to tell"
    assert averaged([-0.02] * FIRST)(0, 1.0, 20.0) == 1.0, "spoilt pairs look better"


@pytest.mark.parametrize("spread, stands_out", [(1.0, True), (1.9, False)])
def test_an_average_within_its_own_error_is_not_used(spread, stands_out):
    """FIRST values 1 +- spread, in turn: their standard error is spread / sqrt(FIRST - 1), twice that 0.76 and 1.44."""
    scale = averaged([1 + spread * (-1) ** i for i in range(FIRST)])
    assert (2 * spread / math.sqrt(FIRST - 1) < 1) == stands_out
    assert scale(0, 5.0, 2.0) == (pytest.approx(1.0) if stands_out else 5.0)


def test_a_copy_goes_on_as_the_original():
    one = averaged([0.1, 0.2, 0.3])
    other = TrainScale(1)
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    one._average(0, 0.4)
    assert other.state_dict() != one.state_dict(), "a copy, not the same lists"


# ---- in a training ----------------------------------------------------------


def trainer_of(student_class=Selective, **settings):
    student, optimizer = fresh(lambda p: torch.optim.Adam(p, lr=0.02, eps=1e-3), student_class=student_class)
    given = dict(contrast={"rotated": "auto", "constant": "auto"}, start=0, momentum=0.8, replay=2, replay_batch=16)
    trainer = MetaTrainer(student, FeatureLayout((6,)), MetaConfig(**{**given, **settings}), hidden=4)
    trainer.teacher.double()
    trainer.attach(optimizer)
    return trainer


def trained(updates, **settings):
    trainer = trainer_of(**settings)
    for t in range(updates):
        batches = [learnable_batch(24, 10 + 2 * t + k, wrong=0.5)[0] for k in range(2)]
        run_update(trainer, batches, t, 0.5, updates=t, dev_batch=lambda t=t: learnable_batch(20, 1000 + t)[0])
    return trainer


@pytest.mark.parametrize(
    "settings",
    [{"gradient": g} for g in ("forward", "backward", "ghost", "finite-difference")] + [{"window": 2, "interval": 2}],
    ids=str,
)
def test_v_is_that_of_the_newest_step(settings, monkeypatch):
    """What is measured is the distance along the vector whose products with gradients are the influences."""
    trainer = trainer_of(**settings)
    seen = []
    monkeypatch.setattr(
        trainer.train_scale, "take", lambda head, kind, student, parameters, vector, records, seed:
        seen.append((kind, [v.clone() for v in vector], records)),
    )  # fmt: skip
    step = trainer.gradients.window.before_step
    gradients = []

    def before_step(*words):
        gradients[:] = [None if p.grad is None else p.grad.clone() for p in trainer.parameters]
        return step(*words)

    monkeypatch.setattr(trainer.gradients.window, "before_step", before_step)
    reports = []
    for t in range(8):
        batches = [toy_batch(6, 10 + 2 * t + k) for k in range(2)]
        report = run_update(trainer, batches, t, 0.0, updates=t)[0]
        if report is not None:
            reports.append((report, gradients[:]))
    assert len(seen) == len(reports) >= 3
    for (kind, vector, records), (report, gradient) in zip(seen, reports):
        assert report.head == kind and len(records) == 2
        newest = report.shares[-12:].sum()  # the step's gradient along v is the sum of its examples' shares
        along = sum(float((g * v).sum()) for g, v in zip(gradient, vector) if g is not None)
        assert abs(along) > 1e-5
        assert along == pytest.approx(float(newest), rel=1e-3 if settings.get("gradient") == "finite-difference" else 1e-6)


def test_a_student_without_parts_an_objective_without_kinds_or_a_teacher_without_prior_has_none():
    assert trainer_of().train_scale is not None
    for settings in ({"student_class": ToyStudent}, {"scale": "dev"}, {"objective": "loss"}, {"prior_strength": 0.0}):
        trainer = trainer_of(**settings)
        assert trainer.train_scale is None and trainer.state_dict()["train_scale"] is None


def test_kinds_that_only_dev_batches_can_be_spoilt_in_keep_the_dev_scale():
    class DevOnly(Selective):
        dev_only = ("constant",)

    trainer = trained(8, student_class=DevOnly)
    assert trainer.config.heads == ("rotated", "constant") and trainer.train_scale.counts == [4, 0]
    dev = type("Dev", (), {"head": 1, "alpha": 0.3})()
    assert trainer._influence_scale(dev, torch.ones(3)) == trainer.objective.scale(dev, trainer.mean_tokens)
    assert set(trainer._scales()) == {"rotated"}
    assert trained(8).train_scale.counts == [4, 4] and set(trained(8)._scales()) == {"rotated", "constant"}


def test_the_training_of_the_student_is_disturbed_by_nothing_but_the_weights():
    """The first measurements change no scale yet: everything is as with the dev scale, random numbers included."""
    few = 2 * (FIRST - 1)
    one, other = trained(few), trained(few, scale="dev")
    assert one.train_scale.counts == [FIRST - 1] * 2
    for a, b in zip(one.student.module.parameters(), other.student.module.parameters()):
        assert torch.equal(a, b)
    later, without = trained(few + 30), trained(few + 30, scale="dev")
    assert any(not torch.equal(a, b) for a, b in zip(later.teacher.parameters(), without.teacher.parameters()))


def test_the_scale_in_force_is_what_the_teacher_learns_from():
    """Targets are influences over the scale: with a tenth of it they are ten times as large."""
    trainer = trained(20)
    dev = type("Dev", (), {"head": 0, "alpha": 0.3})()
    target = torch.ones(3)
    whole = trainer.objective.scale(dev, trainer.mean_tokens)
    trainer.train_scale.means[0], trainer.train_scale.squares[0] = 0.2 * whole / trainer.mean_tokens, 0.0
    trainer.train_scale.counts[0] = FIRST
    assert trainer._influence_scale(dev, target) == pytest.approx(0.1 * whole)
    assert trainer.train_scale.parts == [pytest.approx(0.1), trainer.train_scale.parts[1]] == trainer.state_dict()["train_scale"]["parts"]
    report = run_update(trainer, [toy_batch(6, 1)], 0, 0.5, updates=20)[0]
    assert list(report.scales.items()) == list(zip(("rotated", "constant"), trainer.train_scale.parts))
