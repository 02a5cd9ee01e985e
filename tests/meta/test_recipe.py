"""The recipe of ``fairseq_l2rw.meta.linearize``, followed for an optimizer that has no rule: torch's RMSprop."""

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import linearize
from fairseq_l2rw.meta.linearize import StepRule, rule_for
from tests.meta import optimizers
from tests.meta.test_hypergradient import DEV, LOSS, ours, relative
from tests.oracles import brute_force


class RMSpropRule(StepRule):
    """s' = alpha s + (1 - alpha) g^2,  theta' = theta - lr g / (sqrt(s') + eps)."""

    STATE = ("square_avg",)

    def check(self, optimizer):
        for group in optimizer.param_groups:
            if group["momentum"] or group["centered"] or group["weight_decay"]:
                raise L2RWError("--optimizer: RMSprop with momentum, centring or decay has no linearisation rule")

    def hyper(self, group, state):
        return {"lr": group["lr"], "alpha": group["alpha"], "eps": group["eps"]}

    def step(self, h, theta, state, g):
        s = h["alpha"] * state["square_avg"] + (1 - h["alpha"]) * g.square()
        return theta - h["lr"] * g / (s.sqrt() + h["eps"]), {"square_avg": s}

    def reverse(self, h, theta, state, g, adj_theta, adj_state):
        root = state["square_avg"].sqrt()
        d, adj_u = root + h["eps"], -h["lr"] * adj_theta
        adj_s = -adj_u * g / d.square() / (2 * root) + adj_state.get("square_avg", 0)
        adj_g = adj_u / d + 2 * (1 - h["alpha"]) * g * adj_s
        return adj_g, adj_theta, {"square_avg": h["alpha"] * adj_s}


class ForgetsTheAverage(RMSpropRule):
    def reverse(self, *arguments):
        adj_g, adj_theta, _ = super().reverse(*arguments)
        return adj_g, adj_theta, {}


@pytest.fixture
def added(monkeypatch):
    """Adds a rule for the test."""
    monkeypatch.setitem(optimizers.ALL, "rmsprop", (torch.optim.RMSprop, dict(lr=0.02, alpha=0.5, eps=1e-2)))
    return lambda rule: monkeypatch.setitem(linearize._RULES, torch.optim.RMSprop, rule)


@pytest.mark.parametrize("window", [1, 3])
def test_the_recipe(added, window):
    added(RMSpropRule())
    got, (student, optimizer), steps, _ = ours("rmsprop", window, max_norm=0.05)
    assert relative(got, brute_force(student, optimizer, steps, "tokens", 0.05, DEV, LOSS)) < 1e-6
    assert relative(got, ours("rmsprop", window, max_norm=0.05, gradient="unrolled")[0]) < 1e-6


def test_a_rule_that_is_wrong_is_noticed(added):  # negative control
    added(ForgetsTheAverage())
    got, (student, optimizer), steps, _ = ours("rmsprop", 3)
    assert relative(got, brute_force(student, optimizer, steps, "tokens", 0.0, DEV, LOSS)) > 0.05


def test_before_the_recipe_it_is_refused():
    with pytest.raises(L2RWError, match="no linearisation rule for torch.optim.rmsprop.RMSprop"):
        rule_for(torch.optim.RMSprop([torch.nn.Parameter(torch.zeros(2))]))
