"""c_i of every example at once, against one autograd pass for each example, in float64."""

import dataclasses
import importlib.util
import logging
from contextlib import nullcontext

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer, influence
from fairseq_l2rw.meta.clipping import dot
from fairseq_l2rw.meta.functional import RandomState, trainable
from fairseq_l2rw.meta.records import BatchRecord
from tests.oracles import ToyStudent, toy_batch


def toy():
    return ToyStudent(dropout=0.4), toy_batch(6, 1)


@pytest.fixture(autouse=True)
def double_softmax(monkeypatch):
    """fairseq's attention over the source has its softmax in single precision whatever comes in."""
    if importlib.util.find_spec("fairseq"):
        from fairseq import utils

        monkeypatch.setattr(utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim=dim))


def fairseq_student(arch, **options):
    def make():
        pytest.importorskip("fairseq")
        from tests.translation import harness

        return harness.translation_student(arch, **options), harness.batch()

    return make


#: all with dropout; the fairseq students with label smoothing and left-padded sources
FORWARD = {
    "toy": toy,
    "transformer": fairseq_student("transformer"),
    "transformer-all-embeddings-shared": fairseq_student("transformer", share_all_embeddings=True),
    "transformer-pre-norm": fairseq_student("transformer", encoder_normalize_before=True, decoder_normalize_before=True),
}
NO_FORWARD = {
    "lstm": fairseq_student("lstm"),
    "lstm-deep-shared": fairseq_student(
        "lstm", encoder_layers=2, decoder_layers=2, encoder_bidirectional=True, share_all_embeddings=True
    ),
}


