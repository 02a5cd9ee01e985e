"""Nothing mixes the devices of a GPU and of the CPU: trainings on a simulated GPU (``simulated_gpu.py``) give what they give on the CPU."""

import json

import pytest

from integration.commands import (
    ROOT,
    SMOOTHED,
    TASK_STATE,
    TRANSFORMER,
    changed_package,
    checkpoint,
    differences,
    run,
    train,
)
from integration.modes_on_gpu import MODES, UPDATES
from integration.simulated_gpu import AVAILABLE

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="this torch cannot register a device from Python")
PATHS = f"{ROOT}:{ROOT / 'tests'}"
USE = """
import fairseq_l2rw.meta.trainer
from integration import simulated_gpu

fairseq_l2rw.meta.trainer.FIRST_LOOK = 2
simulated_gpu.register()
simulated_gpu.train_there()
"""
FORGET = """
from fairseq_l2rw.translation.task import L2RWTranslationTask

L2RWTranslationTask._on_device = lambda self, batch: batch
"""
OPTIONS = [
    *TRANSFORMER, *SMOOTHED, "--teacher-replay", 2, "--teacher-hidden-dim", 8, "--meta-start", 1, "--meta-interval", 1,
    "--meta-contrast", "misaligned:0.5", "--meta-max-tokens", 300, "--max-tokens", 600, "--disable-validation",
]  # fmt: skip


def printed(*command, cwd):
    return json.loads(run(*command, cwd=cwd, PYTHONPATH=PATHS).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    return printed("-m", "integration.modes_on_gpu", cwd=tmp_path_factory.mktemp("modes"))


@pytest.mark.parametrize("mode", MODES)
def test_a_training_on_a_gpu_is_that_on_the_cpu(logged, mode):
    here, there = logged[mode]
    assert len(here) == len(there) == UPDATES
    for want, got in zip(here, there):
        assert got == pytest.approx(want, rel=2e-3 if mode == "fp16" else 1e-5)


def trained(data, save, user_dir, *options, **how):
    return train(data, save, *OPTIONS, "--max-update", 4, *options, user_dir=user_dir, PYTHONPATH=PATHS, **how)


def test_a_training_goes_on_there_to_the_bit(data, runs, tmp_path):
    """What a checkpoint holds is the CPU's; all of it comes back to the GPU."""
    gpu = changed_package(tmp_path / "gpu", USE)
    trained(data, runs / "gpu-whole", gpu, "--save-interval-updates", 2)
    trained(data, runs / "gpu-resumed", gpu, "--restore-file", runs / "gpu-whole" / "checkpoint_1_2.pt")
    whole, resumed = (checkpoint(runs / name / "checkpoint_last.pt") for name in ("gpu-whole", "gpu-resumed"))
    for part in ("model", "last_optimizer_state"):
        assert not differences(whole[part], resumed[part])
    assert not differences(*(c["extra_state"][TASK_STATE]["meta"] for c in (whole, resumed)))


def test_a_dev_batch_that_stays_behind_is_found_out(data, runs, tmp_path):
    failed = trained(data, runs / "forgets", changed_package(tmp_path / "forgets", USE + FORGET), status=1)
    assert "expected all tensors to be on the same device" in failed.stderr


def test_weights_are_given_there(data, deep, tmp_path):
    code = f"""
import json
import torch
from fairseq_l2rw.translation.weights import Weigher
from integration import simulated_gpu

simulated_gpu.register()
torch.__future__.set_overwrite_module_params_on_conversion(True)
pairs = [(torch.tensor([5, 6, 7, 2]), torch.tensor([8, 9, 2])), (torch.tensor([9, 2]), torch.tensor([4, 4, 2]))]
weighers = [Weigher({str(data)!r}, {str(deep[1] / "checkpoint_last.pt")!r}, device) for device in ("cpu", simulated_gpu.DEVICE)]
assert str(next(weighers[1].model.parameters()).device) == simulated_gpu.DEVICE
print(json.dumps([[[p.weight, *p.heads, p.loss] for p in w.weigh(pairs)] for w in weighers]))
"""
    here, there = printed("-c", code, cwd=tmp_path)
    for got, want in zip(there, here):
        assert got == pytest.approx(want, rel=1e-4)


def test_images_on_a_gpu(tmp_path):
    code = """
import json
import torch
from fairseq_l2rw.vision.augment import crop_and_flip
from fairseq_l2rw.vision.data import cut
from fairseq_l2rw.vision.train import Training
from integration import simulated_gpu
from vision import harness

simulated_gpu.register()
torch.__future__.set_overwrite_module_params_on_conversion(True)
out = {}
for name, more in {"deep": {}, "discriminant": dict(teacher="deep", teacher_discriminant=0.9), "l2r": {}, "mwn": {}}.items():
    settings = harness.config(**{"teacher": name, "schedule": "2:1", "valid_size": 8, **more})
    parts = cut(harness.dataset(), settings.meta_size, settings.valid_size, settings.train_size, settings.noise, settings.seed)
    runs = [Training(settings, parts, device) for device in ("cpu", simulated_gpu.DEVICE)]
    assert str(next(runs[1].student.module.parameters()).device) == simulated_gpu.DEVICE
    out[name] = [(run.train_epoch(), run.train_epoch()) for run in runs]
images = torch.rand(2, 3, 12, 12)
cropped = [crop_and_flip(some, torch.Generator().manual_seed(1)).cpu() for some in (images, images.to(simulated_gpu.DEVICE))]
assert torch.equal(*cropped)
print(json.dumps(out))
"""
    for teacher, (here, there) in printed("-c", code, cwd=tmp_path).items():
        for want, got in zip(here, there):
            for name in {"loss", "w_mean", "w_std", "meta_loss", "teacher_gnorm"} & want.keys():
                assert got[name] == pytest.approx(want[name], rel=1e-3), (teacher, name)
