"""The teacher's network."""

import numpy as np
import pytest
import torch

from fairseq_l2rw.meta.features import SURFACE, FeatureLayout
from fairseq_l2rw.meta.teacher import Standardizer, Teacher

LAYOUT = FeatureLayout((4, 4, 3))
HEADS = ("misaligned", "truncated")


def rows(n=30, seed=0):
    return torch.randn(n, LAYOUT.width, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def teacher(loss=True, surface=True, internal=True, heads=HEADS, prior=0.9, seed=0, learnt=False):
    torch.manual_seed(seed)
    net = Teacher(LAYOUT, heads, loss, surface, internal, hidden=8, prior=prior)
    net.standardizer.update(rows(200, 9))
    if learnt:
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.5 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("prior", [0.5, 0.9, 0.95])
def test_every_weight_starts_at_the_prior(prior):
    weights = teacher(prior=prior)(rows())
    assert weights.shape == (30, 2)
    assert torch.allclose(weights, torch.full_like(weights, prior), rtol=1e-6)
    assert len(weights.unique()) == 1  # to the last bit the same for every example
    assert not torch.allclose(teacher(prior=prior, learnt=True)(rows()), weights, rtol=1e-2)


@pytest.mark.parametrize(("hidden", "seeing", "rest", "f"), [(None, 64, 128, 32), (8, 8, 8, 8), (200, 200, 200, 32)])
def test_width_of_what_sees_the_states(hidden, seeing, rest, f):
    """The probe's, where there is one, else g's: what the option is for has to follow it."""
    probed = Teacher(LAYOUT, HEADS, True, True, True, hidden, 0.9, states="probe")
    assert [net[0].out_features for net in probed.probe.nets] == [seeing] * 2
    assert [(net.f[0].out_features, net.g) for net in probed.nets] == [(f, None)] * 2
    direct = Teacher(LAYOUT, HEADS, True, True, True, hidden, 0.9)
    assert [(net.f[0].out_features, net.g[0].out_features) for net in direct.nets] == [(f, rest)] * 2


def test_heads_do_not_disturb_each_other():
    net = teacher(learnt=True)
    before = net(rows())
    assert torch.allclose(torch.sigmoid(net.logits(net.standardizer(rows()), 1)), before[:, 1])
    with torch.no_grad():
        for p in net.nets[1].parameters():
            p.add_(1.0)
    after = net(rows())
    assert torch.equal(before[:, 0], after[:, 0]) and not torch.allclose(before[:, 1], after[:, 1])
    net.zero_grad()
    net.logits(net.standardizer(rows()), 0).sum().backward()
    assert all(p.grad is None for p in net.nets[1].parameters())


def test_nothing_is_known_before_the_first_update_of_the_standardizer():
    torch.manual_seed(0)
    net = Teacher(LAYOUT, HEADS, True, True, True, 8, 0.9)
    assert not net.standardizer(rows()).any()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.5 * torch.randn_like(p))
    assert len(net(rows())[:, 0].unique()) == 1
    net.standardizer.update(rows(200, 9))
    assert len(net(rows())[:, 0].unique()) == 30


def test_the_deep_teacher_contains_the_loss_teacher():
    """With g at zero, where it starts, they agree; so they do not once g has learnt."""
    deep, loss = teacher(seed=1, learnt=True), teacher(surface=False, internal=False, seed=2)
    for a, b in zip(deep.nets, loss.nets):
        b.f.load_state_dict(a.f.state_dict())
        b.bias.data.copy_(a.bias)
    assert not torch.allclose(deep(rows()), loss(rows()), rtol=1e-2)
    for net in deep.nets:
        torch.nn.init.zeros_(net.g[-1].weight)
        torch.nn.init.zeros_(net.g[-1].bias)
    assert torch.allclose(deep(rows()), loss(rows()), rtol=1e-6)


BLOCKS = {"loss": slice(0, 2), "surface": slice(2, len(SURFACE)), "internal": slice(len(SURFACE), None)}


@pytest.mark.parametrize(
    "seen", [("loss",), ("surface",), ("internal",), ("loss", "surface"), ("loss", "surface", "internal")]
)
def test_each_input_can_be_switched_off(seen):
    net = teacher(**{name: name in seen for name in BLOCKS}, learnt=True)
    before = net(rows())
    for name, block in BLOCKS.items():
        changed = rows()
        changed[:, block] = rows(seed=5)[:, block]
        assert torch.equal(net(changed), before) == (name not in seen), name


def test_a_weight_does_not_depend_on_its_neighbours():
    net = teacher(learnt=True)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(net(rows())[order], net(rows()[order]))
    assert torch.allclose(net(rows())[3:4], net(rows()[3:4]))


@pytest.mark.parametrize("updates", [1, 7])
def test_standardizer_has_numpys_mean_and_variance(updates):
    """The same batch again and again: the averages are its own, whatever the number of updates."""
    batch = rows(50).double()
    standardizer = Standardizer(LAYOUT.width, limit=100.0).double()
    for _ in range(updates):
        standardizer.update(batch)
    x = batch.numpy()
    want = (x - np.mean(x, axis=0)) / np.std(x, axis=0)
    np.testing.assert_allclose(standardizer(batch).numpy(), want, rtol=1e-9)


def test_standardizer_averages_over_updates():
    """Exponential averages with bias correction, in closed form."""
    standardizer, decay = Standardizer(1, decay=0.8, limit=100.0).double(), 0.8
    batches = [rows(20, seed)[:, :1].double() + seed for seed in range(5)]
    for batch in batches:
        standardizer.update(batch)
    shares = np.array([decay**k for k in range(4, -1, -1)]) * (1 - decay) / (1 - decay**5)
    mean = sum(s * float(b.mean()) for s, b in zip(shares, batches))
    square = sum(s * float(b.square().mean()) for s, b in zip(shares, batches))
    got = standardizer(torch.tensor([[3.0]], dtype=torch.float64)).item()
    assert got == pytest.approx((3.0 - mean) / (square - mean**2) ** 0.5, rel=1e-9)


def test_standardizer_is_constant_between_updates():
    standardizer = Standardizer(LAYOUT.width)
    standardizer.update(rows())
    first = standardizer(rows(seed=3))
    standardizer(rows(seed=4) * 100)
    assert torch.equal(standardizer(rows(seed=3)), first)


def test_standardizer_cuts_outliers_and_ignores_constant_columns():
    batch = rows()
    batch[:, 0] = 5.0
    standardizer = Standardizer(LAYOUT.width)
    standardizer.update(batch)
    assert standardizer(batch)[:, 0].abs().max() < 0.05
    assert standardizer(batch * 1e6).abs().max() == 5.0


def test_the_standardizer_is_part_of_the_state():
    one, other = teacher(learnt=True), Teacher(LAYOUT, HEADS, True, True, True, 8, 0.9)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(rows()), other(rows()))
