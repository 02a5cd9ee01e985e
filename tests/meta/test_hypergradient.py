"""The hypergradient against oracles that go through the optimizers' own steps, in float64, windows of 1 to 4 steps."""

import copy

import pytest
import torch

from fairseq_l2rw.meta import linearize
from tests.meta.harness import fresh, make_trainer, run_update
from tests.meta.optimizers import ALL, TORCH, double_stays_double, maker  # noqa: F401
from tests.oracles import DifferentiableNAG, brute_force, scale_rates, through_higher, through_torch_steps, toy_batch

pytestmark = pytest.mark.usefixtures("double_stays_double")

DEV = toy_batch(9, 7)
LOSS = {None: 1.0}
#: settings, and the terms of J as the oracles take them
OBJECTIVES = {
    "loss": ({}, LOSS),
    "contrastive": (dict(objective="contrastive", contrast={"rotated": 0.7}), {None: 1.0, "rotated": -0.7}),
}


def relative(a, b):
    return float((a - b).norm() / b.norm())


#: the families that the oracle knows with that library, and nag, for which it has a stand-in
HIGHER = [name for name in ALL if name.startswith(("sgd", "adam", "fairseq"))]
#: gradient, window: the way that fairseq-train takes by default reads a single step
EXACT_WAYS = [("backward", 1), *(("forward", window) for window in (1, 2, 3, 4))]


def ours(name, window=1, steps=3, max_norm=0.0, **settings):
    """A window of updates with two micro-batches each, the learning rate falling.

    Returns:
        ``(weight gradient, (student, optimizer) before the window, steps, trainer)``.
    """
    student, optimizer = fresh(maker(name), steps)
    before = copy.deepcopy((student, optimizer))
    trainer = make_trainer(student, optimizer, window=window, interval=window, start=0, **settings)
    taken = []
    for k in range(window):
        # the first update is due, too: a window ends where (updates - start) is a multiple of the interval
        updates = k + 1
        batches = [toy_batch(3, 10 * k + 1), toy_batch(2, 10 * k + 2)]
        report, step = run_update(trainer, batches, 11 + k, max_norm, updates, 1.0 - 0.1 * k)
        taken.append(step)
        assert (report is None) == (k < window - 1)
    return report.weight_gradient, before, taken, trainer


def taught(trainer):
    """dJ / d omega of the teacher's last step, by name."""
    return {n: p.grad for n, p in trainer.teacher.named_parameters() if p.grad is not None}


def flat(gradients):
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("gradient, window", EXACT_WAYS)
@pytest.mark.parametrize("normalization", ["tokens", "batch"])
@pytest.mark.parametrize("max_norm", [0.0, 0.05, 50.0])
@pytest.mark.parametrize("name", TORCH)
def test_equals_autograd_through_torchs_own_steps(name, max_norm, normalization, gradient, window):
    got, (student, optimizer), steps, trainer = ours(
        name, window, max_norm=max_norm, normalization=normalization, gradient=gradient
    )
    want = through_torch_steps(
        student, maker(name), optimizer.state_dict(), steps, normalization, max_norm, DEV, LOSS
    )
    assert len(got) == 5 * window and trainer.gradient_mode == gradient
    assert want.abs().max() > 1e-5
    assert relative(got, want) < 1e-6


@pytest.mark.parametrize("gradient, window", EXACT_WAYS)
@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("name", HIGHER)
def test_equals_higher(name, max_norm, gradient, window):
    got, before, steps, trainer = ours(name, window, max_norm=max_norm, normalization="batch", gradient=gradient)
    want = through_higher(*before, steps, "batch", max_norm, DEV, LOSS)
    assert trainer.gradient_mode == gradient
    assert want.abs().max() > 1e-5
    assert relative(got, want) < 1e-6


