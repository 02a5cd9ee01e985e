"""Rules for fairseq's own optimizers, found through the objects that fairseq builds."""

import pytest
import torch
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.nag import NAG
from fairseq.optim.sgd import SGD
from omegaconf import OmegaConf

from fairseq_l2rw.meta.linearize import rule_for
from fairseq_l2rw.meta.linearize.adam import AdamRule
from fairseq_l2rw.meta.linearize.sgd import SGDRule
from fairseq_l2rw.meta.window import Window
from fairseq_l2rw.translation.optim import FairseqAdamRule, FairseqNAGRule


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(4, dtype=torch.float64))]


def built(name, p):
    if name == "adam":
        settings = {**vars(FairseqAdamConfig(weight_decay=0.2)), "lr": [0.1], "tpu": False}
        return FairseqAdam(OmegaConf.create(settings), p).optimizer
    return SGD(OmegaConf.create({"lr": [0.1], "momentum": 0.9, "weight_decay": 0.2}), p).optimizer


@pytest.mark.parametrize("name, rule", [("adam", FairseqAdamRule), ("sgd", SGDRule)])
def test_the_rule_of_what_fairseq_builds(name, rule):
    """Its step and adjoint are compared in tests/meta/test_linearize.py."""
    assert type(rule_for(built(name, parameters()))) is rule


def stepped(optimizer, p, rule, seed=0):
    """``(theta' by the rule, theta' by the optimizer)``."""
    window = Window(1, rule, optimizer, p, keep_earlier=True)
    p[0].grad = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    window.before_step(None, 0.0)
    optimizer.step()
    window.after_step([])
    (step,) = window.steps
    return rule.step(step.hyper[0], step.parameters[0], step.earlier[0], step.gradients[0])[0], p[0].detach()


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_whole_steps_of_what_fairseq_builds(name):
    p = parameters()
    optimizer = built(name, p)
    for k in range(4):
        got, want = stepped(optimizer, p, rule_for(optimizer), k)
        assert torch.allclose(got, want, rtol=1e-10)


def test_whole_steps_of_fairseqs_nag():
    """It rounds the gradient to float32; its rate changes between steps."""
    p = parameters()
    optimizer = NAG(p, lr=0.1, momentum=0.9, weight_decay=0.2)
    assert type(rule_for(optimizer)) is FairseqNAGRule
    for k in range(4):
        optimizer.param_groups[0]["lr"] = 0.1 / (k + 1)
        got, want = stepped(optimizer, p, rule_for(optimizer), k)
        assert torch.allclose(got, want, rtol=1e-5)


def test_torchs_rule_would_be_wrong_for_fairseqs_adam():  # negative control
    p = parameters()
    got, want = stepped(built("adam", p), p, AdamRule())
    assert not torch.allclose(got, want, rtol=1e-6)
