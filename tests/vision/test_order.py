"""The order of an epoch: each image once, those that stay as often as it takes, the same for the same seed."""

import torch

from fairseq_l2rw.vision.order import epoch_order


def test_each_image_once():
    order = epoch_order(50, 40, seed=1, epoch=3)
    assert len(order) == len(order.unique()) == 40
    assert torch.equal(order, epoch_order(50, 40, seed=1, epoch=3))
    for other in (epoch_order(50, 40, seed=2, epoch=3), epoch_order(50, 40, seed=1, epoch=4)):
        assert not torch.equal(order, other)


def test_those_that_stay_go_round():
    stay = torch.arange(50) % 5 == 0
    order = epoch_order(50, 25, 1, 3, stay)
    assert len(order) == 25 and stay[order].all()
    rounds = [order[:10], order[10:20]]
    assert all(len(part.unique()) == 10 for part in rounds) and not torch.equal(*rounds)
    assert torch.equal(epoch_order(50, 40, 1, 3, torch.ones(50, dtype=torch.bool)), epoch_order(50, 40, 1, 3))
