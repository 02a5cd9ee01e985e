"""Numbers that go wrong: the student's own update is that of plain training, and the trainer counts what came to nothing."""

import copy

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer, influence
from fairseq_l2rw.meta.skipped import MOST_SKIPPED_IN_A_ROW
from tests.meta.harness import fresh, make_trainer, run_update
from tests.oracles import toy_batch

BATCHES = [toy_batch(5, 1), toy_batch(4, 2)]


def adam(p):
    return torch.optim.Adam(p, lr=0.05, eps=1e-3)


def trainer_of(**settings):
    return make_trainer(*fresh(adam), **settings)


def parameters(trainer):
    return [p.detach().clone() for p in trainer.student.module.parameters()]


def poisoned(trainer, times, kind):
    """The dev loss is spoilt for the next ``times`` passes."""
    dev_loss, left = trainer.student.dev_loss, [times]

    def spoilt(batch):
        loss = dev_loss(batch)
        if left[0] > 0:
            left[0] -= 1
            if kind == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return loss * {"nan": float("nan"), "infinite": float("inf")}[kind]
        return loss

    trainer.student.dev_loss = spoilt


@pytest.mark.parametrize("kind", ["nan", "infinite", "memory"])
@pytest.mark.parametrize("settings", [{}, dict(objective="contrastive", contrast={"rotated": "auto"}, replay=2,
                                               prior_strength=0.1, momentum=0.8)], ids=["loss", "contrastive"])  # fmt: skip
def test_a_dev_gradient_that_is_none(kind, settings):
    """Two updates are skipped, then all goes on; the teacher and its averages are not touched by what is not a number."""
    trainer, plain = trainer_of(**settings), trainer_of(**{**settings, "interval": 1000})
    poisoned(trainer, 2, kind)
    nets = copy.deepcopy(trainer.teacher.nets.state_dict())
    for t in range(2):
        assert run_update(trainer, BATCHES, t, 0.5, updates=t)[0] is None
    assert (trainer.skipped, trainer.skipped_in_a_row) == (2, 2)
    assert all(torch.equal(a, b) for a, b in zip(nets.values(), trainer.teacher.nets.state_dict().values()))
    # the student steps as where no teacher update is due
    for t in range(2):
        run_update(plain, BATCHES, t, 0.5, updates=t + 1)
    assert plain.skipped == 0
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainer), parameters(plain)))
    for t in range(2, 6):
        assert run_update(trainer, BATCHES, t, 0.5, updates=t)[0] is not None
    assert (trainer.skipped, trainer.skipped_in_a_row) == (2, 0)
    assert all(torch.isfinite(t).all() for t in trainer.teacher.state_dict().values())
    changed = zip(nets.values(), trainer.teacher.nets.state_dict().values())
    assert any(not torch.equal(a, b) for a, b in changed)


@pytest.mark.parametrize("kind, says", [("nan", "is not finite: .*--lr"), ("memory", "smaller --meta-max-tokens")])
def test_ten_in_a_row_stop_the_run(kind, says):
    trainer = trainer_of()
    poisoned(trainer, MOST_SKIPPED_IN_A_ROW - 1, kind)
    for t in range(MOST_SKIPPED_IN_A_ROW):
        run_update(trainer, BATCHES, t, 0.5, updates=t)  # nine, and one that is well
    assert (trainer.skipped, trainer.skipped_in_a_row) == (MOST_SKIPPED_IN_A_ROW - 1, 0)
    poisoned(trainer, 99, kind)
    with pytest.raises(L2RWError, match=f"10 teacher updates in a row came to nothing; the last: .*{says}") as caught:
        for t in range(MOST_SKIPPED_IN_A_ROW):
            run_update(trainer, BATCHES, t, 0.5, updates=t)
    assert t == MOST_SKIPPED_IN_A_ROW - 1 and "\n" not in str(caught.value)


def test_the_row_goes_on_after_a_resume():
    one, other = trainer_of(), trainer_of()
    poisoned(one, 3, "nan")
    for t in range(3):
        run_update(one, BATCHES, t, 0.5, updates=t)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert (other.skipped, other.skipped_in_a_row) == (3, 3)


