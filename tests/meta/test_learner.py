"""The teacher's own step."""

import copy
import math

import pytest
import torch

from fairseq_l2rw.meta import FeatureLayout, MetaConfig, reweighters
from fairseq_l2rw.meta.features import SURFACE
from fairseq_l2rw.meta.learner import Learner


def learner_of(teacher="loss", contrast=None, **settings):
    """Eight hidden units, no internal states; J = the loss unless a contrast is given."""
    config = MetaConfig(objective="contrastive" if contrast else "loss", contrast=contrast or {}, **settings)
    torch.manual_seed(0)
    return Learner(reweighters.build(teacher, FeatureLayout(()), config.heads, hidden=8, prior=config.prior), config)


def rows_of(count, seed=0):
    return torch.randn(count, len(SURFACE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prior", [0.9, 0.5])
def test_stationary_weight_of_the_prior(prior):
    """sigmoid(logit p - c / (tau s)); here two groups of rows, told apart by their loss, with c / s of their own."""
    tau, targets = 0.2, (0.3, -0.1)
    learner = learner_of(prior=prior, prior_strength=tau, lr=0.02, weight_decay=0.0)
    rows = torch.zeros(20, len(SURFACE))
    rows[10:, 0] = 1.0
    learner.teacher.standardizer.update(rows)
    target = torch.tensor([targets[0]] * 10 + [targets[1]] * 10)
    inputs = learner.teacher.standardizer(rows)
    learner.step(0, ((inputs, target, tau) for _ in range(800)))
    weights = learner.teacher(rows)[:, 0]
    for group, c in zip((weights[:10], weights[10:]), targets):
        want = 1 / (1 + math.exp(-(math.log(prior / (1 - prior)) - c / tau)))
        assert group.tolist() == pytest.approx([want] * 10, abs=2e-3)
    assert float((weights[0] - weights[10]).detach()) < -0.1  # it has moved


def test_without_influence_the_prior_holds():
    """Zero influence: the weights go back to p from wherever they are, each head's to its own."""
    learner = learner_of(prior=0.9, prior_strength=0.2, lr=0.02, weight_decay=0.0)
    with torch.no_grad():
        learner.teacher.nets[0].bias.fill_(-1.0)
    rows = torch.zeros(5, len(SURFACE))
    learner.step(0, ((rows, torch.zeros(5), 0.2) for _ in range(800)))
    assert learner.teacher(rows)[:, 0].tolist() == pytest.approx([0.9] * 5, abs=1e-3)


def test_g_learns_at_its_own_rate():
    """AdamW's first step is the rate times a sign, after the decay: seen on both parts of a head."""
    for settings, rate, decay in (({}, 1e-3, 0.01), (dict(g_lr_factor=0.1, g_weight_decay=0.5), 1e-4, 0.5)):
        learner = learner_of("surface", replay=0, prior_strength=0.0, clip_norm=0.0, lr=1e-3, weight_decay=0.01, **settings)
        head = learner.teacher.nets[0]
        with torch.no_grad():
            for p in head.parameters():  # an output layer of zeros passes no gradient on
                p.normal_(generator=torch.Generator().manual_seed(p.numel()))
        before = {name: p.detach().clone() for name, p in head.named_parameters()}
        learner.follow(0, rows_of(30), torch.randn(30, generator=torch.Generator().manual_seed(1)))
        for name, p in head.named_parameters():
            lr, wd = (rate, decay) if name.startswith("g.") else (1e-3, 0.01)
            moved = (p - before[name] * (1 - lr * wd)).abs()
            assert moved.max().item() == pytest.approx(lr, rel=1e-3), name


def test_one_step_against_the_equation():
    """The gradient of mean_i [ c_i / s w_i + tau KL ], written out with torch's own divergence; the other head is left alone."""
    learner = learner_of("surface", {"a": 0.5, "b": 0.5}, replay=0, prior=0.8, prior_strength=0.3, clip_norm=0.0)
    rows, c, scale, seen = rows_of(12), torch.randn(12, generator=torch.Generator().manual_seed(2)), 0.7, {}
    teacher = copy.deepcopy(learner.teacher)
    learner.optimizer.step = lambda: seen.update((n, p.grad) for n, p in learner.teacher.named_parameters())
    norm = learner.learn(1, rows, c, scale, seed=0)
    w = teacher(rows)[:, 1]
    prior = torch.distributions.Bernoulli(torch.tensor(0.8))
    loss = (c / scale * w + 0.3 * torch.distributions.kl_divergence(torch.distributions.Bernoulli(w), prior)).mean()
    names, parameters = zip(*[(n, p) for n, p in teacher.named_parameters() if n.startswith("nets.1.")])
    want = torch.autograd.grad(loss, parameters)
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in want]).norm()), rel=1e-5) and norm > 0
    for name, gradient in zip(names, want):
        assert torch.allclose(seen[name], gradient, rtol=1e-4, atol=1e-7), name
    assert all(gradient is None for name, gradient in seen.items() if name.startswith("nets.0."))


def test_the_running_deviation_of_each_head():
    learner = learner_of(prior_strength=0.1)
    assert learner.deviation(0, torch.zeros(3)) is None
    c = torch.tensor([3.0, -4.0])
    assert learner.deviation(0, c) == pytest.approx(math.sqrt(0.05 * 12.5))
    assert learner.deviation(0, c) == pytest.approx(math.sqrt((0.95 * 0.05 + 0.05) * 12.5))


def test_a_gradient_that_is_no_number_is_not_followed():
    learner = learner_of(replay=0, prior_strength=0.1)
    before = copy.deepcopy(learner.teacher.state_dict())
    assert learner.learn(0, rows_of(3), torch.tensor([1.0, float("nan"), 0.0]), 1.0, seed=0) == 0.0
    assert all(torch.equal(before[n], t) for n, t in learner.teacher.state_dict().items())
    assert learner.learn(0, rows_of(3), torch.ones(3), 1.0, seed=0) > 0
