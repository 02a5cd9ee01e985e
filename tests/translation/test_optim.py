"""Rules for fairseq's own optimizers, found through the objects that fairseq builds."""

import pytest
import torch
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from fairseq.optim.nag import NAG
from fairseq.optim.sgd import SGD
from omegaconf import OmegaConf

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.linearize import rule_for
from fairseq_l2rw.meta.linearize.adam import AdamRule
from fairseq_l2rw.meta.linearize.sgd import SGDRule
from fairseq_l2rw.translation.optim import FairseqAdamRule


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


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_whole_steps_of_what_fairseq_builds(name):
    p = parameters()
    optimizer = built(name, p)
    rule = rule_for(optimizer)
    for k in range(4):
        g = torch.randn(4, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        old, snapshot = [p[0].detach().clone()], rule.snapshot(optimizer)
        p[0].grad = g.clone()
        optimizer.step()
        assert torch.allclose(rule.step(optimizer, snapshot, p, old, [g])[0], p[0], rtol=1e-10)


def test_torchs_rule_would_be_wrong_for_fairseqs_adam():  # negative control
    p = parameters()
    optimizer = built("adam", p)
    old, g = [p[0].detach().clone()], torch.ones(4, dtype=torch.float64)
    rule = AdamRule()
    snapshot = rule.snapshot(optimizer)
    p[0].grad = g.clone()
    optimizer.step()
    assert not torch.allclose(rule.step(optimizer, snapshot, p, old, [g])[0], p[0], rtol=1e-6)


def test_no_rule_for_nag():
    """fairseq's has a formula of its own."""
    says = "^--optimizer: no linearisation rule for fairseq.optim.nag.NAG; .*fairseq.optim.adam.Adam"
    with pytest.raises(L2RWError, match=says):
        rule_for(NAG(parameters(), lr=0.1))
