"""``fairseq-l2rw weights`` beside ``fairseq-validate``: the same pairs, checkpoint and batch size, one after the other.

    python -m benchmarks.weights_speed DATA --path checkpoints/checkpoint_last.pt --subset train --json weights_speed.json

Each is a process of its own. What it costs to start (import, read the checkpoint) is measured on a split of its own, small
one (--start-subset), and taken off. CPU seconds are compared on a CPU, where other programs may disturb the clock; wall
seconds on a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.record import ROOT, table, write_json


def seconds(command: list[str]) -> dict:
    """Wall and CPU seconds of a command, its children's included."""
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall": time.perf_counter() - begun, "cpu": cpu}


def commands(args, subset: str, out: str) -> dict:
    device = ["--cpu"] if args.cpu else []
    tokens = ["--max-tokens", str(args.max_tokens)]
    validate = ["-m", "fairseq_cli.validate", args.data, "--path", args.path, "--valid-subset", subset, *tokens, *device]
    validate += ["--user-dir", str(ROOT / "fairseq_l2rw"), "--task", "l2rw_translation", "--required-batch-size-multiple", "1"]
    weights = ["-m", "fairseq_l2rw.cli.main", "weights", args.data, "--path", args.path, "--gen-subset", subset, *tokens, *device]
    return {"fairseq-validate": validate, "fairseq-l2rw weights": [*weights, "--out", out]}


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
    args.data, args.path = os.path.abspath(args.data), os.path.abspath(args.path)

    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(args.repeats):
            for subset in (args.start_subset, args.subset):
                out = str(Path(folder, f"{subset}.{repeat}.tsv"))
                for name, command in commands(args, subset, out).items():
                    runs.append({"command": name, "subset": subset, "repeat": repeat, **seconds(command)})
        lines = {s: sum(1 for _ in open(Path(folder, f"{s}.0.tsv"), "rb")) - 1 for s in (args.start_subset, args.subset)}
    clock = "cpu" if args.cpu else "wall"
    rows = []
    for name in ("fairseq-validate", "fairseq-l2rw weights"):
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
