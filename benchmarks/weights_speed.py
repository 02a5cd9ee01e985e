"""``fairseq-l2rw weights`` beside ``fairseq-validate``: the same pairs, checkpoint and batch size, one after the other.

    python -m benchmarks.weights_speed DATA --path checkpoints/checkpoint_last.pt --subset train --json weights_speed.json

Each run is a process of its own, forked when all is imported. On a CPU fairseq-validate reads its data in the process that
computes (--num-workers 0), as weights does: time of a second process would not be seen. What is left of the cost to start (the checkpoint, the
dictionaries) is measured on a smaller split (--start-subset) and taken off. CPU seconds are compared on a CPU, where other
programs may disturb the clock; wall seconds on a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import fairseq_cli.validate
import sklearn.metrics  # noqa: F401  imported here so that no run pays for it
import torch

import fairseq_l2rw.translation.weights  # noqa: F401
from benchmarks.record import ROOT, table, write_json
from fairseq_l2rw.cli.main import main as fairseq_l2rw_main

VALIDATE, WEIGHTS = "fairseq-validate", "fairseq-l2rw weights"


def seconds(command: str, words: list[str], log: str) -> dict:
    """Wall and CPU seconds of a command; of its own process only."""
    begun = time.perf_counter()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            with open(log, "w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            sys.argv = [command, *words]
            status = fairseq_cli.validate.cli_main() if command == VALIDATE else fairseq_l2rw_main(words)
        finally:
            os._exit(status or 0)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{command} {' '.join(words)} failed:\n{Path(log).read_text()[-2000:]}")
    return {"wall": time.perf_counter() - begun, "cpu": usage.ru_utime + usage.ru_stime}


def words_of(args, command: str, subset: str, out: str) -> list[str]:
    words = [args.data, "--path", args.path, "--max-tokens", str(args.max_tokens), *(["--cpu"] if args.cpu else [])]
    if command == WEIGHTS:
        return ["weights", *words, "--gen-subset", subset, "--out", out]
    words += ["--valid-subset", subset, "--user-dir", str(ROOT / "fairseq_l2rw"), "--task", "l2rw_translation"]
    return [*words, "--required-batch-size-multiple", "1", *(["--num-workers", "0"] if args.cpu else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder that fairseq-l2rw prepare has made")
    parser.add_argument("--path", required=True, help="a checkpoint with a teacher")
    parser.add_argument("--subset", default="train", help="split to time (default: %(default)s)")
    parser.add_argument("--start-subset", default="valid", help="smaller split, for the cost of starting (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", default="weights_speed.json", help="where the result goes (default: %(default)s)")
    args = parser.parse_args()
    if args.cpu:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    args.data, args.path = os.path.abspath(args.data), os.path.abspath(args.path)

    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            for subset in (args.start_subset, args.subset):
                for command in (VALIDATE, WEIGHTS):
                    words = words_of(args, command, subset, str(Path(folder, f"{subset}.{repeat}.tsv")))
                    took = seconds(command, words, str(Path(folder, "log")))
                    runs.append({"command": command, "subset": subset, "repeat": repeat, **took})
        lines = {s: Path(folder, f"{s}.0.tsv").read_bytes().count(b"\n") - 1 for s in (args.start_subset, args.subset)}
    clock = "cpu" if args.cpu else "wall"
    rows = []
    for name in (VALIDATE, WEIGHTS):
        took = {s: [r[clock] for r in runs if (r["command"], r["subset"]) == (name, s)] for s in lines}
        net = statistics.median(took[args.subset]) - statistics.median(took[args.start_subset])
        rows.append(
            {
                "command": name,
                f"{clock} s, {lines[args.subset]} pairs": statistics.median(took[args.subset]),
                f"{clock} s, {lines[args.start_subset]} pairs": statistics.median(took[args.start_subset]),
                "spread, s": max(took[args.subset]) - min(took[args.subset]),
                "pairs/s": (lines[args.subset] - lines[args.start_subset]) / net,
            }
        )
    ratio = rows[1]["pairs/s"] / rows[0]["pairs/s"]
    print(table(rows))
    print(f"\nspeed of weights against fairseq-validate: {ratio:.3f}")
    write_json(args.json, vars(args), {"runs": runs, "rows": rows, "ratio": ratio})


if __name__ == "__main__":
    main()
