"""Every rule against the optimizer itself; ``test_hypergradient.py`` goes on to whole updates."""

import copy

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import hypergradient
from fairseq_l2rw.meta.linearize import rule_for
from fairseq_l2rw.meta.window import Window
from tests.meta.optimizers import ADAM, ADAMW, ALL, SGD, double_stays_double, fairseq_adam  # noqa: F401

pytestmark = pytest.mark.usefixtures("double_stays_double")


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name, steps):
    """An optimizer of two parameter groups (with different rates) after some steps."""
    cls, settings = ALL[name]
    parameters = [torch.nn.Parameter(random(s, i)) for i, s in enumerate([(4, 2), (3,)])]
    optimizer = cls([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.02}], **settings)
    for k in range(steps):
        real_step(optimizer, parameters, gradients(10 + k))
    return optimizer, parameters


def gradients(seed):
    return [random((4, 2), seed), random((3,), seed + 100)]


def real_step(optimizer, parameters, g):
    for p, x in zip(parameters, g):
        p.grad = None if x is None else x.clone()
    optimizer.step()


def recorded_step(optimizer, parameters, g, max_norm=0.0):
    """The record of a real step with the gradients g, clipped where `max_norm` says so."""
    window = Window(1, rule_for(optimizer), optimizer, parameters, keep_earlier=True)
    for p, x in zip(parameters, g):
        p.grad = None if x is None else x.clone()
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm)) if max_norm else None
    window.before_step(norm, max_norm)
    optimizer.step()
    window.after_step([])
    return window.steps[0]


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", ALL)
def test_step_is_the_optimizers(name, steps):
    """New parameters and new state, at the gradient that was used and at another one, which a copy of the optimizer takes."""
    optimizer, parameters = make(name, steps)
    rule, other = rule_for(optimizer), copy.deepcopy(optimizer)
    step = recorded_step(optimizer, parameters, gradients(1))
    others = [p for group in other.param_groups for p in group["params"]]
    real_step(other, others, gradients(2))
    for seed, moved, theirs in ((1, parameters, optimizer), (2, others, other)):
        for i, g in enumerate(gradients(seed)):
            theta, state = rule.step(step.hyper[i], step.parameters[i], step.earlier[i], g)
            assert torch.allclose(theta, moved[i], rtol=1e-9, atol=1e-12)
            assert not torch.allclose(theta, step.parameters[i])
            for key, tensor in rule.state(theirs.state[moved[i]], theta).items():
                assert torch.allclose(state[key], tensor, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", ALL)
def test_reverse_is_autograd_through_step(name, steps):
    """Every input of the step, with adjoints of every output."""
    optimizer, parameters = make(name, steps)
    rule = rule_for(optimizer)
    step = recorded_step(optimizer, parameters, gradients(1))
    for i, g in enumerate(gradients(1)):
        theta, g = step.parameters[i].requires_grad_(), g.requires_grad_()
        before = {k: t.requires_grad_() for k, t in step.earlier[i].items()}
        new, state = rule.step(step.hyper[i], theta, before, g)
        adj_theta, adj_state = random(new.shape, 5), {k: random(new.shape, 6 + j) for j, k in enumerate(state)}
        want = torch.autograd.grad(
            [new, *state.values()], [g, theta, *before.values()], [adj_theta, *adj_state.values()],
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        after = {k: t.detach() for k, t in step.states[i].items()}
        if rule.STATE == ("momentum_buffer",) and step.hyper[i]["mu"] == 0:
            adj_state = {}  # no buffer is carried
            want = torch.autograd.grad([rule.step(step.hyper[i], theta, before, g)[0]], [g, theta], [adj_theta])
        adj_g, adj_before, adj_earlier = rule.reverse(step.hyper[i], theta.detach(), after, g.detach(), adj_theta, adj_state)
        got = [adj_g, adj_before, *(adj_earlier[k] for k in before if k in adj_earlier)]
        assert len(got) == len(want)
        for a, b in zip(got, want):
            if steps == 0 and b is want[-1] and rule.STATE == ("exp_avg", "exp_avg_sq"):
                assert torch.isfinite(a).all()
            assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)
        assert want[0].abs().max() > 0


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", ALL)
def test_diagonal_is_what_reverse_gives_for_ones(name, steps):
    """Also where the gradient is zero, and where it always was; nothing that it is given is changed."""
    optimizer, parameters = make(name, steps)
    g = gradients(1)
    g[0][:2] = 0
    step = recorded_step(optimizer, parameters, g)
    for i, g in enumerate(step.gradients):
        given = step.hyper[i], step.parameters[i], step.states[i], g
        before = copy.deepcopy(given)
        want = rule_for(optimizer).reverse(*given, torch.ones_like(g), {})[0]
        assert torch.allclose(rule_for(optimizer).diagonal(*given), want, rtol=1e-12)
        assert want.all() and torch.isfinite(want).all()
        assert all(torch.equal(a, b) for a, b in zip((given[1], given[3], *given[2].values()), (before[1], before[3], *before[2].values())))


@pytest.mark.parametrize("name", ["adam", "adam-decay", "adamw", "fairseq-adam", "sgd-momentum"])
@pytest.mark.parametrize("never", [True, False])
def test_v_is_zero_where_the_gradient_is(name, never):
    """Words that are not in the batch: Adam's derivative there is about lr / eps and would swamp the rest."""
    optimizer, parameters = make(name, 0)
    if not never:  # seen before, not in this batch
        real_step(optimizer, parameters, gradients(7))
    g = gradients(1)
    g[0][1:3] = 0
    step = recorded_step(optimizer, parameters, g)
    v = hypergradient.StepVector(rule_for(optimizer), step)(gradients(5))
    assert not v[0][1:3].any()
    assert v[0][0].all() and v[0][3].all() and v[1].all() and torch.isfinite(v[0]).all()


@pytest.mark.parametrize("ahead", [False, True], ids=["this step", "the coming one"])
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 100.0], ids=["unclipped", "clipped", "below the threshold"])
def test_inner_products_are_those_with_v(max_norm, ahead):
    optimizer, parameters = make("adam", 0)
    real_step(optimizer, parameters, gradients(7))
    step = recorded_step(optimizer, parameters, gradients(1), max_norm)
    vector = hypergradient.StepVector(rule_for(optimizer), step, ahead)
    left, right = [gradients(5), gradients(6)], [gradients(8), gradients(9), gradients(10)]
    want = [[sum(float((x * y).sum()) for x, y in zip(a, vector(b))) for a in left] for b in right]
    got = vector.inner_products(left, right)
    assert torch.allclose(torch.tensor(got), torch.tensor(want), rtol=1e-9)
    unlike = [[got[b][a] / got[0][a] for a in (0, 1)] for b in (1, 2)]
    assert min(abs(x - 1) for row in unlike for x in row) > 1e-3  # negative control: they could be told apart


