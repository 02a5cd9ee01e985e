"""The registry: names that users type."""

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import reweighters
from fairseq_l2rw.meta.features import SURFACE, FeatureLayout

LAYOUT = FeatureLayout((4, 4))


def test_names():
    assert {"uniform", "loss", "surface", "deep", "l2r", "self_paced"} <= set(reweighters.names())
    assert reweighters.names() == sorted(reweighters.names())


@pytest.mark.parametrize("name", ["Deep", "deeper", ""])
def test_unknown_name(name):
    with pytest.raises(L2RWError, match=f"^--teacher {name}: unknown teacher; choose one of .*deep.*uniform"):
        reweighters.check_name(name)
    with pytest.raises(L2RWError):
        reweighters.build(name, LAYOUT, ("loss",))


@pytest.mark.parametrize(
    "text, inputs",
    [("both", ("internal", "surface")), ("internal", ("internal",)), ("surface", ("surface",)),
     ("surface, internal", ("surface", "internal"))],
)  # fmt: skip
def test_parse_inputs(text, inputs):
    assert reweighters.parse_inputs(text) == inputs


@pytest.mark.parametrize("text", ["", "all", "internal,deep", ","])
def test_bad_inputs(text):
    with pytest.raises(L2RWError, match=f"^--teacher-inputs {text}: give internal, surface or both$"):
        reweighters.parse_inputs(text)


@pytest.mark.parametrize(
    "name, inputs, seen",
    [
        ("loss", ("internal", "surface"), {"loss"}),
        ("surface", ("internal", "surface"), {"loss", "surface"}),
        ("deep", ("internal", "surface"), {"loss", "surface", "internal"}),
        ("deep", ("internal",), {"internal"}),
        ("deep", ("surface",), {"loss", "surface"}),
    ],
)
def test_what_each_one_sees(name, inputs, seen):
    """Every ablation is a flag: a column that is switched off has no influence on the weight."""
    torch.manual_seed(0)
    net = reweighters.build(name, LAYOUT, ("a", "b", "c"), inputs, hidden=8, prior=0.9)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5 * torch.randn_like(p))
    net.standardizer.update(torch.randn(50, LAYOUT.width))
    rows = torch.randn(5, LAYOUT.width, requires_grad=True)
    weights = net(rows)
    assert weights.shape == (5, 3)
    (slope,) = torch.autograd.grad(weights.sum(), rows)
    used = slope.abs().sum(0) > 0
    for block, columns in {"loss": used[:2], "surface": used[2 : len(SURFACE)], "internal": used[len(SURFACE) :]}.items():
        assert columns.all() if block in seen else not columns.any(), block


def test_uniform_has_no_network():
    assert reweighters.build("uniform", LAYOUT, ("loss",)) is None


def test_a_new_one_is_one_function(monkeypatch):
    monkeypatch.setattr(reweighters, "_BUILDERS", dict(reweighters._BUILDERS))

    @reweighters.register("coin")
    def build(layout, heads, inputs, hidden, prior):
        return "coin", len(heads), inputs, hidden, prior

    reweighters.check_name("coin")
    assert reweighters.build("coin", LAYOUT, ("a",), ("surface",), 3, 0.5) == ("coin", 1, ("surface",), 3, 0.5)
    assert "coin" in reweighters.names()
