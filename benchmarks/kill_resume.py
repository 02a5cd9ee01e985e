"""Kills trainings at random moments and compares what comes out with a training that was left alone, to the bit.

    python -m benchmarks.kill_resume                    # twenty kills in each of four settings: an hour of one core
    python -m benchmarks.kill_resume --runs 3 --settings window-1

A run: a real ``fairseq-train`` with the deep teacher (toy corpus, ``--update-freq 2``, a save every 20 updates) is started and gets
SIGKILL at a random moment: every fourth run during a save (stopped as soon as a file of a save is seen half-written, and killed only if
it still is; by turns the file that fairseq writes first, and the copy of it to ``checkpoint_last.pt``), the others at any time after the
start of training (before the first save the training begins anew; that counts as well). Then the same command is given again and trains to the end. Its last checkpoint must equal
that of the uninterrupted training in everything that decides how training goes on: parameters, optimizer, learning rate schedule,
position in the data, teacher, and the rest of ``extra_state``. Left out are the meters (they hold seconds), the history of earlier
starts, and the best validation loss that the learning rate schedule notes: fairseq saves at the end of an epoch before it notes that
epoch's, so a training of its own that goes on from there lacks it as well, and of its schedules none but ``reduce_lr_on_plateau`` reads it.

The ``control`` row kills nothing and takes another seed: if the comparison could not fail, it would say "equal" there.
``SIGTERM`` and ``SIGUSR1`` (once each): fairseq has no handler for them, so each ends the process at once with that signal, and the
training goes on from the last save.
``workers`` is ``window-1`` with two workers (gloo on the CPU), one of which is killed; the other one is ended, as a scheduler would.
``vision`` is ``fairseq-l2rw vision``.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.checkpoints import read_checkpoint
from benchmarks.record import ROOT, table, write_json
from fairseq_l2rw.corpus.prepare import Settings, prepare
from fairseq_l2rw.corpus.toy import write_toy

SIZES = {"train": 600, "valid": 60, "test": 24}
UPDATES, SAVE_EVERY = 60, 20
STUDENT = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 --encoder-ffn-embed-dim 64 "
    "--decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2 --share-all-embeddings --dropout 0.1"
).split()
TRAINING = (
    "--task l2rw_translation --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer adam --lr 0.002 "
    "--lr-scheduler inverse_sqrt --warmup-updates 10 --clip-norm 1.0 --max-tokens 400 --update-freq 2 --cpu --num-workers 0 "
    "--log-format json --log-interval 1 --no-epoch-checkpoints --teacher deep --teacher-replay 2 "
    "--teacher-hidden-dim 16 --meta-start 5 --meta-interval 1 --meta-max-tokens 400"
).split()
SETTINGS = {
    "window-1": ["--meta-window", "1"],
    "window-2": ["--meta-window", "2", "--meta-interval", "2"],
    "workers": ["--meta-window", "1"],
    "vision": [],
}
VISION = "vision"
DURING_A_SAVE = 4  # every so many-th kill
#: names of files of a save while they are being written, the kills by turns: fairseq's first file, its copy; the vision trainer's only one
PARTS = {
    VISION: [r"checkpoint_last\.pt\.part$"],
    "": [r"checkpoint_\d+_\d+\.pt\.tmp$", r"checkpoint_last\.pt\.tmp$"],
}


class Training:
    """A command that may be started again: one process, or one for each worker."""

    def __init__(self, setting: str, folder: Path, data: Path, seed: int = 7):
        self.setting, self.folder, self.data, self.seed = setting, folder, data, seed
        self.save = folder / "save"
        self.log = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)

    def commands(self) -> list[list[str]]:
        """One command line for each worker."""
        python = [sys.executable, "-m"]
        if self.setting == VISION:
            return [[*python, *vision_command(self.save, self.seed)]]
        train = [*python, "fairseq_cli.train", str(self.data), "--user-dir", str(ROOT / "fairseq_l2rw"), *STUDENT, *TRAINING]
        train += ["--seed", str(self.seed), "--save-dir", str(self.save), "--max-update", str(UPDATES)]
        train += ["--save-interval-updates", str(SAVE_EVERY), *SETTINGS[self.setting]]
        if self.setting != "workers":
            return [train]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = "--distributed-world-size 2 --distributed-no-spawn --distributed-backend gloo --ddp-backend legacy_ddp".split()
        together += ["--distributed-init-method", f"tcp://127.0.0.1:{port}"]
        return [[*train, *together, "--distributed-rank", str(rank)] for rank in range(2)]

    def start(self) -> list[subprocess.Popen]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        with open(self.log, "ab") as log:
            return [
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True)
                for command in self.commands()
            ]

    def finish(self) -> None:
        """Trains to the end."""
        for process in self.start():
            if process.wait():
                sys.exit(f"{self.folder}: exit status {process.returncode}\n{self.tail()}")

    def interrupt(self, kind: signal.Signals, moment: float, part: str | None, total: int) -> tuple[str, int]:
        """Starts, and sends `kind` to one worker.

        Args:
            kind: the signal.
            moment: a number from 0 to 1: how far into the training.
            part: pattern of a file's name: wait from there on until such a file is being written.
            total: lines of progress that a whole training writes.

        Returns:
            When that was, and the exit status.
        """
        processes = self.start()
        victim = processes[0] if part else processes[-1]  # the first worker is the one that saves
        self._wait(processes, lambda: self.progress() >= int(moment * total))
        if part:
            self._wait(processes, lambda: self._stopped_while_saving(victim, part))
        at = f"{self.progress()} of {total}" + "".join(f", writing {name}" for name in self.unfinished()[:1])
        victim.send_signal(kind)
        status = victim.wait()
        for other in processes:
            if other.poll() is None:
                other.kill()
                other.wait()
        return at, status

    def _stopped_while_saving(self, victim: subprocess.Popen, part: str) -> bool:
        """Stops a process that is writing such a file; lets it go on if the file was whole before it stood still."""
        if not self.unfinished(part):
            return False
        victim.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(victim.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            victim.returncode = os.waitstatus_to_exitcode(status)  # it had ended
            return False
        if self.unfinished(part):
            return True
        victim.send_signal(signal.SIGCONT)
        return False

    def _wait(self, processes, reached) -> None:
        while not reached() and all(process.poll() is None for process in processes):
            time.sleep(0.001)

    def unfinished(self, part: str = r"\.(tmp|part)$") -> list[str]:
        """Names of the files of a checkpoint that are being written."""
        return sorted(name for name in os.listdir(self.save) if re.search(part, name)) if self.save.exists() else []

    def progress(self) -> int:
        """Lines of progress in the log: updates; epochs in the vision trainer."""
        if not self.log.exists():
            return 0
        return len(re.findall(rb"train_inner \| \{|accuracy \d", self.log.read_bytes()))

    def tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def result(self) -> dict:
        """What decides how training goes on, from the last checkpoint."""
        state = read_checkpoint(self.save / "checkpoint_last.pt")
        if self.setting == VISION:
            return without(state, {"config", "seconds"})
        extra = {key: value for key, value in state["extra_state"].items() if key not in ("metrics", "previous_training_time")}
        history = state["optimizer_history"][-1]  # those before are one for each start
        history = {**history, "lr_scheduler_state": without(history["lr_scheduler_state"], {"best"})}
        return {"model": state["model"], "optimizer": state["last_optimizer_state"], "history": history, "extra_state": extra}


def vision_command(save: Path, seed: int) -> list[str]:
    """A small training of images; it saves after every epoch."""
    options = f"--data digits --noise uniform:0.4 --schedule 8:6 --meta-start 20 --cpu --seed {seed}".split()
    return ["fairseq_l2rw.cli.main", "vision", *options, "--save-dir", str(save)]


def without(value: object, names: set[str]) -> object:
    """A nested dict without these keys."""
    if not isinstance(value, dict):
        return value
    return {key: without(inner, names) for key, inner in value.items() if key not in names}


def differences(a: object, b: object, where: str = "") -> list[str]:
    """Names of all places at which two nested states are not the same, to the bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (a, b)))
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [place for key in a for place in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [place for i, pair in enumerate(zip(a, b)) for place in differences(*pair, f"{where}/{i}")]
    same = a == b or (a != a and b != b)
    return [] if type(a) is type(b) and same else [where]


def run(setting: str, folder: Path, data: Path, count: int, random_state: random.Random) -> list[dict]:
    """All runs of a setting, one row each."""
    whole = Training(setting, folder / "whole", data)
    whole.finish()
    expected, total = whole.result(), whole.progress()
    control = Training(setting, folder / "control", data, seed=8)
    control.finish()
    rows = [_row(setting, "control: another seed", "", 0, control, expected)]
    kinds = [signal.SIGKILL] * count + ([signal.SIGTERM, signal.SIGUSR1] if setting == "window-1" else [])
    for number, kind in enumerate(kinds):
        training = Training(setting, folder / f"{kind.name}-{number}", data)
        parts = PARTS.get(setting, PARTS[""])
        turn, rest = divmod(number, DURING_A_SAVE)
        part = parts[turn % len(parts)] if rest == DURING_A_SAVE - 1 and kind is signal.SIGKILL else None
        moment = random_state.random() * (0.6 if part else 1.0)  # there has to be a save after it
        at, status = training.interrupt(kind, moment, part, total)
        while status == 0:  # it had ended before the signal came: once more, earlier
            shutil.rmtree(training.folder)
            if part and moment < 0.01:
                sys.exit(f"{setting}: no save was caught that writes a file {part}")
            training, moment = Training(setting, training.folder, data), moment * 0.8
            at, status = training.interrupt(kind, moment, part, total)
        if status != -kind:
            sys.exit(f"{training.folder}: exit status {status}, not that of {kind.name}\n{training.tail()}")
        training.finish()
        rows.append(_row(setting, kind.name, at, status, training, expected))
        print(table(rows[-1:]), file=sys.stderr, flush=True)
        shutil.rmtree(training.folder)
    return rows


def _row(setting, what, at, status, training, expected) -> dict:
    changed = differences(expected, training.result())
    return {"setting": setting, "what": what, "at": at, "exit status": status, "equal": not changed, "first difference": "".join(changed[:1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="kills in each setting (default: %(default)s)")
    parser.add_argument("--settings", default="window-1,window-2,workers,vision", help=f"of {', '.join(SETTINGS)} (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments (default: %(default)s)")
    parser.add_argument("--out", default="kill_resume.json", help="JSON file (default: %(default)s)")
    args = parser.parse_args()
    unknown = set(args.settings.split(",")) - set(SETTINGS)
    if unknown:
        parser.error(f"--settings {', '.join(sorted(unknown))}: choose from {', '.join(SETTINGS)}")

    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus, data = Path(folder, "corpus"), Path(folder, "data")
        write_toy(str(corpus), "de", "en", SIZES, seed=1, noise={"misaligned": 0.25, "untranslated": 0.25})
        splits = {split: str(corpus / split) for split in SIZES}
        prepare(str(data), splits, Settings("de", "en", vocab_size=300, meta_size=30))
        random_state = random.Random(args.seed)
        for setting in args.settings.split(","):
            rows += run(setting, Path(folder, setting), data, args.runs, random_state)
    configuration = {**vars(args), "updates": UPDATES, "save_every": SAVE_EVERY, "student": STUDENT, "training": TRAINING}
    write_json(args.out, configuration, rows)
    print(table(rows))
    killed = [row for row in rows if row["what"] == "SIGKILL"]
    print(f"\n{sum(row['equal'] for row in killed)} of {len(killed)} killed trainings end bit by bit where the uninterrupted one does")
    wrong = [row for row in rows if row["equal"] == row["what"].startswith("control")]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
