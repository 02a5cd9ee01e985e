"""Image classification with wrong labels: every method on one schedule, augmentation and budget, several seeds.

    python -m benchmarks.cifar --grid digits --out results/digits
    python -m benchmarks.cifar --grid people --root CIFAR_FOLDERS --labels train.tsv.gz --out results/people
    python -m benchmarks.cifar --grid paper --root CIFAR --out results/paper --slots 4

A queue: what is done stays done, and a training that was killed goes on from its last epoch. ``--slots`` trainings run
side by side (on one GPU, or on as many cores). Grids:

``digits``
    scikit-learn's digits, 40 % uniform noise, five seeds;
``people``, ``flip2``
    what a machine without a GPU can do: CIFAR-10 in folders (``--data folder``), ResNet-32, 10,000 training images, 30
    epochs, three seeds; labels that people gave (``--labels``, ``--label-column``), or 40 % of the labels flipped to two classes.
    For every method the learning rate rises over the first two epochs: without that plain training has a bad start on them, and
    weights that begin small look better than they are (``-- --warmup-updates 0``, docs/measurements/images.md);
``paper``
    the tables of Meta-Weight-Net's paper from the official archives: uniform noise of 0, 40, 60 % on WRN-28-10, flips to two
    classes of 0, 20, 40 % on ResNet-32, CIFAR-10 and CIFAR-100.

Accuracies are those of the last epoch and of the epoch that 500 further clean images choose, which neither student nor
teacher sees; never of the best test epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import Job, add_queue_arguments, work
from benchmarks.record import table, write_json
from fairseq_l2rw.errors import L2RWError, install_exit_hook

#: theirs: (data, model, noise) -> accuracy in % that the paper of Meta-Weight-Net states for it
PAPER = {
    ("cifar10", "wrn-28-10", "uniform:0.4"): "89.27 ± 0.28",
    ("cifar10", "wrn-28-10", "uniform:0.6"): "84.07 ± 0.33",
    ("cifar10", "resnet32", "flip2:0.2"): "90.33 ± 0.61",
    ("cifar10", "resnet32", "flip2:0.4"): "87.54 ± 0.23",
}
GRIDS = ("digits", "people", "flip2", "paper")
#: not a teacher: the true labels as weights, as ``benchmarks.fixed_weights`` calls them
TRUE = "true"


@dataclass(frozen=True)
class Setting:
    """One table row's task: options of ``fairseq-l2rw vision`` that all methods share."""

    data: str
    model: str
    noise: str
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.data}-{self.model}-{self.noise.replace(':', '')}"


def settings(args: argparse.Namespace) -> list[Setting]:
    """The tasks of a grid.

    Raises:
        L2RWError: an option that the grid needs is missing.
    """
    if args.grid == "digits":
        return [Setting("digits", "cnn", "uniform:0.4", ("--data", "digits", "--noise", "uniform:0.4"))]
    if args.root is None:
        raise L2RWError(f"--grid {args.grid}: give --root, the folder that the images are in")
    if args.grid == "paper":
        found = []
        for data in ("cifar10", "cifar100"):
            for model, schedule, kind, rates in (("wrn-28-10", "wrn", "uniform", (0, 0.4, 0.6)), ("resnet32", "resnet32", "flip2", (0, 0.2, 0.4))):
                for rate in rates:
                    shared = ("--data", data, "--root", args.root, "--model", model, "--schedule", schedule, "--valid-size", "500")
                    found.append(Setting(data, model, f"{kind}:{rate}", (*shared, "--noise", f"{kind}:{rate}")))
        return found
    small = ("--data", "folder", "--root", args.root, "--model", "resnet32", "--train-size", "10000", "--schedule", "30:20,25")
    small = (*small, "--valid-size", "500", "--warmup-updates", "200", "--meta-start", "600")
    if args.grid == "flip2":
        return [Setting("cifar10-10000", "resnet32", "flip2:0.4", (*small, "--noise", "flip2:0.4"))]
    if args.labels is None:
        raise L2RWError("--grid people: give --labels, the table with the labels that people gave")
    labels = ("--labels", args.labels, "--label-column", args.label_column)
    return [Setting("cifar10-10000", "resnet32", args.label_column, (*small, *labels))]


