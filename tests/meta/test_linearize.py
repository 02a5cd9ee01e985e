"""Every rule against the optimizer itself.

A new optimizer: add a line to ``OPTIMIZERS``. (``test_hypergradient.py`` goes on to whole updates.)
"""

import copy

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import hypergradient
from fairseq_l2rw.meta.linearize import rule_for
from fairseq_l2rw.meta.records import StepRecord

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


def fairseq_adam(p, **k):
    import fairseq_l2rw.translation.optim  # noqa: F401  (registers the rule)

    return pytest.importorskip("fairseq.optim.adam").Adam(p, **k)


OPTIMIZERS = {
    "sgd": (SGD, dict(lr=0.3)),
    "sgd-decay": (SGD, dict(lr=0.3, weight_decay=0.1)),
    "sgd-momentum": (SGD, dict(lr=0.3, momentum=0.9)),
    "sgd-momentum-decay": (SGD, dict(lr=0.3, momentum=0.9, weight_decay=0.1)),
    "sgd-dampening": (SGD, dict(lr=0.3, momentum=0.9, dampening=0.4)),
    "sgd-nesterov": (SGD, dict(lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.1)),
    "adam": (ADAM, dict(lr=0.05)),
    "adam-eps": (ADAM, dict(lr=0.05, eps=0.1, betas=(0.8, 0.9))),
    "adam-decay": (ADAM, dict(lr=0.05, weight_decay=0.1)),
    "adam-decoupled": (ADAM, dict(lr=0.05, weight_decay=0.1, decoupled_weight_decay=True)),
    "adamw": (ADAMW, dict(lr=0.05, eps=1e-3)),
    "adamw-no-decay": (ADAMW, dict(lr=0.05, weight_decay=0.0)),
    "fairseq-adam": (fairseq_adam, dict(lr=0.05)),
    "fairseq-adam-decay": (fairseq_adam, dict(lr=0.05, eps=0.1, weight_decay=0.1)),
}


def random(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name, steps):
    """An optimizer of two parameter groups (with different rates) after some steps."""
    cls, settings = OPTIMIZERS[name]
    parameters = [torch.nn.Parameter(random(s, i)) for i, s in enumerate([(4, 2), (3,)])]
    optimizer = cls([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.02}], **settings)
    for k in range(steps):
        real_step(optimizer, parameters, gradients(10 + k))
    return optimizer, parameters


def gradients(seed):
    return [random((4, 2), seed), random((3,), seed + 100)]


def real_step(optimizer, parameters, g):
    for p, x in zip(parameters, g):
        p.grad = x.clone()
    optimizer.step()


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_is_the_optimizers(name, steps):
    """At the gradient that was used, and at another one, which a second copy of the optimizer takes."""
    optimizer, parameters = make(name, steps)
    rule = rule_for(optimizer)
    other = copy.deepcopy(optimizer)
    old, snapshot = [p.detach().clone() for p in parameters], rule.snapshot(optimizer)
    real_step(optimizer, parameters, gradients(1))
    others = [p for group in other.param_groups for p in group["params"]]
    real_step(other, others, gradients(2))
    for seed, want in ((1, parameters), (2, others)):
        got = rule.step(optimizer, snapshot, parameters, old, gradients(seed))
        for a, b, before in zip(got, want, old):
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
            assert not torch.allclose(a, before)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_adjoint_is_autograd_through_step(name, steps):
    optimizer, parameters = make(name, steps)
    rule = rule_for(optimizer)
    old, snapshot = [p.detach().clone() for p in parameters], rule.snapshot(optimizer)
    real_step(optimizer, parameters, gradients(1))
    lam = gradients(5)
    g = [x.requires_grad_() for x in gradients(1)]
    want = torch.autograd.grad(rule.step(optimizer, snapshot, parameters, old, g), g, lam)
    for a, b in zip(rule.adjoint(optimizer, snapshot, parameters, lam), want):
        # in Adam's first step with a tiny eps the two terms cancel: compare on the scale of the terms
        size = lam[0].abs().max() * optimizer.param_groups[0]["lr"]
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9 * float(size))
        assert b.abs().max() > 0


@pytest.mark.parametrize("name", ["adam", "adam-decay", "adamw", "fairseq-adam", "sgd-momentum"])
@pytest.mark.parametrize("never", [True, False])
def test_v_is_zero_where_the_gradient_is(name, never):
    """Words that are not in the batch: Adam's derivative there is about lr / eps and would swamp the rest."""
    optimizer, parameters = make(name, 0)
    if not never:  # seen before, not in this batch
        real_step(optimizer, parameters, gradients(7))
    g = gradients(1)
    g[0][1:3] = 0
    rule = rule_for(optimizer)
    old, snapshot = [p.detach().clone() for p in parameters], rule.snapshot(optimizer)
    real_step(optimizer, parameters, g)
    v = hypergradient.step_vector(rule, optimizer, parameters, StepRecord(old, snapshot, None, 0.0), gradients(5))
    assert not v[0][1:3].any()
    assert v[0][0].all() and v[0][3].all() and v[1].all() and torch.isfinite(v[0]).all()


def test_v_is_zero_for_a_parameter_without_gradient():
    optimizer, parameters = make("adam", 1)
    rule = rule_for(optimizer)
    old, snapshot = [p.detach().clone() for p in parameters], rule.snapshot(optimizer)
    optimizer.zero_grad()
    parameters[1].grad = gradients(1)[1]
    optimizer.step()
    v = hypergradient.step_vector(rule, optimizer, parameters, StepRecord(old, snapshot, None, 0.0), gradients(5))
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
