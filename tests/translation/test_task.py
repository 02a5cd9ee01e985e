"""The task's hooks where an update does not come to its step, and the ways to train that it refuses."""

from types import SimpleNamespace

import pytest
from fairseq.tasks.translation import TranslationTask

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.config import L2RWTranslationConfig, check_way_of_training
from fairseq_l2rw.translation.task import L2RWTranslationTask
from tests.translation.harness import (
    batch_of,
    capture_of,
    criterion_of,
    dictionary,
    pairs,
    student_module,
)


def task_with(meta):
    task = L2RWTranslationTask.__new__(L2RWTranslationTask)
    task.cfg, task.settled = SimpleNamespace(influence_log=None), None
    task.meta, task._accumulating, task._clipping, task._restored = meta, False, (None, 0.0), False
    return task


class Meta:
    """Notes what it is told."""

    attached, parameters, started, skipped = True, [], False, 0

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append(name)


@pytest.mark.parametrize("norm", [float("inf"), float("nan"), 1.0])
def test_a_gradient_that_is_not_finite_gives_no_teacher_update(norm):
    """``--amp``: the hook runs all the same, and the loss scaler has to be told."""
    meta = Meta()
    task, stepped = task_with(meta), []
    task._clipping = (norm, 1.0)
    task.optimizer_step(SimpleNamespace(step=lambda: stepped.append(1)), None, 3)
    assert stepped == [1]
    assert meta.calls == (["before_step", "after_step"] if norm == 1.0 else ["drop_records"])


@pytest.mark.parametrize("several", [False, True])
def test_out_of_memory(several, monkeypatch):
    """One worker alone gives the update up, several go on with it; either way the gradients so far are lost."""

    def train_step(*arguments):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(TranslationTask, "train_step", train_step)
    monkeypatch.setattr("fairseq_l2rw.translation.task.several_workers", lambda: several)
    meta = Meta()
    task = task_with(meta)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            task.train_step({}, None, None, None, 3)
    begun = ["begin_update", "drop_records"]
    assert meta.calls == ([*begun, "drop_records"] if several else begun * 2)


PLAIN = dict(
    tpu=False, cpu=False, model_parallel_size=1, use_bmuf=False, ddp_backend="legacy_ddp", zero_sharding="none",
    cpu_offload=False, pipeline_model_parallel=False, distributed_world_size=1,
)  # fmt: skip
REFUSED = {
    "--bf16 and --tpu .* fairseq-hydra-train with common.bf16=true": dict(tpu=True),
    "--ddp-backend fully_sharded: .* give c10d or legacy_ddp": dict(ddp_backend="fully_sharded"),
    "--ddp-backend fully_sharded: .* give c10d or legacy_ddp without --cpu-offload, or give --teacher uniform": dict(
        ddp_backend="fully_sharded", cpu_offload=True
    ),
    "--cpu-offload: fairseq has it with --ddp-backend fully_sharded only, .*; leave it out$": dict(cpu_offload=True),
    "--ddp-backend slowmo: ": dict(ddp_backend="slowmo"),
    "--zero-sharding os: .* leave it out": dict(zero_sharding="os"),
    "--use-bmuf: ": dict(use_bmuf=True),
    "--pipeline-model-parallel: ": dict(pipeline_model_parallel=True),
    "--model-parallel-size: .* give 1, or": dict(model_parallel_size=2),
    "--ddp-backend pytorch_ddp of fairseq needs GPUs; on the CPU give --ddp-backend legacy_ddp": dict(
        cpu=True, ddp_backend="pytorch_ddp", distributed_world_size=2
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_ways_of_training_that_are_refused(says):
    with pytest.raises(L2RWError, match=says) as caught:
        check_way_of_training(SimpleNamespace(**{**PLAIN, **REFUSED[says]}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{}, dict(cpu=True, distributed_world_size=2), dict(cpu=True, ddp_backend="pytorch_ddp")]
)
def test_ways_of_training_that_are_not(options):
    check_way_of_training(SimpleNamespace(**{**PLAIN, **options}))


@pytest.mark.parametrize("arch", ["fconv", "transformer"])
def test_a_spoilt_target_is_no_longer_than_what_the_model_takes(arch):
    """fairseq's fconv takes fewer positions than --max-target-positions says."""
    words = dictionary()
    task = L2RWTranslationTask(L2RWTranslationConfig(max_target_positions=6, seed=1, amp=False, fp16=False, bf16=False), words, words)
    module = student_module(arch, max_target_positions=6)
    task._criterion = criterion_of(task)
    student = task.make_meta(module, capture_of(module)).student
    spoilt = student.corrupt(batch_of(pairs([9], [2])), "untranslated", 0)
    assert spoilt["target"].shape[1] == module.max_positions()[1] == (4 if arch == "fconv" else 6)
    student.losses(spoilt)
