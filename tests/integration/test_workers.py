"""Two data-parallel workers (gloo, CPU) are one worker with ``--update-freq 2``, in real ``fairseq-train`` processes."""

import pytest
import torch

from integration.commands import (
    ROOT,
    TASK_STATE,
    TEACHER,
    TRANSFORMER,
    changed_package,
    checkpoint,
    differences,
    train,
    train_with_workers,
    training_state,
)  # fmt: skip

UPDATES = 20
# 599 pairs in 13 batches: an odd number, so that at the end of each epoch one of the two workers has a dummy batch
OPTIONS = [
    *TRANSFORMER, *TEACHER, "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", 0.1, "--dropout", 0,
    "--batch-size", 48, "--max-tokens", 4000, "--max-update", UPDATES, "--adam-eps", 1e-4, "--disable-validation",
]  # fmt: skip
SAVED_TWICE = [*OPTIONS, "--save-interval-updates", UPDATES // 2]

#: all of the teacher's state on every worker, beside the checkpoint, which one worker writes
ALL_STATES = """
import os
import torch
from fairseq import checkpoint_utils

save_checkpoint = checkpoint_utils.save_checkpoint

def save_all(cfg, trainer, *others):
    torch.save(trainer.task.get_checkpoint_dict(), os.path.join(cfg.save_dir, f"worker{trainer.data_parallel_rank}.pt"))
    return save_checkpoint(cfg, trainer, *others)

checkpoint_utils.save_checkpoint = save_all
"""
#: negative control: each worker's teacher learns from its own rows alone
NOT_SUMMED = """
from fairseq_l2rw.meta.workers import DistributedWorkers, Workers

DistributedWorkers.gather = Workers.gather
"""
#: with `batch`, a head's bias gets a gradient of zero while all weights are equal: Adam's usual epsilon makes whole steps of its rounding
PATIENT = """
from fairseq_l2rw.meta.trainer import MetaTrainer

make = MetaTrainer.__init__

def make_patient(self, *args, **settings):
    make(self, *args, **settings)
    self.learner.optimizer.param_groups[0]["eps"] = 1e-3

MetaTrainer.__init__ = make_patient
"""
#: torch's own data parallelism refuses device numbers for modules on the CPU; fairseq gives one always
ON_THE_CPU = """
from fairseq.models import distributed_fairseq_model
from torch.nn.parallel import DistributedDataParallel

def on_the_cpu(device_ids, output_device, **settings):
    return DistributedDataParallel(**settings)

distributed_fairseq_model.DistributedDataParallel = on_the_cpu
import fairseq_l2rw.translation.task
fairseq_l2rw.translation.task.check_way_of_training = lambda cfg, begun=True: None
"""


@pytest.fixture(scope="module")
def one_worker(data, tmp_path_factory):
    save = tmp_path_factory.mktemp("one") / "save"
    return train(data, save, *OPTIONS, "--update-freq", 2), save


@pytest.fixture(scope="module")
def two_workers(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return train_with_workers(data, folder / "save", changed_package(folder / "noted", ALL_STATES), *SAVED_TWICE), folder / "save"


def distance(a, b, floor=1e-6) -> float:
    """Largest relative distance of two states' tensors, each by its norm, which counts as `floor` where it is less."""
    if isinstance(a, torch.Tensor):
        a, b = a.double(), b.double()
        return float((a - b).norm() / b.norm().clamp(min=floor))
    values = zip(a.values(), b.values()) if isinstance(a, dict) else zip(a, b)
    return max((distance(x, y, floor) for x, y in values if isinstance(x, (torch.Tensor, dict, list))), default=0.0)


def learnt(save):
    """``(student's parameters, teacher's state, dev gradients, targets of the replayed rows and the train scale's distances)``."""
    state = checkpoint(save / "checkpoint_last.pt")
    meta = state["extra_state"][TASK_STATE]["meta"]
    assert state["optimizer_history"][-1]["num_updates"] == UPDATES
    told = [r["targets"] for r in meta["replay"]]
    if meta["train_scale"] is not None:
        told.append(torch.tensor(meta["train_scale"]["means"]))
        assert told[-1].all(), "measured for each head"
    return state["model"], meta["teacher"], meta["objective"]["averages"], told


def as_wholes(gradients):
    """Each term's dev gradient as one tensor: those of the attention's key biases alone are zero but for rounding."""
    return {term: torch.cat([g.flatten() for g in of]) for term, of in gradients.items()}


METRICS = ("loss", "nll_loss", "wpb", "bsz", "gnorm", "meta_loss", "w_mean", "w_std", "ess", "teacher_gnorm", "meta_skipped")


def largest_metric_distance(a, b) -> float:
    assert len(a) == len(b) > 0
    worst = 0.0
    for x, y in zip(a, b):
        for name in METRICS:
            assert (name in x) == (name in y), (name, x, y)
            worst = max(worst, abs(x.get(name, 0) - y.get(name, 0)) / max(abs(y.get(name, 0)), 1.0))
    return worst


def test_two_workers_are_one_with_two_micro_batches(one_worker, two_workers):
    for got, want in zip(learnt(two_workers[1]), learnt(one_worker[1])):
        assert distance(got, want) < 2e-3
    assert largest_metric_distance(two_workers[0].progress(), one_worker[0].progress()) < 2e-3


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
def test_without_half_precision_they_are_one_to_float_tolerance(data, tmp_path, normalization):
    """Averages of dev gradients are kept in bfloat16, whose rounding the test above allows for; here there are none."""
    options = [*OPTIONS, "--meta-momentum", 0, "--weight-normalization", normalization]
    one, two, package = tmp_path / "one", tmp_path / "two", changed_package(tmp_path / "patient", PATIENT)
    want = train(data, one, *options, "--update-freq", 2, user_dir=package, PYTHONPATH=str(ROOT)).progress()
    got = train_with_workers(data, two, package, *options).progress()
    states = [(model, teacher, as_wholes(dev), told) for model, teacher, dev, told in (learnt(two), learnt(one))]
    for a, b in zip(*states):
        # with `batch`, the gradient of a head's bias is a sum that cancels: its value, some thousandths, has fewer digits
        assert distance(a, b, floor=1e-2) < 1e-4
    assert largest_metric_distance(got, want) < 2e-3  # printed with three decimals


def test_the_epochs_end_with_a_dummy_batch(one_worker):
    """What the equality above covers: an odd number of batches, twice."""
    sizes = [entry["bsz"] for entry in one_worker[0].progress()]
    assert len(sizes) == UPDATES
    assert [t for t, size in enumerate(sizes) if size <= 48] == [6, 13]


def test_all_workers_have_the_same_state(two_workers):
    """To the bit: it is one of them that saves for all."""
    states = [torch.load(two_workers[1] / f"worker{rank}.pt", weights_only=True) for rank in range(2)]
    assert differences(*states) == []
    assert states[0][TASK_STATE]["meta"]["objective"]["averages"]


def test_resumed_they_go_on_to_the_bit(data, tmp_path, two_workers):
    """One worker reads the checkpoint and sends it to the other."""
    save, (half,) = tmp_path / "save", two_workers[1].glob(f"checkpoint_*_{UPDATES // 2}.pt")
    run = train_with_workers(data, save, ROOT / "fairseq_l2rw", *OPTIONS, "--restore-file", half)
    assert [entry["num_updates"] for entry in run.progress()] == list(range(UPDATES // 2 + 1, UPDATES + 1))
    resumed, whole = (training_state(folder / "checkpoint_last.pt") for folder in (save, two_workers[1]))
    assert differences(resumed, whole) == []


def test_workers_whose_rows_are_not_gathered_differ(data, tmp_path, one_worker, two_workers):  # negative control
    apart = changed_package(tmp_path / "apart", NOT_SUMMED)
    # the train scale, which these few updates do not come to use, would wait for a worker that has seen no rows of its own
    run = train_with_workers(data, tmp_path / "save", apart, *OPTIONS, "--meta-scale", "dev")
    got, want = learnt(tmp_path / "save")[1], learnt(one_worker[1])[1]
    assert distance(got, want) > 10 * distance(learnt(two_workers[1])[1], want) and distance(got, want) > 1e-2
    assert largest_metric_distance(run.progress(), one_worker[0].progress()) > 1e-2


def test_torchs_own_data_parallelism(data, tmp_path, one_worker):
    """``--ddp-backend c10d``; over gloo on the CPU, but for the device numbers that fairseq gives it."""
    run = train_with_workers(
        data, tmp_path / "save", changed_package(tmp_path / "on_cpu", ON_THE_CPU), *OPTIONS, "--ddp-backend", "c10d",
        "--max-update", 8, "--no-save",
    )  # fmt: skip
    assert largest_metric_distance(run.progress(), one_worker[0].progress()[:8]) < 2e-3
