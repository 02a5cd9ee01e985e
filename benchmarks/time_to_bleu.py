"""How soon is a score reached, and what do full batches of what stays (``--skip-below``) bring?

    python -m benchmarks.time_to_bleu --raw DIR --out runs/noisy_bitext --bleu 30

On a noisy corpus (default: 25 % misaligned, 25 % untranslated): plain training on all of it (``uniform``) and on its clean half
(``clean-only``), ``deep``, and deep that leaves no pair out of its batches (``deep-all``). Every few updates the
student is scored on the test set, beam 5. Seconds are those of training as fairseq counts them (its ``wall``), all on one thread, the
common start until --meta-start included; run nothing else beside them. Give it the --out of ``benchmarks.noisy_bitext`` and it
shares corpora and base students.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks import figures
from benchmarks.checkpoints import read_checkpoint
from benchmarks.experiment import L2RW, SIZES, Experiment, Run
from benchmarks.jobs import Workshop, is_done, work
from benchmarks.noisy_bitext import CONDITIONS, NOISE, add_training_arguments, corpus_for, texts
from benchmarks.record import table, write_json
from fairseq_l2rw.errors import install_exit_hook


class Timed(Experiment):
    """Trainings whose every saved student is scored."""

    def _train(self, shop: Workshop, run: Run, base: str | None) -> None:
        super()._train(shop, run, base)
        for updates, path in checkpoints(shop.folder).items():
            shop.once(f"evaluate-{updates}", [*L2RW, "evaluate", run.corpus.data(self.root), "--path", path, "--gen-subset", "test",
                                              "--out", shop.folder / f"eval-{updates}", "--json", "--cpu"])  # fmt: skip

    def curve(self, run: Run) -> list[dict]:
        """``updates``, ``seconds`` of training and ``BLEU``, a row for each saved student."""
        folder = self.root / run.name
        rows = []
        for updates, path in checkpoints(folder).items():
            score = json.loads((folder / f"eval-{updates}" / "test.json").read_text(encoding="utf-8"))["BLEU"]["score"]
            seconds = read_checkpoint(path)["extra_state"]["previous_training_time"]
            rows.append({"updates": updates, "seconds": seconds, "BLEU": score})
        return rows


def checkpoints(folder: Path) -> dict[int, Path]:
    """Updates -> the student saved then, in order."""
    found = {int(re.search(r"_(\d+)\.pt$", path.name)[1]): path for path in folder.glob("checkpoint_*_*.pt")}
    return dict(sorted(found.items()))


def seconds_to(rows: list[dict], bleu: float) -> float | None:
    """Seconds until a score was reached, between two students on the straight line; None if it never was."""
    for before, row in zip([None, *rows], rows):
        if row["BLEU"] >= bleu:
            if before is None:
                return row["seconds"]
            part = (bleu - before["BLEU"]) / (row["BLEU"] - before["BLEU"])
            return before["seconds"] + part * (row["seconds"] - before["seconds"])
    return None


def report(experiment: Timed, bleu: float, configuration: dict) -> None:
    """Table to stdout, ``time_to_bleu.json`` and a figure to the queue's folder."""
    rows, panels = [], {}
    for run in experiment.runs:
        if not is_done(experiment.jobs[run.name], experiment.root):
            continue
        curve = experiment.curve(run)
        needed = seconds_to(curve, bleu)
        rows.append({
            "condition": run.condition.name.removeprefix("timed-"), "seed": run.seed, f"seconds to {bleu:g} BLEU": needed,
            "seconds in all": curve[-1]["seconds"], "BLEU at the end": curve[-1]["BLEU"], "curve": curve,
        })  # fmt: skip
        panel = panels.setdefault(f"seed {run.seed}", {})
        panel[rows[-1]["condition"]] = [(point["seconds"], point["BLEU"]) for point in curve]
    if not rows:
        print("nothing is done yet")
        return
    write_json(experiment.root / "time_to_bleu.json", configuration, rows)
    print(table(rows, [name for name in rows[0] if name != "curve"], digits=1))
    top = max(point["BLEU"] for row in rows for point in row["curve"])
    path = experiment.root / "figures" / "time_to_bleu"
    figures.curves(path, panels, "BLEU, test", (0, max(1.0, 1.1 * top)), xlabel="seconds of training")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.time_to_bleu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", metavar="DIR", help="Multi30k, as of benchmarks.noisy_bitext")
    parser.add_argument("--corpus", choices=NOISE, default="mixed", help="its noise (default: %(default)s)")
    parser.add_argument("--bleu", type=float, default=30.0, help="the score to reach (default: %(default)g)")
    parser.add_argument("--every", type=int, default=250, metavar="N", help="updates from one score to the next (default: %(default)s)")
    parser.add_argument("--only", metavar="CONDITION,...", help="these trainings alone, as deep-all")
    add_training_arguments(parser)
    parser.set_defaults(slots=1)
    args = parser.parse_args(argv)
    size = SIZES[args.size]
    experiment = Timed(Path(args.out).resolve(), size, tuple(args.options))
    text = texts(args)
    saves = ("--save-interval-updates", str(args.every))
    for seed in args.seeds:
        for chosen in (CONDITIONS[name] for name in ("uniform", "clean-only", "deep", "deep-all")):
            if args.only is None or chosen.name in args.only.split(","):
                timed = replace(chosen, name=f"timed-{chosen.name}", options=(*chosen.options, *saves))
                experiment.add(corpus_for(args.corpus, text, timed), timed, seed)
    failed = work(experiment.jobs.values(), experiment.root, args)
    if not args.dry_run:
        report(experiment, args.bleu, {**vars(args), "sizes": vars(size)})
    return 1 if failed else 0


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main())