def jobs(args: argparse.Namespace) -> list[Job]:
    """A training for each task, method and seed; all methods of one seed before the next seed."""
    return [
        job(setting, teacher, seed, tuple(args.options))
        for seed in args.seeds
        for setting in settings(args)
        for teacher in args.teachers
    ]


def job(setting: Setting, teacher: str, seed: int, more: tuple[str, ...]) -> Job:
    options = [*setting.options, "--teacher", "deep" if teacher == TRUE else teacher, "--seed", str(seed), *more]
    program = ["benchmarks.fixed_weights", TRUE] if teacher == TRUE else ["fairseq_l2rw.cli.main", "vision"]

    def work(shop):
        shop.once("train", ["-m", *program, *options, "--save-dir", shop.folder / "run"])

    return Job(f"{setting.name}/{teacher}-s{seed}", {"options": options}, work)


def summarise(args: argparse.Namespace) -> list[dict]:
    """A row for each task and method, of the seeds that are done.

    ``above uniform``: accuracy of the last epoch less that of uniform weights with the same seed (the same images, labels and
    first student), over the seeds that both have. Seeds differ in all of these, so it spreads less than the accuracies do.
    """
    rows = []
    for setting in settings(args):
        plain = _results(args, setting, "uniform")
        for teacher in args.teachers:
            done = _results(args, setting, teacher)
            if not done:
                continue
            row = {"data": setting.data, "model": setting.model, "labels": setting.noise, "method": teacher, "seeds": len(done)}
            row["last epoch, %"] = spread([100 * r["accuracy"] for r in done.values()])
            if all("chosen_accuracy" in r for r in done.values()):
                row["chosen epoch, %"] = spread([100 * r["chosen_accuracy"] for r in done.values()])
            above = [100 * (r["accuracy"] - plain[s]["accuracy"]) for s, r in done.items() if s in plain and teacher != "uniform"]
            row["above uniform"] = spread(above) if above else None
            aucs = [r["auc"] for r in done.values() if r["auc"] is not None]
            row["AUC"] = spread(aucs, 3) if aucs else None
            row["minutes"] = statistics.mean(r["seconds"] for r in done.values()) / 60
            if args.grid == "paper":
                row["their paper, %"] = PAPER.get((setting.data, setting.model, setting.noise)) if teacher == "mwn" else None
            row["runs"] = done
            rows.append(row)
    return rows


def _results(args: argparse.Namespace, setting: Setting, teacher: str) -> dict[int, dict]:
    """What the trainings that are done say, by seed."""
    files = {s: Path(args.out) / setting.name / f"{teacher}-s{s}" / "run" / "result.json" for s in args.seeds}
    return {s: json.loads(f.read_text(encoding="utf-8")) for s, f in files.items() if f.exists()}


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=GRIDS, default="digits", help="what is trained, see above (default: %(default)s)")
    parser.add_argument("--root", help="folder of the images")
    parser.add_argument("--labels", help="people: table with the labels that people gave")
    parser.add_argument("--label-column", default="human_worst", help="people: its column (default: %(default)s)")
    parser.add_argument("--teachers", type=_words, help="methods, comma-separated (default: uniform, mwn, loss, deep; paper: and l2r); true: the true labels as weights")
    add_queue_arguments(parser, "fairseq-l2rw vision", seeds="1 to 5 for digits, else 1 to 3")
    parser.set_defaults(slots=1, seeds=None)
    args = parser.parse_args(argv)
    args.seeds = args.seeds or list(range(1, 6 if args.grid == "digits" else 4))
    args.teachers = args.teachers or ["uniform", "mwn", *(["l2r"] if args.grid == "paper" else []), "loss", "deep"]
    return args


def _words(text: str) -> list[str]:
    return text.split(",")


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    root = Path(args.out)
    left = work(jobs(args), root, args)
    if args.dry_run:
        return 0
    rows = summarise(args)
    shown = table([{k: v for k, v in row.items() if k != "runs"} for row in rows], digits=1)
    print(shown)
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "results.json", vars(args), rows)
    (root / "results.md").write_text(shown + "\n", encoding="utf-8")
    return 1 if left else 0


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main())
