"""The running average against its equation, and what it must leave alone."""

import copy

import torch
from torch import nn

from fairseq_l2rw.vision.average import averaged


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


def test_against_the_equation():
    module = net()
    average = averaged(module, 0.5)
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    for t in range(1, 20):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p))
        module(torch.randn(6, 3, dtype=torch.float64))  # running statistics move
        a = min(0.5, (t + 1) / (t + 10))
        for name, value in module.state_dict().items():
            kept[name] = a * kept[name] + (1 - a) * value if value.is_floating_point() else value.clone()
        average.update_parameters(module)
        for name, value in average.module.state_dict().items():
            assert torch.allclose(value, kept[name], rtol=1e-12), (t, name)


def test_the_student_is_left_alone_and_the_average_is_not_trained():
    module = net()
    before = copy.deepcopy(module.state_dict())
    average = averaged(module, 0.98)
    average.update_parameters(module)
    average(torch.randn(2, 3, dtype=torch.float64))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values()))
    assert all(p.requires_grad for p in module.parameters()) and module.training
    assert not any(p.requires_grad for p in average.parameters()) and not any(m.training for m in average.modules())