@pytest.mark.parametrize("steps", [0, 3])
def test_the_nag_that_higher_lacks_steps_as_fairseqs(steps):
    student, optimizer = fresh(maker("fairseq-nag"), steps, dropout=0.0)
    got = list(student.module.parameters())
    stepper = DifferentiableNAG(optimizer, got)
    want = [p.detach().clone().requires_grad_() for p in got]
    for k in range(3):
        scale_rates(optimizer, 0.8)
        scale_rates(stepper, 0.8)
        size = lambda theta: sum((p - k).pow(4).mean() for p in theta)  # noqa: B023, E731
        want = stepper.step(size(want), want, lambda gradients: gradients)
        optimizer.zero_grad()
        size(got).backward()
        optimizer.step()
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(got, want))


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("name", ["sgd-momentum-decay", "adam", "fairseq-adam", "fairseq-nag"])
def test_equals_brute_force_through_the_real_steps(name, max_norm, window):
    got, (student, optimizer), steps, _ = ours(name, window, max_norm=max_norm, normalization="batch")
    want = brute_force(student, optimizer, steps, "batch", max_norm, DEV, LOSS)
    assert want.abs().max() > 1e-5
    assert relative(got, want) < 1e-6


@pytest.mark.parametrize("name", ["sgd", "sgd-dampening", "sgd-nesterov", "adamw"])
def test_first_step_of_all(name):
    got, (student, optimizer), steps, _ = ours(name, 2, steps=0)
    # Adam's first step is nearly the gradient's sign: a smaller difference for its large higher derivatives
    assert relative(got, brute_force(student, optimizer, steps, "tokens", 0.0, DEV, LOSS, delta=1e-4)) < 1e-6


@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("name", ALL)
def test_unrolled_and_forward_agree(name, max_norm, window):
    forward, _, _, trainer = ours(name, window, max_norm=max_norm, gradient="forward")
    unrolled, _, _, other = ours(name, window, max_norm=max_norm, gradient="unrolled")
    assert unrolled.abs().max() > 1e-5
    assert relative(forward, unrolled) < 1e-6
    got, want = taught(trainer), taught(other)
    assert list(got) == list(want) and flat(want.values()).abs().max() > 5e-5
    for name, gradient in want.items():
        assert gradient.abs().max() > 1e-7 and relative(got[name], gradient) < 1e-6, name


@pytest.mark.parametrize("window", [1, 3])
def test_finite_differences_come_close(window):
    exact = ours("adam", window, gradient="forward")[0]
    assert relative(ours("adam", window, gradient="finite-difference")[0], exact) < 1e-5


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("gradient", ["forward", "unrolled", "finite-difference"])
@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("name", ["sgd-momentum-decay", "adam"])
def test_through_some_parameters_only(name, max_norm, gradient, window):
    got, (student, optimizer), steps, trainer = ours(
        name, window, max_norm=max_norm, gradient=gradient, params=r"^inner\.|bias"
    )
    assert len(trainer.through) == 3
    arguments = student, maker(name), optimizer.state_dict(), steps, "tokens", max_norm, DEV, LOSS
    want = through_torch_steps(*arguments, through=lambda name: "inner" in name or "bias" in name)
    assert relative(got, want) < (1e-5 if gradient == "finite-difference" else 1e-6)
    assert relative(got, through_torch_steps(*arguments)) > 0.1  # negative control


