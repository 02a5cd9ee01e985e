"""Runs the real commands, each in a process of its own, and reads what they leave behind.

Everything runs on the CPU with one thread: results must not depend on the machine's number of cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.kill_resume import differences  # noqa: F401  (for the tests)

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fairseq_l2rw"
TASK_STATE = "L2RWTranslationTask"  # key of the teacher's state in a checkpoint
ERROR = "fairseq-l2rw: error: "

TINY_TRANSFORMER = (
    "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2 --share-all-embeddings"
).split()
TRANSFORMER = ["--arch", "transformer", *TINY_TRANSFORMER, "--dropout", "0.1"]
TRAINING = (
    "--optimizer adam --lr 0.002 --lr-scheduler inverse_sqrt --warmup-updates 10 --clip-norm 1.0 --max-tokens 2000 "
    "--seed 7 --cpu --num-workers 0 --log-interval 1 --log-format json --keep-interval-updates 9 --no-epoch-checkpoints"
).split()
SMOOTHED = ["--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"]
TEACHER = (
    "--teacher deep --teacher-replay 2 --teacher-hidden-dim 16 --meta-start 3 --meta-interval 1 --meta-max-tokens 400"
).split()
TIMEOUT = 1200  # seconds; only a command that hangs takes so long
UNCHECKED = ["--disable-validation", "--no-save"]  # of a run whose log alone matters


@dataclass(frozen=True)
class Run:
    """A command that has ended."""

    command: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        """What a reader of a failed test needs: the command and the ends of its two streams."""
        tails = [f"--- {name} ---\n{text[-3000:]}" for name, text in (("stdout", self.stdout), ("stderr", self.stderr))]
        return "\n".join([f"$ {' '.join(self.command)}", f"exit status {self.status}", *tails])

    def progress(self, tag: str = "train_inner") -> list[dict]:
        """The entries of ``--log-format json``, in order; numbers as numbers."""
        lines = re.findall(rf"\| {tag} \| (\{{.*\}})$", self.stdout, re.MULTILINE)
        return [{key: _number(value) for key, value in json.loads(line).items()} for line in lines]


def run(*command: object, cwd: Path, status: int = 0, stdin: str = "", **environment: str) -> Run:
    """Runs a command of Python's (``-m MODULE ...``) and fails with its log if it does not end with `status`."""
    words = tuple(str(word) for word in command)
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, input=stdin, capture_output=True, encoding="utf-8", timeout=TIMEOUT,
        env=_environment(environment),
    )  # fmt: skip
    result = Run(words, done.returncode, done.stdout, done.stderr)
    assert result.status == status, result
    return result


def _environment(more: dict) -> dict:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUTF8": "1", **more}


def train_with_workers(data: Path, save: Path, user_dir: Path, *options: object, count: int = 2, **environment) -> Run:
    """``fairseq-train`` in several processes, one a worker, on the CPU; what the first one printed."""
    cwd = save.parent / f"{save.name}.cwd"
    cwd.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "-m", "fairseq_cli.train", data, "--user-dir", user_dir, "--task", "l2rw_translation", "--save-dir", save, *TRAINING,
        "--distributed-world-size", count, "--distributed-init-method", f"tcp://127.0.0.1:{port}", "--distributed-no-spawn",
        "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp", *options,
    ]  # fmt: skip
    environment = _environment({"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", **environment})
    commands = [tuple(str(word) for word in [*words, "--distributed-rank", rank]) for rank in range(count)]
    logs = [open(cwd / f"{rank}.{name}", "w+", encoding="utf-8") for rank in range(count) for name in ("out", "err")]
    processes = [
        subprocess.Popen([sys.executable, *command], cwd=cwd, env=environment, stdout=out, stderr=err)
        for command, out, err in zip(commands, logs[::2], logs[1::2])
    ]
    try:
        for process in processes:
            process.wait(timeout=TIMEOUT)
    finally:
        for process in processes:
            process.kill()
    texts = []
    for log in logs:
        log.seek(0)
        texts.append(log.read())
        log.close()
    runs = [Run(c, p.returncode, out, err) for c, p, out, err in zip(commands, processes, texts[::2], texts[1::2])]
    assert all(run.status == 0 for run in runs), "\n".join(map(str, runs))
    return runs[0]


def changed_package(folder: Path, code: str) -> Path:
    """A user directory: our package with a change of its own, Python source that runs after it has been imported."""
    folder.mkdir()
    (folder / "__init__.py").write_text(f"import fairseq_l2rw.translation\n\n{code}\n", encoding="utf-8")
    return folder


def train(data: Path, save: Path, *options: object, task: str = "l2rw_translation", status: int = 0, **how) -> Run:
    """``fairseq-train`` from an empty folder, with the smallest settings; `options` come last and win."""
    cwd = how.pop("cwd", None)
    if cwd is None:
        cwd = save.parent / f"{save.name}.cwd"
        cwd.mkdir(parents=True, exist_ok=True)
    user_dir = how.pop("user_dir", PACKAGE)
    return run(
        "-m", "fairseq_cli.train", data, "--user-dir", user_dir, "--task", task, "--save-dir", save, *TRAINING, *options,
        cwd=cwd, status=status, **how,
    )  # fmt: skip


def l2rw(*words: object, cwd: Path, status: int = 0) -> Run:
    """``fairseq-l2rw``."""
    return run("-m", "fairseq_l2rw.cli.main", *words, cwd=cwd, status=status, PYTHONPATH=str(ROOT))


def checkpoint(path: Path) -> dict:
    """A checkpoint, read with the safe loader."""
    # not as a context: at its end the class would be off the plugin's own list, for all tests that follow in this process
    torch.serialization.add_safe_globals([argparse.Namespace])
    return torch.load(path, map_location="cpu", weights_only=True)


def teacher_state(path: Path) -> dict:
    """The teacher's parameters and statistics in a checkpoint."""
    return checkpoint(path)["extra_state"][TASK_STATE]["meta"]["teacher"]


def training_state(path: Path) -> dict:
    """All of a checkpoint that decides how training goes on (the rest is meters, times and the configuration)."""
    state = checkpoint(path)
    extra = state["extra_state"]
    return {
        "model": state["model"],
        "optimizer": state["last_optimizer_state"],
        "history": state["optimizer_history"][-1],  # the ones before are one for each start
        "train_iterator": extra["train_iterator"],
        TASK_STATE: extra.get(TASK_STATE),
    }


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
