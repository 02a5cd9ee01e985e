"""What the teacher is shown."""

import math

import pytest
import torch

from fairseq_l2rw.meta.features import SURFACE, FeatureLayout, RunningScalars, feature_rows

LOSSES = torch.tensor([6.0, 1.0, 8.0], requires_grad=True)
N = torch.tensor([3, 1, 2])
SOURCE = torch.tensor([4, 2, 1])


def rows(running=None, progress=0.25, internal=()):
    return feature_rows(LOSSES, N, SOURCE, list(internal), running or RunningScalars(), progress)


def column(table, name):
    return table[:, SURFACE.index(name)]


def test_columns_by_hand():
    running = RunningScalars()
    running.update_loss(2.5)
    running.update_dev_loss(1.5)
    table = rows(running)
    assert column(table, "loss").tolist() == [2.0, 1.0, 4.0]
    assert column(table, "loss_deviation").tolist() == [-0.5, -1.5, 1.5]
    assert column(table, "source_length").tolist() == pytest.approx([math.log(4), math.log(2), 0])
    assert column(table, "target_length").tolist() == pytest.approx([math.log(3), 0, math.log(2)])
    assert column(table, "length_ratio").tolist() == pytest.approx([math.log(3 / 4), math.log(1 / 2), math.log(2)])
    assert column(table, "progress").tolist() == [0.25] * 3
    assert column(table, "dev_loss").tolist() == [1.5] * 3
    assert table.dtype == torch.float32 and not table.requires_grad


def test_before_anything_is_known():
    """No running mean yet: the deviation is the loss; no dev loss yet: the running mean stands in."""
    table = rows()
    assert torch.equal(column(table, "loss_deviation"), column(table, "loss"))
    assert not column(table, "dev_loss").any()
    running = RunningScalars()
    running.update_loss(2.5)
    assert column(rows(running), "dev_loss").tolist() == [2.5] * 3


def test_a_row_does_not_depend_on_its_neighbours():
    internal = torch.randn(3, 2)
    whole = rows(internal=[internal])
    alone = feature_rows(LOSSES[1:2], N[1:2], SOURCE[1:2], [internal[1:2]], RunningScalars(), 0.25)
    assert torch.equal(whole[1:2], alone)


def test_states_are_kept_apart_and_detached():
    encoder, decoder = torch.randn(3, 2, requires_grad=True), torch.randn(3, 4).double()
    table = rows(internal=[encoder, decoder])
    layout = FeatureLayout((2, 4))
    assert table.shape == (3, layout.width) and not table.requires_grad
    surface, blocks = layout.split(table)
    assert torch.equal(surface, rows())
    assert torch.equal(blocks[0], encoder) and torch.equal(blocks[1], decoder.float())


def test_no_states():
    surface, blocks = FeatureLayout(()).split(rows())
    assert surface.shape == (3, len(SURFACE)) and blocks == []


def test_empty_sentences_give_finite_rows():
    zero = torch.zeros(2)
    assert torch.isfinite(feature_rows(zero, zero, zero, [], RunningScalars(), 0.0)).all()


def test_running_scalars():
    running = RunningScalars(decay=0.9)
    running.update_loss(4.0)  # the first value counts in full
    running.update_loss(2.0)
    assert running.loss == pytest.approx(3.8) and running.dev_loss is None
    other = RunningScalars(decay=0.9)
    other.load_state_dict(running.state_dict())
    for r in (running, other):
        r.update_loss(1.0)
        r.update_dev_loss(7.0)
    assert other.state_dict() == running.state_dict() == {"loss": pytest.approx(3.52), "dev_loss": 7.0}
