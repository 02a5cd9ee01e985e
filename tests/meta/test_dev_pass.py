"""Loss and gradient of a dev batch: shared out, scaled, and what gives no gradient."""

from types import SimpleNamespace

import pytest
import torch

from fairseq_l2rw.meta.dev_pass import GROWTH_INTERVAL, DevPass, out_of_memory
from fairseq_l2rw.meta.student import Examined
from fairseq_l2rw.meta.workers import Workers
from tests.oracles import ToyStudent, toy_batch

BATCH = toy_batch(7, 3)


class SharingStudent(ToyStudent):
    def share(self, batch, rank, count):
        if len(batch[0]) < count:
            return None
        part = tuple(column[rank::count] for column in batch)
        return part, float(part[2].sum() / batch[2].sum())

    def examine(self, batch):
        tokens, _, n_tokens = batch
        losses, _ = self.losses(batch)
        return Examined(losses, n_tokens, torch.full_like(n_tokens, 4), [self.module.embedding(tokens).mean(1).detach()])


STUDENT = SharingStudent()


class Summed(Workers):
    """A worker whose ``add_up`` adds what the workers before it gave."""

    def __init__(self, rank, count, before):
        self.rank, self.count, self.before = rank, count, before

    def add_up(self, tensors):
        self.before.append([t.clone() for t in tensors])
        return [sum(ts) for ts in zip(*self.before)]


def passed(student, dev_pass=None, batch=BATCH):
    return (dev_pass or DevPass())(student, list(student.module.parameters()), batch)[:2]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_parts_of_the_workers_add_up_to_the_whole(count):
    """Also where there are more workers than sentences."""
    student, before = SharingStudent(), []
    value, gradient = passed(student)
    for rank in range(count):
        got, summed = passed(student, DevPass(workers=Summed(rank, count, before)))
        if rank == 0 and count < 9:  # negative control: one part is not the whole
            assert not torch.allclose(summed[0], gradient[0], rtol=0.05)
    assert got == pytest.approx(value, rel=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-15) for a, b in zip(summed, gradient))
    assert max(float(g.abs().max()) for g in gradient) > 1e-2


@pytest.mark.parametrize("count", [1, 2, 9])
def test_parts_of_a_difference_add_up_to_the_whole(count):
    student, before = SharingStudent(), []
    parameters, spoilt = list(student.module.parameters()), (BATCH[0], BATCH[1].roll(1), BATCH[2])
    value, sound = passed(student)
    bad = passed(student, batch=spoilt)[1]
    for rank in range(count):
        dev_pass = DevPass(workers=Summed(rank, count, before)) if count > 1 else DevPass()
        got, summed, seen = dev_pass.difference(student, parameters, BATCH, lambda: spoilt, 0.4)
    assert got == pytest.approx(value, rel=1e-12) and seen == [None, None]
    assert all(torch.allclose(d, a - 0.4 * b, rtol=1e-10, atol=1e-15) for d, a, b in zip(summed, sound, bad))


@pytest.mark.parametrize("look", [
    lambda dev_pass: dev_pass(STUDENT, list(STUDENT.module.parameters()), BATCH, examine=True)[2],
    lambda dev_pass: dev_pass.look(STUDENT, BATCH),
], ids=["dev pass", "look"])  # fmt: skip
@pytest.mark.parametrize("count", [2, 3])
def test_what_all_workers_saw_is_in_the_order_of_the_batch(count, look):
    """Whatever their number: a probe that learns from it is the same. So is a look without a backward pass."""
    want = look(DevPass())
    wholes = [want.losses, want.n_tokens, want.source_lengths, *want.internal]
    for rank in range(count):
        summed = Summed(rank, count, [])
        seen = []
        summed.gather = lambda rows: (seen.append(rows), torch.cat([wholes[len(seen) - 1][r::count] for r in range(count)]))[1]
        dev_pass = DevPass(workers=summed)
        got = look(dev_pass)
        for own, whole, all_rows in zip(seen, wholes, [got.losses, got.n_tokens, got.source_lengths, *got.internal]):
            assert torch.allclose(own.double(), whole[rank::count].double()) and torch.equal(all_rows, whole)


class HalfStudent:
    """J = size p in half precision; its gradient, size, does not fit where size is large or small."""

    def __init__(self, size):
        self.module, self.size = torch.nn.Linear(1, 1, bias=False).half(), size

    def dev_loss(self, batch):
        # the size enters in single precision, as fairseq's log-softmax does; the gradient of p is half
        return self.module.weight.float().sum() * self.size


@pytest.mark.parametrize("size, scale", [(1e-7, 2.0**15), (1.0, 2.0**15), (8.0, 2.0**12), (3e4, 2.0)])
def test_half_precision(size, scale):
    """Small gradients are kept by the factor, large ones halve it until they fit."""
    student, dev_pass = HalfStudent(size), DevPass(2.0**15)
    _, (gradient,) = passed(student, dev_pass)
    assert gradient.dtype == torch.float32
    assert float(gradient) == pytest.approx(size, rel=2e-3)
    assert dev_pass.loss_scale == scale


def test_without_the_factor_small_gradients_vanish():  # negative control
    _, (gradient,) = passed(HalfStudent(1e-9))
    assert float(gradient) == 0.0
    _, (gradient,) = passed(HalfStudent(1e-9), DevPass(2.0**15))
    assert float(gradient) == pytest.approx(1e-9, rel=0.05)


def test_the_factor_grows_again():
    dev_pass = DevPass(2.0**15)
    passed(HalfStudent(8.0), dev_pass)
    dev_pass.clean = GROWTH_INTERVAL - 1
    again = DevPass(2.0**15)
    again.load_state_dict(dev_pass.state_dict())
    for each in (dev_pass, again):
        passed(HalfStudent(1.0), each)
        assert (each.loss_scale, each.clean) == (2.0**13, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("loss_scale", [1.0, 2.0**15])
def test_a_gradient_that_is_not_finite(bad, loss_scale):
    dev_pass = DevPass(loss_scale)
    value, gradient = passed(HalfStudent(bad), dev_pass)
    assert gradient is None and not value < float("inf")
    assert "not finite" in dev_pass.failure and "--meta-subset" in dev_pass.failure
    assert dev_pass.loss_scale == loss_scale  # it is not the factor's fault
    assert passed(HalfStudent(1.0), dev_pass)[1] is not None and dev_pass.failure == ""


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")]
)
def test_a_batch_that_does_not_fit_into_memory(error, caplog):
    student = ToyStudent()

    def dev_loss(batch):
        raise error

    student.dev_loss = dev_loss
    dev_pass = DevPass()
    assert passed(student, dev_pass)[1] is None
    assert "--meta-max-tokens" in dev_pass.failure and "--meta-max-tokens" in caplog.text


def test_a_lack_of_memory_that_is_real():
    """As torch itself words it on this machine's CPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert out_of_memory(caught.value)
    assert not out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_other_errors_are_not_swallowed():
    def dev_loss(batch):
        raise RuntimeError("shapes cannot be multiplied")

    student = SimpleNamespace(module=torch.nn.Linear(1, 1), dev_loss=dev_loss)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        passed(student)