def test_contrastive_objective_by_brute_force():
    settings, terms = OBJECTIVES["contrastive"]
    got, before, steps, _ = ours("adam", 2, max_norm=0.05, **settings)
    assert relative(got, brute_force(*before, steps, "tokens", 0.05, DEV, terms)) < 1e-6


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("name", ["sgd-nesterov", "adam", "fairseq-adam", "fairseq-nag"])
def test_contrastive_objective_through_higher_and_unrolled(name, window):
    settings, terms = OBJECTIVES["contrastive"]
    got, before, steps, trainer = ours(name, window, max_norm=0.05, **settings)
    want = through_higher(*before, steps, "tokens", 0.05, DEV, terms)
    unrolled, _, _, other = ours(name, window, max_norm=0.05, gradient="unrolled", **settings)
    assert want.abs().max() > 1e-5
    assert relative(got, want) < 1e-6 and relative(unrolled, want) < 1e-6
    assert relative(flat(taught(trainer).values()), flat(taught(other).values())) < 1e-6
    assert relative(got, through_higher(*before, steps, "tokens", 0.05, DEV, LOSS)) > 0.1  # negative control


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", ["sgd-momentum-decay", "adamw", "fairseq-adam", "fairseq-nag"])
def test_an_averaged_dev_gradient_is_exact_at_first_alone(name, objective, window):
    """The first average, corrected for its beginning, is the gradient; the second is partly of older parameters."""
    settings, terms = OBJECTIVES[objective]
    for momentum in (0.0, 0.9):
        got, before, steps, trainer = ours(name, window, max_norm=0.05, momentum=momentum, **settings)
        want = through_higher(*before, steps, "tokens", 0.05, DEV, terms)
        assert want.abs().max() > 1e-5
        assert relative(got, want) < 1e-6
        before = copy.deepcopy((trainer.student, trainer.optimizer))
        taken = [run_update(trainer, [toy_batch(5, 60 + k)], 20 + k, 0.05, window + k + 1) for k in range(window)]
        want = through_higher(*before, [step for _, step in taken], "tokens", 0.05, DEV, terms)
        distance = relative(taken[-1][0].weight_gradient, want)
        assert distance > 0.01 if momentum else distance < 1e-6


def test_weighted_sum_is_zero_for_batch_only():
    for normalization, zero in (("batch", True), ("tokens", False)):
        got, _, (step,), _ = ours("adam", normalization=normalization)
        total = float((got * torch.cat(step.weights)).sum().abs() / (got * torch.cat(step.weights)).abs().sum())
        assert (total < 1e-9) == zero


class WrongSign:
    def reverse(self, *args):
        adj_g, adj_theta, adj_state = super().reverse(*args)
        return -adj_g, adj_theta, adj_state


class ForgetsTheBuffer:
    def reverse(self, *args):
        adj_g, adj_theta, _ = super().reverse(*args)
        return adj_g, adj_theta, {}


@pytest.mark.parametrize("oracle", [brute_force, through_higher])
@pytest.mark.parametrize("wrong, window", [(WrongSign, 1), (ForgetsTheBuffer, 2)])
@pytest.mark.parametrize("name", ["sgd-momentum", "fairseq-nag"])
def test_a_wrong_rule_is_noticed(name, wrong, window, oracle, monkeypatch):
    of = type(fresh(maker(name), 0)[1])
    rule = type("Wrong", (wrong, type(linearize._RULES[of])), {})
    monkeypatch.setitem(linearize._RULES, of, rule())
    got, (student, optimizer), steps, _ = ours(name, window)
    assert relative(got, oracle(student, optimizer, steps, "tokens", 0.0, DEV, LOSS)) > 0.05


def test_forgetting_the_curvature_is_noticed(monkeypatch):
    from fairseq_l2rw.meta import influence

    monkeypatch.setitem(
        influence.CURVATURES, "forward", lambda student, parameters, *rest: [torch.zeros_like(p) for p in parameters]
    )
    got, (student, optimizer), steps, _ = ours("sgd", 3)
    assert relative(got, brute_force(student, optimizer, steps, "tokens", 0.0, DEV, LOSS)) > 1e-3


def test_forgetting_the_clipping_is_noticed():
    student, optimizer = fresh(maker("sgd"))
    before = copy.deepcopy((student, optimizer))
    trainer = make_trainer(student, optimizer)
    before_step = trainer.before_step
    trainer.before_step = lambda raw, max_norm: before_step(None, 0.0)
    report, step = run_update(trainer, [toy_batch(5, 1)], 11, 0.05)
    want = brute_force(*before, [step], "tokens", 0.05, DEV, LOSS)
    assert relative(report.weight_gradient, want) > 0.1


def test_other_dropout_masks_are_noticed(monkeypatch):
    from contextlib import contextmanager

    from fairseq_l2rw.meta.functional import RandomState

    @contextmanager
    def not_replayed(self):
        yield

    right = ours("adam")[0]
    monkeypatch.setattr(RandomState, "replayed", not_replayed)
    assert relative(ours("adam")[0], right) > 1e-2


