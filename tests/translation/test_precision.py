"""Mixed precision: fairseq's own optimizer wrappers on the CPU, and influences of a half-precision student.

Only what needs a GPU is replaced: the number of the current device, and the kind of autocast.
"""

import functools

import pytest
import torch
from fairseq.optim import AMPOptimizer, FP16Optimizer, MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer, influence
from fairseq_l2rw.meta.functional import RandomState, swapped, trainable
from fairseq_l2rw.meta.linearize import rule_for
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.window import Window
from fairseq_l2rw.translation.precision import masters_of
from tests.translation.harness import batch, translation_student

ADAM = {
    "_name": "adam", "adam_betas": "(0.9, 0.98)", "adam_eps": 1e-6, "weight_decay": 0.1, "use_old_adam": False,
    "fp16_adam_stats": False, "tpu": False, "lr": [0.01],
}  # fmt: skip
STILL = dict(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0, share_all_embeddings=True)
#: name -> (wrapper, common options, dtype of the student, precision of a step)
WAYS = {
    "fp16": (FP16Optimizer, {}, torch.float16, 1e-6),
    "fp16-no-flatten-grads": (FP16Optimizer, {"fp16_no_flatten_grads": True}, torch.float16, 1e-6),
    "memory-efficient-fp16": (MemoryEfficientFP16Optimizer, {}, torch.float16, 1e-3),
    "bf16": (FP16Optimizer, {"bf16": True}, torch.bfloat16, 1e-6),
    "amp": (AMPOptimizer, {}, torch.float32, 1e-6),
}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the index of tensors on the CPU


def built(way):
    """``(student, its parameters, fairseq's optimizer)``."""
    wrapper, common, dtype, _ = WAYS[way]
    student = translation_student("transformer", double=False, **STILL)
    student.module.to(dtype).train()
    parameters = list(trainable(student.module).values())
    common = {"fp16_scale_window": 100, "fp16_init_scale": 128, "fp16_scale_tolerance": 0.0, "threshold_loss_scale": None,
              "min_loss_scale": 1e-4, **common}  # fmt: skip
    cfg = {"common": common, "optimization": {"update_freq": [1]}, "optimizer": ADAM,
           "distributed_training": {"distributed_world_size": 1}}  # fmt: skip
    return student, parameters, wrapper.build_optimizer(OmegaConf.create(cfg), parameters)


def gradient_of(student, optimizer, data, max_norm, factor=1.0):
    """Backward and clipping, as fairseq's trainer does them; the norm."""
    optimizer.zero_grad()
    losses, n_tokens = student.losses(data)
    optimizer.backward(losses.sum() * factor)
    optimizer.multiply_grads(1 / float(n_tokens.sum()))
    return float(optimizer.clip_grad_norm(max_norm))


@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("way", WAYS)
def test_the_step_that_is_noted_is_the_one_that_was_made(way, max_norm):
    """Master copies, flat or not; the gradient after the clipping, which the wrappers apply within the step."""
    student, parameters, optimizer = built(way)
    rule, masters = rule_for(optimizer.optimizer), masters_of(optimizer, parameters)
    assert (masters is None) == (way in ("memory-efficient-fp16", "amp"))
    for k in range(3):
        window = Window(1, rule, optimizer.optimizer, parameters, keep_earlier=True, masters=masters)
        norm = gradient_of(student, optimizer, batch(k), max_norm)
        assert norm > 0.1
        window.before_step(norm, max_norm)
        optimizer.step()
        window.after_step([])
        (step,) = window.steps
        moved = 0.0
        for i, master in enumerate(window.masters):
            assert step.parameters[i].dtype == step.gradients[i].dtype == torch.float32
            theta, state = rule.step(step.hyper[i], step.parameters[i], step.earlier[i], step.gradients[i])
            now = master.part(master.stepped.detach())
            assert torch.allclose(theta, now, rtol=WAYS[way][3], atol=1e-7), i
            assert torch.equal(now.to(parameters[i].dtype), parameters[i].detach())
            for name, tensor in state.items():
                assert torch.allclose(tensor, step.states[i][name], rtol=1e-5, atol=1e-9)
            moved = max(moved, float((now - step.parameters[i]).abs().max()))
        assert moved > 1e-3
        if max_norm:
            total = torch.stack([g.square().sum() for g in step.gradients]).sum().sqrt()
            assert float(total) == pytest.approx(max_norm, rel=1e-2)


def test_the_students_own_gradients_would_be_wrong():  # negative control
    """Without the masters the optimizer has no state for the half-precision parameters."""
    student, parameters, optimizer = built("fp16")
    window = Window(1, rule_for(optimizer.optimizer), optimizer.optimizer, parameters, keep_earlier=False)
    gradient_of(student, optimizer, batch(), 0.0)
    with pytest.raises(KeyError):
        window.before_step(None, 0.0)