def test_an_adjoint_that_is_used_up_gives_the_same_v():
    optimizer, parameters = make("adam", 0)
    step = recorded_step(optimizer, parameters, gradients(1), 0.1)
    vector, adjoint = hypergradient.StepVector(rule_for(optimizer), step), gradients(5)
    want = vector(adjoint)
    assert all(torch.equal(a, b) for a, b in zip(adjoint, gradients(5)))
    assert all(torch.equal(a, b) for a, b in zip(vector(adjoint, use_up=True), want)) and not adjoint


def test_v_is_zero_for_a_parameter_without_gradient():
    optimizer, parameters = make("adam", 1)
    step = recorded_step(optimizer, parameters, [None, gradients(1)[1]])
    v = hypergradient.StepVector(rule_for(optimizer), step)(gradients(5))
    assert not v[0].any() and v[1].all()


class MyAdam(torch.optim.Adam):
    """A subclass may step in another way, so it does not inherit the rule."""


@pytest.mark.parametrize(
    "cls, settings, says",
    [
        (torch.optim.RMSprop, {}, "--optimizer: no linearisation rule for .*RMSprop; use one of .*SGD.*--teacher uniform"),
        (MyAdam, {}, "--optimizer: no linearisation rule for .*MyAdam; use one of .*--teacher uniform"),
        (ADAM, {"amsgrad": True}, "--optimizer: Adam with amsgrad=True .*switch it off"),
        (ADAMW, {"maximize": True}, "--optimizer: Adam with maximize=True .*switch it off"),
        (SGD, {"lr": 0.1, "maximize": True}, "--optimizer sgd: maximize=True .*negate the loss"),
        (fairseq_adam, {"amsgrad": True}, "--optimizer: Adam with amsgrad=True .*switch it off"),
    ],
)
def test_no_rule(cls, settings, says):
    with pytest.raises(L2RWError, match=says) as caught:
        rule_for(cls([torch.nn.Parameter(torch.zeros(2))], **settings))
    assert "\n" not in str(caught.value)
