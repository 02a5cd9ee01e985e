"""Does a long training need more and more memory, or leave files open?

    python -m benchmarks.long_run                 # 5,000 updates of a tiny student: some minutes of one core
    python -m benchmarks.long_run --updates 1000

One real ``fairseq-train`` with the deep teacher on the toy corpus, with validation and a save every 250 updates, and tensorboard. Its
resident memory and its number of open files are read from /proc (Linux) at every tenth of the training. Memory may not grow between the
first tenth (the teacher has begun, the replay is full) and the end by more than ``--tolerance``, open files not at all.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.kill_resume import SIZES, STUDENT, TRAINING
from benchmarks.record import ROOT, table, write_json
from fairseq_l2rw.corpus.prepare import Settings, prepare
from fairseq_l2rw.corpus.toy import write_toy

PARTS = 10
#: small updates, and no more validations and saves than those that are asked for
SMALL = "--update-freq 1 --max-tokens 150 --meta-max-tokens 150 --validate-interval 100000 --save-interval 100000".split()


def memory(process: int) -> float:
    """Resident memory, MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) / 1024


def open_files(process: int) -> int:
    """Number of open files, sockets and pipes."""
    return len(os.listdir(f"/proc/{process}/fd"))


def watch(data: Path, folder: Path, updates: int, replay_rows: int) -> list[dict]:
    """Trains; returns memory and open files at each part of the training."""
    command = [sys.executable, "-m", "fairseq_cli.train", str(data), "--user-dir", str(ROOT / "fairseq_l2rw"), *STUDENT, *TRAINING, *SMALL]
    command += ["--seed", "7", "--save-dir", str(folder / "save"), "--tensorboard-logdir", str(folder / "tensorboard")]
    command += ["--max-update", str(updates), "--save-interval-updates", "250", "--keep-interval-updates", "2"]
    command += ["--teacher-replay-rows", str(replay_rows)]
    log = folder / "log"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    rows: list[dict] = []
    with open(log, "wb") as out, open(log, "rb") as lines:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=folder)
        done = 0
        while process.poll() is None and done < updates:
            done += sum(b"train_inner | {" in line for line in lines)
            if done >= updates * (len(rows) + 1) // PARTS:
                try:
                    rows.append({"update": done, "memory MB": round(memory(process.pid), 1), "open files": open_files(process.pid)})
                except (FileNotFoundError, AttributeError):
                    break  # it has just ended
                print(table(rows[-1:]), file=sys.stderr, flush=True)
            time.sleep(0.05)
        if process.wait():
            sys.exit(f"exit status {process.returncode}\n{log.read_text()[-3000:]}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=5000, help="length of the training (default: %(default)s)")
    parser.add_argument("--replay-rows", type=int, default=500, help="so few that the replay is full early (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=0.03, help="growth that is allowed, as a part (default: %(default)s)")
    parser.add_argument("--out", default="long_run.json", help="JSON file (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_toy(str(folder / "corpus"), "de", "en", SIZES, seed=1, noise={"misaligned": 0.25, "untranslated": 0.25})
        splits = {split: str(folder / "corpus" / split) for split in SIZES}
        prepare(str(folder / "data"), splits, Settings("de", "en", vocab_size=300, meta_size=30))
        rows = watch(folder / "data", folder, args.updates, args.replay_rows)
    growth = rows[-1]["memory MB"] / rows[0]["memory MB"] - 1
    more_files = rows[-1]["open files"] - rows[0]["open files"]
    write_json(args.out, {**vars(args), "student": STUDENT, "training": [*TRAINING, *SMALL]}, {"rows": rows, "growth": growth, "more files": more_files})
    print(table(rows, digits=1))
    print(f"\nmemory {growth:+.1%}, open files {more_files:+d} between update {rows[0]['update']} and {rows[-1]['update']}")
    sys.exit(1 if growth > args.tolerance or more_files > 0 else 0)


if __name__ == "__main__":
    main()
