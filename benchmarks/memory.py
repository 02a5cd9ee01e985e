"""Peak memory of ``l2rw_translation`` against fairseq's plain ``translation``: same model, same batches, a process for each.

    python -m benchmarks.memory --threads 1

What is in use at most. On a GPU: what torch has allocated. On a CPU: the peak of the process's resident memory, less what it had when
all was imported, with freed blocks given back at once (by glibc; a third slower, so no time is taken here).

``--resident`` leaves glibc as it is. It then keeps holes, blocks that are free but not given back, for plain training too: half as
much again as a small training uses, and another amount in each process, so each is best measured several times (``--rounds``).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile

from benchmarks import workload
from benchmarks.apart import measured_apart
from benchmarks.record import table, write_json

BAR = 1.3
#: contender -> options; None: plain translation
CONTENDERS = {
    "plain translation": None,
    "defaults": [],
    "loss, forward": ["--meta-objective", "loss", "--meta-gradient", "forward"],
    "forward": ["--meta-gradient", "forward"],
    "backward": ["--meta-gradient", "backward"],
    "backward, bfloat16": ["--meta-gradient", "backward", "--meta-precision", "bfloat16"],
    "ghost": ["--meta-gradient", "ghost"],
}
#: updates until every kind of noise had its turn and every average is there
UPDATES = 10


def peak(arguments, task: str, *options: object, updates: int = UPDATES) -> float:
    """MiB that a training takes at most; to be called in a process of its own."""
    before = workload.resident()
    training = workload.Training(arguments.data, arguments, task, *options)
    longest = max(training.batches, key=lambda batch: batch["target"].numel())
    training.batches = [longest]
    for _ in range(updates):
        training.update()
    return workload.most_taken(arguments, before)


def _peak_of(arguments, name: str) -> float:
    options = CONTENDERS[name]
    if options is None:
        return peak(arguments, "translation")
    every_step = "--meta-start", 0, "--meta-interval", 1, "--meta-max-tokens", workload.dev_tokens(arguments)
    return peak(arguments, "l2rw_translation", *every_step, *options)


def main(words: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    workload.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=1, help="processes of each contender; several with --resident")
    parser.add_argument("--only", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS), help="contenders")
    parser.add_argument("--resident", action="store_true", help="CPU: count what is free but not given back too")
    parser.add_argument("--child", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    logging.disable(logging.INFO)
    workload.prepare(arguments)
    if arguments.child:
        print(json.dumps(_peak_of(arguments, arguments.child)))
        return {}
    with tempfile.TemporaryDirectory() as folder:
        given = list(sys.argv[1:] if words is None else words)
        if not arguments.data:
            workload.write_random_text(folder, arguments.vocabulary, arguments.seed, {"train": 2000, "meta": 500})
            given += ["--data", folder]

        def child(name):
            return measured_apart("benchmarks.memory", [*given, "--child", name], allocator)

        allocator = {} if arguments.resident else workload.WITHOUT_HOLES
        only = dict.fromkeys(["plain translation", *arguments.only])
        peaks = workload.interleaved({name: lambda n=name: child(n) for name in only}, arguments.rounds, warm_up=0)
    plain = workload.median(peaks["plain translation"])
    rows, results = [], {}
    for name, values in peaks.items():
        middle = workload.median(values)
        results[name] = {"mebibytes": workload.spread(values), "ratio": middle / plain}
        rows.append({"training": name, "MiB": round(middle), "from": round(min(values)), "to": round(max(values)),
                     "ratio": middle / plain, "bar": None if name == "plain translation" else BAR,
                     "holds": None if name == "plain translation" else ("yes" if middle <= BAR * plain else "no")})  # fmt: skip
    print(table(rows))
    if arguments.json:
        write_json(arguments.json, vars(arguments), results)
    return results


if __name__ == "__main__":
    main()
