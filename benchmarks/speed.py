"""Words per second of ``l2rw_translation`` against fairseq's plain ``translation``: same model, same batches, turns taken.

    python -m benchmarks.speed --threads 1

Each contender is a training under fairseq's own trainer; the teacher is active from the first update on, but for one that shows
what the updates before ``--meta-start`` cost. In a round each contender takes one block of updates, all taking turns update by
update; reported are the median and the quartiles over the rounds, and of the ratio to plain training within each round. A first
round, in which the probes have their first look at the dev set, does not count, nor do the first updates of each teacher, whose every
turn measures the train scale (--settle 0 to see what these cost).
"""

from __future__ import annotations

import argparse
import logging
import tempfile

from benchmarks import workload
from benchmarks.record import table, write_json
from fairseq_l2rw.meta.train_scale import FIRST
from fairseq_l2rw.translation.config import L2RWTranslationConfig

#: contender -> (bar, options beside the defaults)
BARS = {
    "defaults": (0.80, []),
    "every step, loss, exact": (0.40, ["--meta-objective", "loss", "--meta-gradient", "EXACT"]),
    "every step, default objective, fastest": (0.40, ["--meta-gradient", "backward", "--meta-precision", "bfloat16"]),
}

BEFORE = "before the teacher's start"


def contenders(arguments) -> dict[str, tuple[float | None, list]]:
    """name -> (bar, options) of the trainings with a teacher, from the settings that the task has today."""
    dev = ["--meta-interval", 1, "--meta-max-tokens", workload.dev_tokens(arguments)]
    out = {}
    for name, (bar, options) in BARS.items():
        options = [arguments.exact if word == "EXACT" else word for word in options]
        out[name] = bar, ["--meta-start", 0, *(dev if name.startswith("every step") else []), *options]
    out[BEFORE] = None, ["--meta-start", 1_000_000]
    for mode in arguments.also:
        out[f"every step, default objective, {mode}"] = None, ["--meta-start", 0, *dev, "--meta-gradient", mode]
    return out


def main(words: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    workload.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each contender that count")
    parser.add_argument("--block", type=int, help="updates of a block (default: twice the default --meta-interval, at least 4)")
    parser.add_argument("--settle", type=int, default=FIRST, metavar="TURNS", help="turns of each head before the first round")
    parser.add_argument("--exact", default="backward", choices=["forward", "backward"], help="the exact mode of the second bar")
    parser.add_argument("--also", nargs="*", default=["backward", "ghost"], help="further modes with the default objective, without a bar")
    arguments = parser.parse_args(words)
    logging.disable(logging.INFO)
    workload.prepare(arguments)
    defaults = L2RWTranslationConfig()
    block = arguments.block or max(4, 2 * defaults.meta_interval)
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or workload.write_random_text(
            folder, arguments.vocabulary, arguments.seed, {"train": 4000, "meta": 500}
        )
        trainings = {"plain translation": workload.Training(data, arguments, "translation")}
        wanted = contenders(arguments)
        for name, (_, options) in wanted.items():
            trainings[name] = training = workload.Training(data, arguments, "l2rw_translation", *options)
            if name != BEFORE:
                workload.settle(training, arguments.settle)
        speeds = workload.words_per_second(trainings, block, arguments.rounds)
    plain = speeds["plain translation"]
    rows, results = [], {}
    for name, values in speeds.items():
        bar = wanted.get(name, (None,))[0]
        speed, ratio = workload.spread(values), workload.spread([v / p for v, p in zip(values, plain)])
        meta = trainings[name].task.meta if name in wanted else None
        results[name] = {"words_per_second": speed, "ratio": ratio, "bar": bar, "options": [str(w) for w in wanted.get(name, (0, []))[1]]}
        rows.append({
            "training": name, "mode": f"{meta.gradient_mode}, {meta.config.precision}" if meta else "", "words/s": round(speed["median"]),
            "quartiles": "{:.0f} to {:.0f}".format(*speed["quartiles"]), "ratio": ratio["median"],
            "ratio's quartiles": "{:.2f} to {:.2f}".format(*ratio["quartiles"]), "bar": bar,
            "holds": None if bar is None else ("yes" if ratio["median"] >= bar else "no"),
        })  # fmt: skip
    print(table(rows))
    if arguments.json:
        count = workload.parameters(trainings["plain translation"].model)
        configuration = {**vars(arguments), "block": block, "parameters": count, "defaults": vars(defaults)}
        write_json(arguments.json, configuration, results)
    return results


if __name__ == "__main__":
    main()
