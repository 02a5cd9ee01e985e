"""Mixed precision in real ``fairseq-train`` processes on the CPU; what only a GPU has is replaced, and nothing else."""

import pytest

from integration.commands import (
    ROOT,
    SMOOTHED,
    TASK_STATE,
    TRANSFORMER,
    changed_package,
    checkpoint,
    differences,
    train,
)  # fmt: skip
from integration.test_hydra import hydra_train

#: fairseq asks for the current device, and makes a number on it after an overflow
NO_GPU = """
import torch

torch.cuda.current_device = lambda: None
torch.Tensor.cuda = lambda self, *args, **kwargs: self
"""
OPTIONS = [
    *TRANSFORMER, *SMOOTHED, "--meta-contrast", "misaligned:0.5", "--teacher-replay", 2, "--teacher-hidden-dim", 16,
    "--meta-start", 0, "--meta-interval", 1, "--meta-max-tokens", 400, "--max-tokens", 1000, "--disable-validation", "--max-update", 5,
]  # fmt: skip


@pytest.fixture(scope="module")
def no_gpu(tmp_path_factory):
    return changed_package(tmp_path_factory.mktemp("no_gpu") / "no_gpu", NO_GPU)


@pytest.fixture(scope="module")
def single(data, runs):
    """The same training in single precision: ``(entries, save folder)``."""
    return trained(data, runs / "single")


def trained(data, save, *options, **how):
    run = train(data, save, *OPTIONS, *options, "--save-interval-updates", 3, **how)
    return run, save


def check_learns(run, save):
    entries = run.progress()
    assert len(entries) == 5 and all("meta_loss" in entry for entry in entries), run
    assert max(entry["teacher_gnorm"] for entry in entries) > 0
    states = [checkpoint(save / name)["extra_state"][TASK_STATE]["meta"]["teacher"]
              for name in ("checkpoint_1_3.pt", "checkpoint_last.pt")]  # fmt: skip
    assert {"/nets.0.bias", "/nets.0.f.0.weight"} <= set(differences(*states))


WAYS = {
    "fp16": ["--fp16"],
    "fp16-no-flatten-grads": ["--fp16", "--fp16-no-flatten-grads"],
    "memory-efficient-fp16": ["--memory-efficient-fp16"],
    "amp": ["--amp"],  # without a GPU fairseq's autocast and loss scaler switch themselves off; the hooks are the same
}


@pytest.mark.parametrize("way", WAYS)
def test_mixed_precision(data, runs, no_gpu, single, way):
    """The teacher learns, and dev losses and weights are those of single precision, but for rounding."""
    run, save = trained(data, runs / way, *WAYS[way], user_dir=no_gpu, PYTHONPATH=str(ROOT))
    check_learns(run, save)
    for got, want in zip(run.progress(), single[0].progress()):
        assert got["meta_loss"] == pytest.approx(want["meta_loss"], rel=0.01)
        assert got["w_mean"] == pytest.approx(want["w_mean"], abs=0.01)
        assert got["meta_skipped"] == 0


def test_an_overflow_gives_no_teacher_update(data, runs, no_gpu):
    """fairseq halves its loss scale until the gradient fits; those attempts are counted, and the update is made after them."""
    run, save = trained(
        data, runs / "overflow", "--fp16", "--fp16-init-scale", 2**13, user_dir=no_gpu, PYTHONPATH=str(ROOT)
    )
    overflows = run.stdout.count("gradient overflow detected")
    assert overflows > 0, run
    check_learns(run, save)
    entries = run.progress()
    assert [entry["num_updates"] for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[-1]["meta_skipped"] == overflows
    turns = checkpoint(save / "checkpoint_last.pt")["extra_state"][TASK_STATE]["meta"]["objective"]["turn"]
    assert turns == 5  # one dev batch for each update that was made


WITHOUT_A_RULE = {
    "lstm": "--encoder-embed-dim 16 --encoder-hidden-size 16 --decoder-embed-dim 16 --decoder-hidden-size 16 --decoder-out-embed-dim 16",
    "fconv": "--encoder-embed-dim 16 --decoder-embed-dim 16 --decoder-out-embed-dim 16 --encoder-layers [(16,3)] --decoder-layers [(16,3)]",
}


@pytest.mark.parametrize("arch, way", [("lstm", "fp16"), ("fconv", "amp")])
def test_a_layer_without_a_forward_mode_rule_is_told_at_start_up(data, tmp_path, no_gpu, arch, way):
    """Long before the first teacher update, with nothing left behind."""
    options = ["--arch", arch, *WITHOUT_A_RULE[arch].split(), *OPTIONS[len(TRANSFORMER) :], "--meta-start", 1000, "--max-update", 2000]
    save = tmp_path / "save"
    run = train(data, save, *options, *WAYS[way], user_dir=no_gpu, PYTHONPATH=str(ROOT), status=2)
    line = run.stderr.splitlines()[-1]
    assert "a layer of the student has no forward-mode rule" in line and line.endswith("leave out --fp16, --bf16 or --amp"), run
    assert run.progress() == [] and "Traceback" not in run.stdout + run.stderr, run
    assert not save.exists() or not list(save.iterdir())


def test_bf16_through_hydra(data, tmp_path):
    overrides = "common.bf16=true task.meta_start=0 task.meta_interval=1 +task.meta_contrast='misaligned:0.5' optimization.max_update=5".split()
    run = hydra_train(data, tmp_path, *overrides)
    entries = [line for line in (run.stdout + run.stderr).splitlines() if "| train_inner |" in line]
    assert len(entries) == 5 and all('"meta_skipped": "0"' in line for line in entries), run
    meta = checkpoint(tmp_path / "checkpoints" / "checkpoint_last.pt")["extra_state"][TASK_STATE]["meta"]
    assert meta["teacher_optimizer"]["state"]


def test_bf16_on_the_command_line(data, tmp_path):
    run = train(data, tmp_path / "save", *OPTIONS, "--bf16", status=2)
    assert "fairseq-hydra-train with common.bf16=true" in run.stderr.splitlines()[-1], run
    assert "Traceback" not in run.stderr, run
