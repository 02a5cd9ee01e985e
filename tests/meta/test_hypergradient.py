"""The hypergradient against oracles that go through the optimizers' own steps, in float64."""

import copy

import pytest
import torch

from fairseq_l2rw.meta import linearize
from tests.meta.harness import fresh, make_trainer, run_update
from tests.oracles import brute_force, through_torch_step, toy_batch

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
TORCH = {
    "sgd": lambda p, **k: SGD(p, lr=0.3, **k),
    "sgd-decay": lambda p, **k: SGD(p, lr=0.3, weight_decay=0.1, **k),
    "sgd-momentum": lambda p, **k: SGD(p, lr=0.3, momentum=0.9, weight_decay=0.1, **k),
    "sgd-dampening": lambda p, **k: SGD(p, lr=0.3, momentum=0.9, dampening=0.4, **k),
    "sgd-nesterov": lambda p, **k: SGD(p, lr=0.3, momentum=0.8, nesterov=True, **k),
    "adam": lambda p, **k: ADAM(p, lr=0.05, eps=1e-3, **k),
    "adam-decay": lambda p, **k: ADAM(p, lr=0.05, eps=1e-3, weight_decay=0.1, **k),
    "adamw": lambda p, **k: ADAMW(p, lr=0.05, eps=1e-3, weight_decay=0.1, **k),
}
BATCHES = [toy_batch(5, 1), toy_batch(4, 2)]
SEED = 11


def fairseq_adam(p, **k):
    return pytest.importorskip("fairseq.optim.adam").Adam(p, lr=0.05, eps=1e-3, weight_decay=0.1, **k)


def relative(a, b):
    return float((a - b).norm() / b.norm())


@pytest.fixture(autouse=True)
def rules():
    pytest.importorskip("fairseq")
    import fairseq_l2rw.translation.optim  # noqa: F401  (registers fairseq's adam)


def ours(make, steps=3, max_norm=0.0, **settings):
    """(weight gradient, state before the step, weights, sizes)."""
    student, optimizer = fresh(make, steps)
    before = copy.deepcopy((student, optimizer))
    report, weights, sizes = run_update(make_trainer(student, optimizer, **settings), BATCHES, SEED, max_norm)
    return report.weight_gradient, before, weights, sizes


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
@pytest.mark.parametrize("max_norm", [0.0, 0.05, 50.0])
@pytest.mark.parametrize("name", TORCH)
def test_equals_autograd_through_torchs_own_step(name, max_norm, normalization):
    got, (student, optimizer), weights, sizes = ours(TORCH[name], max_norm=max_norm, normalization=normalization)
    want = through_torch_step(
        student, TORCH[name], optimizer.state_dict(), BATCHES, weights, sizes, normalization,
        max_norm, SEED, toy_batch(9, 7), {None: 1.0},
    )  # fmt: skip
    assert want.abs().max() > 1e-5
    assert relative(got, want) < 1e-6


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("name", ["sgd-momentum", "adam", "fairseq-adam"])
def test_equals_brute_force_through_the_real_step(name, max_norm, normalization):
    make = TORCH.get(name, fairseq_adam)
    got, (student, optimizer), weights, sizes = ours(make, max_norm=max_norm, normalization=normalization)
    want = brute_force(
        student, optimizer, BATCHES, weights, sizes, normalization, max_norm, SEED, toy_batch(9, 7), {None: 1.0}
    )
    assert want.abs().max() > 1e-5
    assert relative(got, want) < 1e-6


@pytest.mark.parametrize("name", ["sgd", "sgd-momentum", "sgd-nesterov", "adamw"])
def test_first_step_of_all(name):
    got, (student, optimizer), weights, sizes = ours(TORCH[name], steps=0)
    want = brute_force(student, optimizer, BATCHES, weights, sizes, "tokens", 0.0, SEED, toy_batch(9, 7), {None: 1.0})
    assert relative(got, want) < 1e-6


@pytest.mark.parametrize("name", [*TORCH, "fairseq-adam"])
@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("normalization", ["tokens", "batch"])
def test_unrolled_and_forward_agree(name, max_norm, normalization):
    make = TORCH.get(name, fairseq_adam)
    forward = ours(make, max_norm=max_norm, normalization=normalization, gradient="forward")[0]
    unrolled = ours(make, max_norm=max_norm, normalization=normalization, gradient="unrolled")[0]
    assert relative(forward, unrolled) < 1e-6


