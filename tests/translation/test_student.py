"""A fairseq model and criterion as the method sees them."""

import pytest
import torch

from fairseq_l2rw.meta.functional import evaluating
from tests.translation.harness import batch, translation_student


@pytest.mark.parametrize("arch", ["transformer", "lstm", "fconv"])
def test_losses(arch):
    student, sample = translation_student(arch, double=False), batch()
    losses, n_tokens = student.losses(sample)
    assert losses.shape == (4,) and losses.requires_grad
    assert n_tokens.tolist() == (sample["target"] != 1).sum(1).tolist()


def test_losses_draw_from_the_global_generator():
    student, sample = translation_student(), batch()
    student.module.train()
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(student.losses(sample)[0])
    assert torch.equal(draws[0], draws[1]) and not torch.allclose(draws[0], draws[2])


@pytest.mark.parametrize("double", [True, False])
def test_dev_loss_is_per_token(double):
    """With label smoothing, as the training loss; in the precision of the model."""
    student, sample = translation_student(double=double), batch()
    with evaluating(student.module):
        value = student.dev_loss(sample)
        want, size, _ = student.criterion(student.module, sample)
    assert value.dtype == (torch.float64 if double else torch.float32)
    assert float(value.detach()) == pytest.approx(float(want.detach()) / size, rel=1e-6)


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_examine(arch):
    """Losses and states of one pass; J from them is the dev loss."""
    student, sample = translation_student(arch, double=False), batch()
    with evaluating(student.module):
        value, seen = student.dev_loss(sample), student.examine(sample)
    assert torch.equal(seen.losses.sum() / seen.n_tokens.sum(), value) and seen.losses.requires_grad
    source = sample["net_input"]["src_tokens"]
    assert seen.source_lengths.tolist() == (source != 1).sum(1).tolist()
    assert [block.shape[0] for block in seen.internal] == [4, 4] and not any(b.requires_grad for b in seen.internal)


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
@pytest.mark.parametrize("index", [[0, 3], [1, 2, 3], [2]])
def test_a_part_of_a_batch_has_the_losses_of_its_sentences(arch, index):
    """Also of students that need a batch as wide as its longest sentence."""
    student, sample = translation_student(arch, double=False), batch()
    part = student.subset(sample, torch.tensor(index))
    with torch.no_grad(), evaluating(student.module):
        whole, n_tokens = student.losses(sample)
        losses, own = student.losses(part)
    assert torch.allclose(losses, whole[index], rtol=1e-5) and torch.equal(own, n_tokens[index])
    assert part["id"].tolist() == sample["id"][index].tolist() and part["nsentences"] == len(index)
    assert part["target"].shape[1] == max(own) and part["net_input"]["src_tokens"].shape[1] == part["net_input"]["src_lengths"].max()
    spoilt = student.corrupt(part, "misordered", 1)
    assert set(spoilt["id"].tolist()) <= set(part["id"].tolist())


def test_dev_loss_of_a_spoilt_batch_is_higher_once_something_is_learnt():
    """And not before: the negative control."""
    student, sample = translation_student(double=False, dropout=0.0, label_smoothing=0.0), batch()
    optimizer = torch.optim.Adam(student.module.parameters(), lr=0.02)

    def gap(kind):
        with torch.no_grad():
            return float(student.dev_loss(student.corrupt(sample, kind, 0)) - student.dev_loss(sample))

    kinds = ("misaligned", "untranslated", "misordered")
    assert all(abs(gap(kind)) < 1 for kind in kinds)
    for _ in range(200):
        optimizer.zero_grad()
        student.dev_loss(sample).backward()
        optimizer.step()
    assert all(gap(kind) > 2 for kind in kinds)


def test_corrupt():
    student, sample = translation_student(), batch()
    spoilt = student.corrupt(sample, "misaligned", 1)
    assert torch.equal(spoilt["target"], sample["target"].roll(1, 0))
    losses, n_tokens = student.losses(spoilt)
    assert n_tokens.tolist() == (spoilt["target"] != 1).sum(1).tolist() and torch.isfinite(losses).all()