def spoil_influences(patch, kind, value):
    """Forward mode gives one influence that is `value`, or finds no memory, until the patch is undone."""
    forward = influence.MODES["forward"]

    def spoilt(*arguments):
        if kind == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        losses, c = forward(*arguments)
        return losses, torch.where(torch.arange(len(c)) == 1, value, c)

    patch.setitem(influence.MODES, "forward", spoilt)


@pytest.mark.parametrize("kind", ["overflow", "memory"])
def test_an_influence_that_is_none(kind, monkeypatch):
    trainer = trainer_of()
    with monkeypatch.context() as patch:
        spoil_influences(patch, kind, float("inf"))
        assert run_update(trainer, BATCHES, 0, 0.5)[0] is None and trainer.skipped == 1
    assert run_update(trainer, BATCHES, 1, 0.5, updates=1)[0] is not None
    assert all(torch.isfinite(t).all() for t in trainer.teacher.state_dict().values())


def test_a_student_update_that_overflowed_is_counted():
    """It never came to its step; the update begins again with the same number."""
    trainer = trainer_of(start=1)
    trainer.begin_update(0)
    trainer.begin_update(0)
    assert trainer.skipped == 0  # no teacher update was due
    run_update(trainer, BATCHES, 0, 0.5, updates=0)
    trainer.begin_update(1)
    assert run_update(trainer, BATCHES, 1, 0.5, updates=1)[0] is not None
    assert (trainer.skipped, trainer.skipped_in_a_row) == (1, 0)


def extreme(value, **settings):
    trainer = trainer_of(**settings)
    with torch.no_grad():
        for head in trainer.teacher.nets:
            head.bias.fill_(value)
    return trainer


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
@pytest.mark.parametrize("value", [-200.0, -30.0, 200.0])
def test_weights_that_are_all_nearly_zero_or_one(normalization, value):
    trainer = extreme(value, normalization=normalization, replay=2, prior_strength=0.1)
    for t in range(3):
        report, step = run_update(trainer, BATCHES, t, 0.5, updates=t)
        assert report is not None and torch.isfinite(report.weight_gradient).all()
    assert trainer.skipped == 0
    assert all(torch.isfinite(p).all() for p in parameters(trainer))
    assert all(torch.isfinite(t).all() for t in trainer.teacher.state_dict().values())
    if normalization == "batch" and value < 0:
        assert all(bool((w == 1).all()) for w in step.weights)


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
def test_batches_of_one_sentence(normalization):
    """Of the training and of the dev set; with `batch` the one weight cancels, so its gradient is zero."""
    trainer = trainer_of(normalization=normalization, replay=2, prior_strength=0.1)
    trainer_dev = trainer.after_step
    trainer.after_step = lambda dev_batch: trainer_dev(lambda: toy_batch(1, 8))
    for t in range(3):
        report, _ = run_update(trainer, [toy_batch(1, t)], t, 0.5, updates=t)
        assert report is not None
        assert (float(report.weight_gradient.abs().max()) < 1e-12) == (normalization == "batch")
    assert trainer.skipped == 0 and all(torch.isfinite(p).all() for p in parameters(trainer))


@pytest.mark.parametrize("objective", [dict(objective="loss"), dict(objective="contrastive", contrast={"rotated": "auto"})],
                         ids=lambda o: o["objective"])  # fmt: skip
def test_a_loss_of_exactly_zero(objective):
    """Nothing is left to learn: no gradient, no influence, and no division by it."""
    trainer = trainer_of(replay=2, prior_strength=0.1, **objective)
    losses = trainer.student.losses
    trainer.student.losses = lambda batch: (losses(batch)[0] * 0, batch[2])
    for t in range(4):
        report, _ = run_update(trainer, BATCHES, t, 0.5, updates=t)
        assert report is not None and report.meta_loss == 0 and not report.influence.any()
    assert trainer.skipped == 0
    assert all(torch.isfinite(t).all() for t in trainer.teacher.state_dict().values())


