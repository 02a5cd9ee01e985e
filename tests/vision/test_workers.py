"""Two workers of gloo equal one with twice the batch, for a model without BatchNorm."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.vision.harness import training
from tests.vision.test_train import leaves

ROOT = Path(__file__).parents[2]
WORKER = """
import json, sys, torch
from fairseq_l2rw.vision import models, workers
from tests.vision.harness import normed, training
models.MODELS["normed"] = normed
device = workers.start(cpu=True)
run = training(
    batch_size=int(sys.argv[2]), teacher=sys.argv[3], model=sys.argv[4], schedule="2", augment="none", **json.loads(sys.argv[5])
)
figures = [run.train_epoch() for _ in range(2)][-1]
torch.save({**run.state_dict(), "figures": figures}, sys.argv[1] + f".{workers.rank()}")
workers.stop()
"""


def two_workers(path, *arguments, **options):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-c", WORKER, str(path), *arguments, json.dumps(options)]
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in range(2)
    ]
    errors = [p.communicate(timeout=300)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    return [torch.load(f"{path}.{rank}", weights_only=True) for rank in range(2)]


def largest_difference(a, b, part):
    """Of a tensor that has entries above 1, as a part of its largest."""
    worst = 0.0
    for (path, x), (other, y) in zip(leaves(a[part]), leaves(b[part]), strict=True):
        assert path == other
        if isinstance(x, torch.Tensor) and x.is_floating_point() and x.numel():
            x, y = x.double(), y.double()
            worst = max(worst, float((x - y).abs().max() / x.abs().max().clamp(min=1)))
    return worst


@pytest.mark.parametrize(
    "options, bound",
    [(dict(meta_contrast="mislabelled:0.5", teacher_history=0.0), 1e-5),
     # averages of scores and labels drawn by the student magnify the rounding of its sums in the teacher's optimizer
     ({}, 3e-5),
     (dict(meta_contrast="mislabelled:1.0", meta_params="^head", student_average=0.9), 3e-5),
     (dict(teacher_discriminant=0.9, warmup_updates=7, meta_batchnorm="batch"), 3e-5),
     (dict(meta_contrast="mislabelled:0.5", teacher_history=0.0, skip_below=0.99), 3e-5)],
    ids=["mislabelled", "defaults", "average", "discriminant-warmup-batch", "skip"],
)  # fmt: skip
def test_two_workers_equal_one_with_twice_the_batch(tmp_path, options, bound):
    two, other = two_workers(tmp_path / "two", "10", "deep", "cnn", **options)
    one = training(batch_size=20, teacher="deep", model="cnn", schedule="2", augment="none", **options)
    figures = [one.train_epoch() for _ in range(2)][-1]
    state = one.state_dict()
    assert figures["teacher_updates"] > 3
    assert (figures.get("skipped", 0) > 0) == ("skip_below" in options)
    for part in ("model", "optimizer", "method"):
        assert largest_difference(two, state, part) < (bound if part == "method" else 1e-5), part
        assert largest_difference(two, other, part) == 0, part
    for name in ("accuracy", "loss", "auc", "w_mean", "meta_loss"):
        assert two["figures"][name] == pytest.approx(figures[name], rel=1e-5)
    assert two["figures"].get("skipped") == figures.get("skipped")
    # negative control: another batch size trains another model
    smaller = training(batch_size=10, teacher="deep", model="cnn", schedule="2", augment="none")
    smaller.train_epoch()
    assert largest_difference(smaller.state_dict(), state, "model") > 1e-3


def test_running_statistics_and_teachers_are_the_same_on_both(tmp_path):
    two, other = two_workers(tmp_path / "two", "10", "deep", "normed")
    for part in ("model", "method"):
        assert largest_difference(two, other, part) == 0, part
