"""The published algorithm, against finite differences of its own definition."""

import dataclasses
import functools

import pytest
import torch
from torch.nn import functional as F

from fairseq_l2rw.vision.meta_weight_net import MetaWeightNet
from fairseq_l2rw.vision.student import ImageStudent
from tests.vision.test_student import batch, same, statistics, student


def meta_loss(made: ImageStudent, net: MetaWeightNet, data, meta, lr):
    """The loss on the meta batch after the virtual step, BatchNorm on each batch's own statistics; omega is ``net``'s."""
    module = made.module
    before, kept = [p.detach().clone() for p in module.parameters()], statistics(module)
    losses = F.cross_entropy(module(data.images)[0], data.labels, reduction="none")
    weights = net.net(losses.detach().unsqueeze(1)).squeeze(1).detach()
    gradients = torch.autograd.grad((weights * losses).sum() / len(losses), list(module.parameters()))
    with torch.no_grad():
        for p, g in zip(module.parameters(), gradients):
            p -= lr * g
        value = float(F.cross_entropy(module(meta.images)[0], meta.labels))
        for p, old in zip(module.parameters(), before):
            p.copy_(old)
        for b, old in zip(module.buffers(), kept.values()):
            b.copy_(old)
    return value


@pytest.mark.parametrize("graph", [False, True])
def test_gradient_of_the_weight_net(graph):
    made = student(dropout=0.0)
    torch.manual_seed(1)
    net = MetaWeightNet(made, graph=graph)
    net.net.double()
    data, meta, lr = batch(8, 5), batch(6, 6), 0.7
    parameters = list(net.net.parameters())
    numeric, step = [], 1e-5
    for p in parameters[:2]:
        flat = p.data.view(-1)
        for i in range(0, len(flat), 20):
            sides = []
            for sign in (step, -step):
                old = float(flat[i])
                flat[i] += sign
                sides.append(meta_loss(made, net, data, meta, lr))
                flat[i] = old
            numeric.append((sides[0] - sides[1]) / (2 * step))
    want = meta_loss(made, net, data, meta, lr)
    kept, theta = statistics(made.module), [p.detach().clone() for p in made.module.parameters()]
    before = [p.detach().clone() for p in parameters]
    assert net.update(data, meta, lr) == pytest.approx(want, rel=1e-10)
    exact = torch.cat([p.grad.view(-1)[::20] for p in parameters[:2]])
    assert exact.abs().max() > 1e-6
    assert torch.allclose(exact, torch.tensor(numeric, dtype=torch.float64), rtol=1e-4, atol=1e-9)
    # the student is as it was; V has made Adam's step, with the decay in the gradient
    assert same(kept, statistics(made.module))
    assert all(torch.equal(p, old) for p, old in zip(made.module.parameters(), theta))
    for p, old in zip(parameters, before):
        g = p.grad + 1e-4 * old
        assert torch.allclose(p, old - 1e-3 * g / (g.abs() + 1e-8), rtol=1e-6)


@pytest.mark.parametrize("batchnorm", ["batch", "running"])
def test_forward_mode_is_the_graph_of_the_gradient(batchnorm):
    """With dropout: both see the masks of the virtual step, and leave the generator where the other does."""
    found = []
    for graph in (False, True):
        made = student(dropout=0.3, dev_batchnorm=batchnorm)
        torch.manual_seed(1)
        net = MetaWeightNet(made, graph)
        net.net.double()
        net.update(batch(8, 5), batch(6, 6), 0.7)
        found.append((torch.cat([p.grad.view(-1) for p in net.net.parameters()]), torch.rand(1)))
    assert found[0][0].abs().max() > 1e-4
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-9, atol=1e-12)
    assert torch.equal(found[0][1], found[1][1])


def test_half_precision():
    found = []
    for autocast in (None, functools.partial(torch.autocast, "cpu", torch.bfloat16)):
        made = student(dropout=0.0)
        made.module.float()
        made.autocast = autocast
        torch.manual_seed(1)
        net = MetaWeightNet(made)
        data, meta = (dataclasses.replace(b, images=b.images.float()) for b in (batch(8, 5), batch(6, 6)))
        net.update(data, meta, 0.7)
        found.append(torch.cat([p.grad.view(-1) for p in net.net.parameters()]))
    assert not torch.equal(*found)
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.99


def test_sizes_and_range_of_the_weights():
    net = MetaWeightNet(student())
    assert [tuple(p.shape) for p in net.net.parameters()] == [(100, 1), (100,), (1, 100), (1,)]
    weights = net.weights(torch.linspace(0, 50, 7))
    assert weights.shape == (7,) and 0 <= float(weights.min()) and float(weights.max()) <= 1


def test_running_statistics_on_the_meta_batch():
    values = []
    for mode in ("batch", "running"):
        made = student(dropout=0.0, dev_batchnorm=mode)
        torch.manual_seed(1)
        net = MetaWeightNet(made)
        net.net.double()
        values.append(net.update(batch(8, 5), batch(6, 6), 0.1))
        assert made.module.training
    assert values[0] != pytest.approx(values[1], rel=1e-3)