def prepared(make):
    """student, parameters, theta (the step's parameters, not the module's), a direction, the record of a step."""
    student, batch = make()
    student.module.train()
    parameters = list(trainable(student.module).values())
    theta = [p.detach().clone() for p in parameters]
    vector = [1e-4 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype)
              for i, p in enumerate(parameters)]  # fmt: skip
    torch.manual_seed(7)
    state = RandomState.capture()
    losses, n_tokens = student.losses(batch)
    ones = torch.ones_like(losses).detach()
    record = BatchRecord(batch, None, None, ones, losses.detach(), ones, n_tokens, state)
    want = torch.tensor(
        [dot([torch.zeros_like(p) if g is None else g for p, g in
              zip(parameters, torch.autograd.grad(l, parameters, retain_graph=True, allow_unused=True))], vector)
         for l in losses], dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():  # the optimizer has stepped since
        for p in parameters:
            p.add_(0.1 * torch.randn_like(p))
    return student, parameters, theta, vector, record, want


@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_is_exact(name):
    *arguments, want = prepared(FORWARD[name])
    losses, c = influence.forward_mode(*arguments)
    assert torch.allclose(losses, arguments[-1].losses, rtol=1e-12)  # the very step, dropout masks and all
    assert torch.allclose(c, want, rtol=1e-9, atol=1e-12 * float(want.abs().max()))
    assert want.unique().numel() == len(want)
    assert not c.requires_grad and not losses.requires_grad


@pytest.mark.parametrize("name", [*FORWARD, *NO_FORWARD])
def test_finite_differences_are_close(name):
    *arguments, want = prepared({**FORWARD, **NO_FORWARD}[name])
    losses, c = influence.finite_difference(*arguments)
    assert torch.allclose(losses, arguments[-1].losses, rtol=1e-6)
    assert float((c - want).norm() / want.norm()) < 1e-5


def test_other_dropout_masks_would_be_noticed():  # negative control
    *arguments, record, want = prepared(FORWARD["transformer"])
    torch.manual_seed(8)
    other = dataclasses.replace(record, random_state=RandomState.capture())
    assert not torch.allclose(influence.forward_mode(*arguments, other)[1], want, rtol=1e-2)


@pytest.mark.parametrize("name", NO_FORWARD)
def test_no_forward_mode(name):
    *arguments, _ = prepared(NO_FORWARD[name])
    with pytest.raises(influence.NoForwardMode):
        influence.forward_mode(*arguments)


def test_forward_mode_can_be_asked_for_beforehand():
    for name, make in {**FORWARD, **NO_FORWARD}.items():
        student, batch = make()
        parameters = list(trainable(student.module).values())
        told = name in NO_FORWARD
        with pytest.raises(influence.NoForwardMode) if told else nullcontext():
            influence.check_forward_mode(student, parameters, len(parameters), batch)


@pytest.mark.parametrize("name", ["batch-norm", "transformer", "lstm"])
def test_asking_beforehand_changes_nothing(name):
    """Not the modes, which the question is asked in training mode for, nor running statistics, random stream or parameters."""
    student, batch = normed() if name == "batch-norm" else {**FORWARD, **NO_FORWARD}[name]()
    module, parameters = student.module, list(trainable(student.module).values())
    seen = []
    module.register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    module.eval()
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    with pytest.raises(influence.NoForwardMode) if name == "lstm" else nullcontext():
        influence.check_forward_mode(student, parameters, len(parameters), batch)
    assert name == "lstm" or seen == [True]
    assert not any(m.training for m in module.modules())
    assert before.keys() == module.state_dict().keys() and all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and list(trainable(module).values()) == parameters


def normed():
    student, batch = toy()
    student.module = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    student.losses = lambda x: (student.module(x).squeeze(1), torch.ones(len(x)))
    return student, torch.randn(6, 3)


@pytest.mark.parametrize("half", [True, False])
def test_the_trainer_asks_beforehand_in_half_precision(half):
    """Else finite differences will take over."""
    student, batch = NO_FORWARD["lstm"]()
    trainer = MetaTrainer(student, FeatureLayout(()), MetaConfig(objective="loss", gradient="forward"), half=half)
    with pytest.raises(L2RWError, match="no forward-mode rule .* leave out --fp16") if half else nullcontext():
        trainer.check_student(batch)


def test_other_errors_are_not_swallowed():
    student, parameters, theta, vector, record, _ = prepared(FORWARD["toy"])

    def losses(batch):
        raise RuntimeError("out of memory")

    student.losses = losses
    with pytest.raises(RuntimeError, match="out of memory"):
        influence.forward_mode(student, parameters, theta, vector, record)


@pytest.mark.parametrize("mode", influence.MODES)
@pytest.mark.parametrize("name", ["toy", "transformer-all-embeddings-shared", "lstm"])
def test_student_and_random_stream_are_untouched(name, mode):
    """Also where the pass fails (the lstm has no forward mode)."""
    *arguments, _ = prepared({**FORWARD, **NO_FORWARD}[name])
    student, parameters, record = arguments[0], arguments[1], arguments[-1]
    module = student.module
    slots = [(n, k, id(p)) for n, m in module.named_modules() for k, p in m._parameters.items()]
    values = [p.detach().clone() for p in parameters]
    modes = [m.training for m in module.modules()]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    try:
        influence.MODES[mode](*arguments)
    except influence.NoForwardMode:
        assert (name, mode) == ("lstm", "forward")
    assert torch.equal(torch.get_rng_state(), before)
    assert [(n, k, id(p)) for n, m in module.named_modules() for k, p in m._parameters.items()] == slots
    assert all(torch.equal(p, v) and p.grad is None and p.requires_grad for p, v in zip(parameters, values))
    assert [m.training for m in module.modules()] == modes
    torch.manual_seed(6)
    first = student.losses(record.batch)[0]
    torch.manual_seed(6)
    assert torch.equal(first, student.losses(record.batch)[0]) and first.requires_grad


@pytest.mark.parametrize("mode", influence.MODES)
def test_no_direction_no_influence(mode):
    student, parameters, theta, vector, record, _ = prepared(FORWARD["toy"])
    zero = [torch.zeros_like(v) for v in vector]
    assert not influence.MODES[mode](student, parameters, theta, zero, record)[1].any()


@pytest.mark.parametrize("mode", influence.MODES)
@pytest.mark.parametrize("size", [1e-12, 1e6])
def test_the_directions_length_does_not_matter(mode, size):
    """v carries the learning rate; it is brought to the parameters' range and back."""
    student, parameters, theta, vector, record, want = prepared(FORWARD["toy"])
    c = influence.MODES[mode](student, parameters, theta, [v * size for v in vector], record)[1]
    assert torch.allclose(c / size, want, rtol=1e-5)


def test_single_precision():
    """What training uses; both modes, loosely."""
    *arguments, want = prepared(fairseq_student("transformer", double=False))
    for compute in influence.MODES.values():
        c = compute(*arguments)[1].double()
        assert float((c - want).norm() / want.norm()) < 0.02


def test_the_trainer_announces_finite_differences(caplog):
    """A layer without forward mode: finite differences take over for good, and the log says so once."""
    student, parameters, theta, vector, record, want = prepared(NO_FORWARD["lstm"])
    trainer = MetaTrainer(student, FeatureLayout(()), MetaConfig(objective="loss", gradient="forward"))
    with caplog.at_level(logging.WARNING):
        got = [trainer.gradients.repeated.influence(theta, vector, record) for _ in range(2)]
    assert trainer.gradient_mode == "finite-difference"
    assert len(caplog.records) == 1 and "--meta-gradient finite-difference takes its place" in caplog.text
    for c in got:
        assert float((c - want).norm() / want.norm()) < 1e-5