def test_finite_differences_come_close():
    exact = ours(TORCH["adam"], gradient="forward")[0]
    assert relative(ours(TORCH["adam"], gradient="finite-difference")[0], exact) < 1e-6


def test_contrastive_objective():
    got, (student, optimizer), weights, sizes = ours(
        TORCH["adam"], max_norm=0.05, objective="contrastive", contrast={"rotated": 0.7}
    )
    want = brute_force(
        student, optimizer, BATCHES, weights, sizes, "tokens", 0.05, SEED, toy_batch(9, 7), {None: 1.0, "rotated": -0.7}
    )
    assert relative(got, want) < 1e-6


def test_weighted_sum_is_zero_for_batch_only():
    for normalization, zero in (("batch", True), ("tokens", False)):
        got, _, weights, _ = ours(TORCH["adam"], normalization=normalization)
        total = float((got * torch.cat(weights)).sum().abs() / (got * torch.cat(weights)).abs().sum())
        assert (total < 1e-9) == zero


class WrongSign(linearize.sgd.SGDRule):
    def adjoint(self, *args):
        return [-v for v in super().adjoint(*args)]


class ForgotMomentumsShare(linearize.sgd.SGDRule):
    @staticmethod
    def _gain(group, has_buffer):
        return 1.0


@pytest.mark.parametrize("wrong", [WrongSign, ForgotMomentumsShare])
def test_a_wrong_rule_is_noticed(wrong, monkeypatch):
    name = "sgd-dampening"
    monkeypatch.setitem(linearize._RULES, SGD, wrong())
    got, (student, optimizer), weights, sizes = ours(TORCH[name])
    want = brute_force(student, optimizer, BATCHES, weights, sizes, "tokens", 0.0, SEED, toy_batch(9, 7), {None: 1.0})
    assert relative(got, want) > 0.1


def test_forgetting_the_clipping_is_noticed():
    make = TORCH["sgd"]
    student, optimizer = fresh(make)
    before = copy.deepcopy((student, optimizer))
    trainer = make_trainer(student, optimizer)
    before_step = trainer.before_step
    trainer.before_step = lambda raw, max_norm: before_step(None, 0.0)
    report, weights, sizes = run_update(trainer, BATCHES, SEED, 0.05)
    want = brute_force(*before, BATCHES, weights, sizes, "tokens", 0.05, SEED, toy_batch(9, 7), {None: 1.0})
    assert relative(report.weight_gradient, want) > 0.1


def test_other_dropout_masks_are_noticed(monkeypatch):
    from contextlib import contextmanager

    from fairseq_l2rw.meta.functional import RandomState

    @contextmanager
    def not_replayed(self):
        yield

    right = ours(TORCH["adam"])[0]
    monkeypatch.setattr(RandomState, "replayed", not_replayed)
    assert relative(ours(TORCH["adam"])[0], right) > 1e-2


def test_the_teachers_gradient_is_that_of_the_dev_loss():
    """d J / d omega against finite differences of J over one teacher parameter at a time."""
    make, max_norm = TORCH["adam"], 0.05
    student, optimizer = fresh(make)
    before = copy.deepcopy((student, optimizer))
    trainer = make_trainer(student, optimizer)
    seen = {}
    trainer.teacher_optimizer.step = lambda: seen.update(
        {n: p.grad.clone() for n, p in trainer.teacher.named_parameters()}
    )
    teacher = copy.deepcopy(trainer.teacher)
    report, weights, sizes = run_update(trainer, BATCHES, SEED, max_norm)
    rows = torch.cat(trainer_rows(before[0]))
    weight_gradient = report.weight_gradient
    for name, p in teacher.named_parameters():
        flat = p.data.view(-1)
        index = int(seen[name].abs().argmax())
        values = []
        for delta in (1e-5, -1e-5):
            flat[index] += delta
            values.append(float((teacher(rows).prod(1).detach() * weight_gradient).sum()))
            flat[index] -= delta
        want = (values[0] - values[1]) / 2e-5
        assert abs(float(seen[name].view(-1)[index]) - want) <= 1e-5 * abs(want) + 1e-9, name


def trainer_rows(student):
    """Features of the micro-batches as run_update makes them."""
    from fairseq_l2rw.meta.features import RunningScalars, feature_rows

    torch.manual_seed(SEED)
    rows = []
    for batch in BATCHES:
        losses, n_tokens = student.losses(batch)
        internal = student.module.embedding(batch[0]).mean(1)
        rows.append(feature_rows(losses, n_tokens, torch.full_like(n_tokens, 4), [internal], RunningScalars(), 0.0))
    return rows