def test_a_dummy_batch_after_a_real_one():
    """--update-freq 2, and the worker runs out after the first: that one's loss counts, its size does not."""
    from tests.meta.test_trainer import finish, record

    def update(ignored):
        trainer = trainer_of(normalization="tokens")
        trainer.begin_update(0)
        torch.manual_seed(3)
        record(trainer, BATCHES[0])
        if ignored:
            record(trainer, BATCHES[1])
            trainer.ignore()
        return trainer, finish(trainer)

    trainer, report = update(True)
    assert report is None and trainer.skipped == 1  # alone, its denominator is zero: no teacher update, and no error
    _, report = update(False)
    assert len(report.influence) == 5


@pytest.mark.parametrize(
    "settings, says",
    [
        (dict(window=2), "--meta-window 2 needs single precision; leave out --fp16, --bf16 or --amp, or give 1"),
        (dict(gradient="finite-difference"), "--meta-gradient finite-difference needs single precision; .* give forward"),
        (dict(gradient="unrolled"), "--meta-gradient unrolled needs single precision"),
    ],
)
def test_what_half_precision_cannot_do(settings, says):
    student, _ = fresh(adam)
    with pytest.raises(L2RWError, match=says):
        MetaTrainer(student, FeatureLayout(()), MetaConfig(objective="loss", **settings), half=True)


def test_finite_differences_do_not_take_over_in_half_precision(monkeypatch):
    from fairseq_l2rw.meta import influence

    def none(*arguments):
        raise influence.NoForwardMode("no rule for _cudnn_rnn")

    trainer = trainer_of()
    trainer.gradients.repeated.half = True
    monkeypatch.setitem(influence.MODES, "forward", none)
    with pytest.raises(L2RWError, match="no forward-mode rule .*_cudnn_rnn.*leave out --fp16, --bf16 or --amp"):
        run_update(trainer, BATCHES, 0, 0.5)


# ---- a reweighter without a network ------------------------------------------


@pytest.mark.parametrize("kind", ["nan", "infinite", "memory"])
def test_l2r_with_a_dev_gradient_that_is_none(kind):
    """Two updates are plain training's, and counted; then the weights are the rule's again."""
    trainer, plain = trainer_of(teacher="l2r"), trainer_of(teacher="l2r", start=1000)
    poisoned(trainer, 2, kind)
    for t in range(2):
        assert run_update(trainer, BATCHES, t, 0.5, updates=t)[0] is None
        run_update(plain, BATCHES, t, 0.5, updates=t)
    assert (trainer.skipped, trainer.skipped_in_a_row, plain.skipped) == (2, 2, 0)
    assert all(torch.equal(a, b) for a, b in zip(parameters(trainer), parameters(plain)))
    other = trainer_of(teacher="l2r")
    other.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert (other.skipped, other.skipped_in_a_row) == (2, 2)
    report, step = run_update(trainer, BATCHES, 2, 0.5, updates=2)
    assert report is not None and (trainer.skipped, trainer.skipped_in_a_row) == (2, 0)
    assert not all(bool((w == 1).all()) for w in step.weights)  # negative control


@pytest.mark.parametrize("kind", ["overflow", "memory"])
def test_l2r_with_influences_that_are_none(kind, monkeypatch):
    """Without numbers no weights: the batch counts as in plain training, it is not left out."""
    spoil_influences(monkeypatch, kind, float("nan"))
    trainer = trainer_of(teacher="l2r")
    with pytest.raises(L2RWError, match="10 teacher updates in a row came to nothing; the last: influences .* smaller --max-tokens"):
        for t in range(MOST_SKIPPED_IN_A_ROW):
            report, step = run_update(trainer, BATCHES, t, 0.5, updates=t)
            assert report is None and all(bool((w == 1).all()) for w in step.weights)
    assert t == MOST_SKIPPED_IN_A_ROW - 1 and all(torch.isfinite(p).all() for p in parameters(trainer))
