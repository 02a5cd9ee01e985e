"""Trainings of several queues and days side by side: means over seeds, differences within a seed, a figure.

    python -m benchmarks.recorded docs/measurements/runs.tsv
    python -m benchmarks.recorded docs/measurements/runs.tsv --experiment mixed --figure docs/figures/bleu_mixed

A machine's hours do not hold three seeds of everything at once, so what each training scored is kept in a table, a line for
each, with the code and the day: columns ``experiment`` (the corpus of ``noisy_bitext``, the grid of ``cifar``), ``training``,
``seed``, ``measure`` (``BLEU``: of the test set; ``accuracy``: of the last epoch, per cent), ``score``, ``commit``, ``date``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import figures
from benchmarks.experiment import mean_and_deviation, won_back
from benchmarks.record import table
from fairseq_l2rw.errors import L2RWError, install_exit_hook

COLUMNS = ("experiment", "training", "seed", "measure", "score", "commit", "date")


@dataclass
class Recorded:
    """An experiment: the measure of its scores, and ``trainings``: name -> seed -> score."""

    measure: str
    trainings: dict[str, dict[int, float]] = field(default_factory=dict)


def read(path: str) -> dict[str, Recorded]:
    """The experiments of a table, by name.

    Raises:
        L2RWError: there is no such file, a column is missing, a seed or score is no number, or a training stands there twice.
    """
    if not Path(path).is_file():
        raise L2RWError(f"{path}: no such file")
    experiments: dict[str, Recorded] = {}
    with open(path, encoding="utf-8", newline="") as handle:
        rows = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise L2RWError(f"{path}: no column {', '.join(missing)}")
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            recorded = experiments.setdefault(row["experiment"], Recorded(row["measure"]))
            seeds = recorded.trainings.setdefault(row["training"], {})
            try:
                seed, score = int(row["seed"]), float(row["score"])
            except (TypeError, ValueError):
                raise L2RWError(f"{where}: seed and score must be numbers") from None
            if seed in seeds:
                raise L2RWError(f"{where}: {row['experiment']}, {row['training']}, seed {seed} stands there already")
            seeds[seed] = score
    return experiments


def summary(trainings: dict[str, dict[int, float]]) -> list[dict]:
    """A row for each training: mean and deviation over seeds; how far ``deep`` is above it in the seeds of both; the part of what the
    noise costs (``clean-only`` less ``uniform``) that it wins back, mean over the seeds of all three."""
    deep, plain, clean = (trainings.get(name, {}) for name in ("deep", "uniform", "clean-only"))
    rows = []
    for name, seeds in trainings.items():
        row: dict = {"training": name, "seeds": ", ".join(map(str, sorted(seeds)))}
        row["mean"], row["±"] = mean_and_deviation(list(seeds.values()))
        above = [deep[seed] - score for seed, score in seeds.items() if seed in deep and name != "deep"]
        row["deep is above it by"], row["± of that"] = mean_and_deviation(above)
        controls = name in ("uniform", "clean-only")
        won = [won_back(seeds[s], plain[s], clean[s]) for s in seeds if s in plain and s in clean and not controls]
        row["won back"], _ = mean_and_deviation([part for part in won if part is not None])
        rows.append(row)
    return rows


def draw(rows: list[dict], measure: str, path: Path) -> None:
    """Bars of the means of :func:`summary`, with error bars of the deviation over seeds."""
    bars = {f"{row['training']} (seeds {row['seeds']})": (row["mean"], row["±"] or 0.0) for row in rows}
    lines = {row["training"]: row["mean"] for row in rows if row["training"] in ("uniform", "clean-only")}
    figures.bars(path, bars, f"{measure} (± over seeds)", lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recorded", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", help="tab-separated, a line for each training")
    parser.add_argument("--experiment", metavar="NAME", help="this one alone (default: all)")
    parser.add_argument("--figure", metavar="PATH", help="draw --experiment to PATH.png and PATH.svg")
    args = parser.parse_args(argv)
    if args.figure and not args.experiment:
        parser.error("--figure draws one experiment: name it with --experiment")
    experiments = read(args.table)
    if args.experiment:
        if args.experiment not in experiments:
            raise L2RWError(f"{args.table}: no experiment {args.experiment}; there are {', '.join(experiments)}")
        experiments = {args.experiment: experiments[args.experiment]}
    for name, recorded in experiments.items():
        rows = summary(recorded.trainings)
        print(f"{name}, {recorded.measure}\n\n{table(rows, digits=2)}\n")
        if args.figure:
            draw(rows, recorded.measure, Path(args.figure))
    return 0


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main())