@pytest.mark.parametrize("way", ["fp16", "memory-efficient-fp16"])
def test_an_overflow_comes_before_the_step(way):
    """What the task relies on: fairseq raises within clip_grad_norm, and the next update finds the wrapper in order."""
    student, parameters, optimizer = built(way)
    with pytest.raises(OverflowError, match="setting loss scale to: 64"):
        gradient_of(student, optimizer, batch(), 0.1, factor=1e6)
    assert gradient_of(student, optimizer, batch(), 0.1) > 0


# ---- influences -------------------------------------------------------------


def influences(student, parameters, dtype, size=1e-4):
    """``(c of the half-precision student, c of the same student in double precision)`` along one direction."""
    theta = [p.detach().float() for p in parameters]
    vector = [size * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) for i, p in enumerate(parameters)]
    data, state = batch(), RandomState.capture()
    with torch.no_grad():
        losses, n_tokens = student.losses(data)
    ones = torch.ones_like(losses)
    record = BatchRecord(data, None, None, ones, losses, ones, n_tokens, state)
    repeated, c = influence.forward_mode(student, parameters, theta, vector, record)
    assert torch.allclose(repeated, losses, rtol=1e-2)
    exact = translation_student("transformer", double=True, **STILL)
    exact.module.train()
    others = list(trainable(exact.module).values())
    record = BatchRecord(data, None, None, ones.double(), losses.double(), ones.double(), n_tokens, state)
    values = [t.to(dtype).double() for t in theta]
    want = influence.forward_mode(exact, others, values, [v.double() for v in vector], record)[1]
    return c.double(), want


def error(c, want):
    return float((c - want).norm() / want.norm())


@pytest.mark.parametrize("size", [1e-9, 1e-4, 10.0])
@pytest.mark.parametrize("dtype, close", [(torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_influences_in_half_precision(dtype, close, size):
    """Whatever the length of the direction, which carries the learning rate."""
    student = translation_student("transformer", double=False, **STILL)
    student.module.to(dtype).train()
    assert error(*influences(student, list(trainable(student.module).values()), dtype, size)) < close


def test_without_the_tangents_scale_they_vanish(monkeypatch):  # negative control
    student = translation_student("transformer", double=False, **STILL)
    student.module.half().train()
    monkeypatch.setattr(influence, "_scale", lambda theta, vector: 1.0)
    assert error(*influences(student, list(trainable(student.module).values()), torch.float16, 1e-9)) > 0.5


def test_influences_under_autocast():
    """``--amp``, here with the CPU's kind: parameters in single precision, activations in half."""
    student = translation_student("transformer", double=False, **STILL)
    student.autocast = functools.partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    student.module.train()
    c, want = influences(student, list(trainable(student.module).values()), torch.float32)
    assert 1e-4 < error(c, want) < 0.1  # it is not single precision


def test_whole_teacher_updates_with_master_copies(monkeypatch):
    """From the half-precision student's loss to the teacher's step; against the same in double precision."""
    student, parameters, optimizer = built("fp16")
    config = MetaConfig(objective="loss", gradient="forward", momentum=0.0, replay=0, prior_strength=0.0, start=0)
    trainer = MetaTrainer(student, FeatureLayout(()), config, teacher="loss", hidden=4, half=True)
    trainer.attach(optimizer.optimizer, masters_of(optimizer, trainer.parameters))
    seen, forward = {}, influence.forward_mode

    def noted(student, parameters, theta, vector, record):
        seen.update(theta=theta, vector=vector)
        return forward(student, parameters, theta, vector, record)

    monkeypatch.setitem(influence.MODES, "forward", noted)
    for t in range(3):
        trainer.begin_update(t)
        data, state = batch(t), RandomState.capture()
        optimizer.zero_grad()
        losses, n_tokens = student.losses(data)
        rows, w = trainer.weigh(losses, n_tokens, n_tokens, [])
        trainer.record(data, rows, w, losses, n_tokens.float(), n_tokens, state)
        optimizer.backward((w * losses).sum())
        optimizer.multiply_grads(1 / float(n_tokens.sum()))
        trainer.before_step(float(optimizer.clip_grad_norm(0.1)), 0.1)
        optimizer.step()
        report = trainer.after_step(lambda: batch(50 + t))
        assert report is not None and trainer.skipped == 0
    exact = translation_student("transformer", double=True, **STILL)
    exact.module.train()
    others = list(trainable(exact.module).values())
    values = [t.half().double() for t in seen["theta"]]
    with swapped(exact.module, others, [v.requires_grad_() for v in values]):
        losses = exact.losses(batch(2))[0]
    want = []
    for one in losses:
        gradients = torch.autograd.grad(one, values, retain_graph=True)
        want.append(sum((g * v.double()).sum() for g, v in zip(gradients, seen["vector"])))
    assert error(report.influence.double(), torch.stack(want)) < 0.03


# ---- what is refused --------------------------------------------------------


def test_apexs_fused_adam_is_refused():
    from fairseq.optim.fused_adam import FusedAdamV1

    with pytest.raises(L2RWError, match="--optimizer adam: apex's fused Adam .* add --use-old-adam"):
        rule_for(FusedAdamV1.__new__(FusedAdamV1))
