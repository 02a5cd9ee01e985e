"""How the cost of a teacher update grows: with tokens per batch, parameters, window K and workers.

    python -m benchmarks.scaling --threads 1

One quantity is changed at a time. A row gives the seconds of a plain update, of an update with a teacher update, and their ratio,
medians of turns taken, each long enough for every head's train scale to be measured once (the first turns of each head, in which
it is measured every time, do not count); and the peak memory of either, in use, in a process of its own (as ``benchmarks.memory`` counts it).
Workers are processes on this machine (gloo), so their figures say what the exchange costs, not what they gain; the memory is one's.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile

import torch
from fairseq.distributed.utils import get_global_group

from benchmarks import memory, workload
from benchmarks.apart import measured_apart
from benchmarks.record import ROOT, table, write_json
from fairseq_l2rw.meta.train_scale import INTERVAL


def teacher_options(arguments, window: int) -> list:
    """Of a training with one teacher update in so many steps."""
    mode = arguments.gradient if window == 1 else "forward"
    return ["--meta-start", 0, "--meta-interval", window, "--meta-window", window,
            "--meta-max-tokens", workload.dev_tokens(arguments), "--meta-gradient", mode]  # fmt: skip


def measured(arguments, data: str, window: int = 1, distributed: list = ()) -> dict:
    """Seconds of an update, plain and with a teacher update, of one configuration."""
    plain = workload.Training(data, arguments, "translation", *distributed)
    taught = workload.Training(data, arguments, "l2rw_translation", *teacher_options(arguments, window), *distributed)

    plain.update()
    plain.updates = 0
    workload.settle(taught)
    # in a round each head measures the train scale once
    count = INTERVAL * len(taught.task.meta.config.heads) * window

    def updates(training):
        return lambda: workload.seconds(lambda: [training.update() for _ in range(count)]) / count

    times = workload.interleaved({"plain": updates(plain), "taught": updates(taught)}, arguments.rounds, warm_up=0)
    return {
        "plain": workload.spread(times["plain"]), "taught": workload.spread(times["taught"]),
        "ratio": workload.median(t / p for t, p in zip(times["taught"], times["plain"])),
        "parameters": workload.parameters(plain.model), "gradient": taught.task.meta.gradient_mode,
    }  # fmt: skip


def peak(arguments, contender: str, distributed: list) -> float:
    """MiB that one of the two trainings takes at most; ``contender``: ``plain``, or the teacher's window."""
    if contender == "plain":
        return memory.peak(arguments, "translation", *distributed)
    window = int(contender)
    options = [*teacher_options(arguments, window), *distributed]
    return memory.peak(arguments, "l2rw_translation", *options, updates=memory.UPDATES * window)


def mebibytes(words: list[str], window: int, count: int) -> dict:
    """:func:`peak` of both, each in a process of its own (of several workers: the first one's)."""
    plain, taught = (
        with_workers(count, [*words, "--peak", contender], workload.WITHOUT_HOLES) if count > 1
        else measured_apart("benchmarks.scaling", [*words, "--peak", contender], workload.WITHOUT_HOLES)
        for contender in ("plain", str(window))
    )  # fmt: skip
    return {"plain": plain, "taught": taught, "ratio": taught / plain}


def with_workers(count: int, words: list[str], environment: dict[str, str] | None = None):
    """As :func:`measured` or :func:`peak`, with several workers; each has its share of the batches."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling", *words, "--child", f"{rank},{count},{port}"],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})},
        )
        for rank in range(count)
    ]  # fmt: skip
    outputs = [child.communicate()[0] for child in children]
    failed = {rank: child.returncode for rank, child in enumerate(children) if child.returncode}
    if failed:
        raise SystemExit(f"of {count} workers some failed; exit status by rank: {failed}")
    return json.loads(outputs[0].splitlines()[-1])


def main(words: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    workload.add_arguments(parser)
    parser.add_argument("--gradient", default="backward", help="--meta-gradient (windows above 1: forward)")
    parser.add_argument("--rounds", type=int, default=2, help="turns that count")
    parser.add_argument("--tokens", type=int, nargs="*", default=[500, 1000, 2000, 4000], help="tokens per batch to try")
    parser.add_argument("--widths", type=int, nargs="*", default=[64, 128, 256], help="widths to try")
    parser.add_argument("--windows", type=int, nargs="*", default=[1, 2, 4], help="--meta-window to try")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of workers to try")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    logging.disable(logging.INFO)
    workload.prepare(arguments)
    distributed: list = []
    if arguments.child:
        rank, count, port = arguments.child.split(",")
        arguments.cpu = True
        distributed = [
            "--distributed-world-size", count, "--distributed-rank", rank, "--distributed-no-spawn", "--distributed-backend", "gloo",
            "--distributed-init-method", f"tcp://127.0.0.1:{port}", "--ddp-backend", "legacy_ddp",
        ]  # fmt: skip
    if arguments.peak or arguments.child:
        print(json.dumps(peak(arguments, arguments.peak, distributed) if arguments.peak
                         else measured(arguments, arguments.data, distributed=distributed)))  # fmt: skip
        if distributed:
            # as fairseq ends a training: a thread of gloo that still lets go of a sum's tensors when the interpreter goes aborts it
            torch.distributed.barrier(get_global_group())
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
            window, count = (value if what == name else 1 for name in ("window", "workers"))
            its_words = [*given, "--data", data, *(f"--{name.replace('_', '-')}={n}" for name, n in changes.items())]
            if count > 1:
                result = with_workers(count, its_words)
            else:
                result = measured(argparse.Namespace(**{**vars(arguments), **changes}), data, window)
            taken = mebibytes(its_words, window, count)
            results.append({"changed": what, "value": value, **result, "mebibytes": taken})
            rows.append({"changed": what, "value": value, "parameters": result["parameters"], "mode": result["gradient"],
                         "plain, s": result["plain"]["median"], "with a teacher, s": result["taught"]["median"],
                         "ratio": result["ratio"], "plain, MiB": round(taken["plain"]), "with a teacher, MiB": round(taken["taught"]),
                         "ratio of memory": taken["ratio"]})  # fmt: skip
    print(table(rows))
    if arguments.json:
        write_json(arguments.json, vars(arguments), results)
    return {"rows": results}


if __name__ == "__main__":
    main()