def noted_moments(trainer):
    """Where :meth:`weigh` will have been called: the teacher, as it was, and the rows."""
    weigh, moments = trainer.weigh, []

    def noted(*args):
        rows, weights = weigh(*args)
        moments.append((copy.deepcopy(trainer.teacher), rows))
        return rows, weights

    trainer.weigh = noted
    return moments


@pytest.mark.parametrize("window", [1, 3])
def test_the_teachers_gradient_is_that_of_the_dev_loss(window):
    """dJ / d omega is sum_i dJ/dw_i dw_i/d omega, with the weights as they were when they were given.

    Against finite differences of those weights over one teacher parameter at a time, through the raw features and the
    statistics of each moment.
    """
    student, optimizer = fresh(maker("adam"))
    trainer = make_trainer(student, optimizer, window=window, interval=window)
    moments = noted_moments(trainer)
    for k in range(window):
        report, _ = run_update(trainer, [toy_batch(3, k), toy_batch(4, 50 + k)], 11 + k, 0.05, k + 1)
    for name, gradient in taught(trainer).items():
        index = int(gradient.abs().argmax())
        values = []
        for delta in (1e-5, -1e-5):
            weights = []
            for teacher, rows in moments:
                entries = dict(teacher.named_parameters())[name].data.view(-1)
                entries[index] += delta
                weights.append(teacher(rows).prod(1).detach())
                entries[index] -= delta
            values.append(float((torch.cat(weights) * report.weight_gradient).sum()))
        want = (values[0] - values[1]) / 2e-5
        assert abs(float(gradient.view(-1)[index]) - want) <= 1e-5 * abs(want) + 1e-10, name


@pytest.mark.parametrize("gradient, window", EXACT_WAYS)
@pytest.mark.parametrize("name", HIGHER)
def test_the_teachers_gradient_through_higher(name, gradient, window):
    """dJ / d omega by autograd through the teacher of each moment, the weights, and ``higher``'s steps."""
    student, optimizer = fresh(maker(name))
    before = copy.deepcopy((student, optimizer))
    trainer = make_trainer(
        student, optimizer, window=window, interval=window, normalization="batch", gradient=gradient
    )
    moments = noted_moments(trainer)
    steps = [run_update(trainer, [toy_batch(3, k), toy_batch(4, 50 + k)], 11 + k, 0.05, k + 1)[1] for k in range(window)]
    omega = {n: p.detach().clone().requires_grad_() for n, p in moments[0][0].named_parameters()}
    of_all = [torch.func.functional_call(teacher, omega, (rows,)).prod(1) for teacher, rows in moments]
    weights = [of_all[2 * k : 2 * k + 2] for k in range(window)]
    assert torch.allclose(weights[0][0], steps[0].weights[0])
    want = through_higher(*before, steps, "batch", 0.05, DEV, LOSS, weights, list(omega.values()))
    got = flat(taught(trainer)[n] for n in omega)
    assert trainer.gradient_mode == gradient
    assert want.abs().max() > 1e-6
    assert relative(got, want) < 1e-6


def test_a_window_that_is_saved_and_read_goes_on_alike():
    def half(trainer):
        run_update(trainer, [toy_batch(3, 1)], 11, 0.05, 1)

    def rest(trainer):
        return run_update(trainer, [toy_batch(3, 2)], 12, 0.05, 2)[0].weight_gradient

    student, optimizer = fresh(maker("adam"))
    trainer = make_trainer(student, optimizer, window=2, interval=2)
    half(trainer)
    state, (student, optimizer) = copy.deepcopy((trainer.state_dict(), (student, optimizer)))
    want = rest(trainer)
    for keep in (True, False):
        again = make_trainer(*copy.deepcopy((student, optimizer)), window=2, interval=2)
        again.load_state_dict({**copy.deepcopy(state), "window": state["window"] if keep else []})
        got = rest(again)
        assert (len(got) == len(want) and torch.equal(got, want)) == keep
