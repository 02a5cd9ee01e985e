"""How the cost of a teacher update grows: with tokens per batch, parameters, window K and workers.

    python -m benchmarks.scaling --threads 1

One quantity is changed at a time. A row gives the seconds of a plain update, of an update with a teacher update, and their ratio;
medians of turns taken. Workers are processes on this machine (gloo), so their figures say what the exchange costs, not what they gain.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import socket
import subprocess
import sys
import tempfile

from benchmarks import workload
from benchmarks.record import ROOT, table, write_json


def measured(arguments, data: str, window: int = 1, distributed: list = ()) -> dict:
    """Seconds of an update, plain and with a teacher update, of one configuration."""
    dev = max(1, int(arguments.dev_share * arguments.max_tokens))
    mode = arguments.gradient if window == 1 else "forward"
    options = ["--meta-start", 0, "--meta-interval", window, "--meta-window", window, "--meta-max-tokens", dev, "--meta-gradient", mode]
    plain = workload.Training(data, arguments, "translation", *distributed)
    taught = workload.Training(data, arguments, "l2rw_translation", *options, *distributed)

    def updates(training):
        return lambda: workload.seconds(lambda: [training.update() for _ in range(window)]) / window

    # the trainings take the same batches; in the first round the averages are begun
    times = workload.interleaved({"plain": updates(plain), "taught": updates(taught)}, arguments.rounds)
    return {
        "plain": workload.spread(times["plain"]), "taught": workload.spread(times["taught"]),
        "ratio": workload.median(t / p for t, p in zip(times["taught"], times["plain"])),
        "parameters": workload.parameters(plain.model), "gradient": taught.task.meta.gradient_mode,
    }  # fmt: skip


def with_workers(arguments, data: str, count: int, words: list[str]) -> dict:
    """As :func:`measured`, with several workers; each has its share of the batches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling", *words, "--data", data, "--child", f"{rank},{count},{port}"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"a worker failed (of {count})")
    return json.loads(outputs[0].splitlines()[-1])


def main(words: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    workload.add_arguments(parser)
    parser.add_argument("--gradient", default="backward", help="--meta-gradient (windows above 1: forward)")
    parser.add_argument("--rounds", type=int, default=5, help="turns that count")
    parser.add_argument("--tokens", type=int, nargs="*", default=[500, 1000, 2000, 4000], help="tokens per batch to try")
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128, 256], help="widths to try")
    parser.add_argument("--windows", type=int, nargs="*", default=[1, 2, 4], help="--meta-window to try")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of workers to try")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    logging.disable(logging.INFO)
    workload.prepare(arguments)
    if arguments.child:
        rank, count, port = arguments.child.split(",")
        arguments.cpu = True
        distributed = [
            "--distributed-world-size", count, "--distributed-rank", rank, "--distributed-no-spawn", "--distributed-backend", "gloo",
            "--distributed-init-method", f"tcp://127.0.0.1:{port}", "--ddp-backend", "legacy_ddp",
        ]  # fmt: skip
        print(json.dumps(measured(arguments, arguments.data, distributed=distributed)))
        return {}
    given = list(sys.argv[1:] if words is None else words)
    rows, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or workload.write_random_text(
            folder, arguments.vocabulary, arguments.seed, {"train": 6000, "meta": 1000}
        )
        plan = [("tokens", n, {"max_tokens": n}) for n in arguments.tokens]
        plan += [("width", n, {"width": n}) for n in arguments.widths]
        plan += [("window", n, {}) for n in arguments.windows] + [("workers", n, {}) for n in arguments.workers]
        for what, value, changes in plan:
            changed = argparse.Namespace(**{**copy.copy(vars(arguments)), **changes})
            if what == "workers" and value > 1:
                result = with_workers(arguments, data, value, given)
            else:
                result = measured(changed, data, value if what == "window" else 1)
            results.append({"changed": what, "value": value, **result})
            rows.append({"changed": what, "value": value, "parameters": result["parameters"], "mode": result["gradient"],
                         "plain, s": result["plain"]["median"], "with a teacher, s": result["taught"]["median"],
                         "ratio": result["ratio"]})  # fmt: skip
    print(table(rows))
    if arguments.json:
        write_json(arguments.json, vars(arguments), results)
    return {"rows": results}


if __name__ == "__main__":
    main()
