"""Does it work? Every reweighter on noisy bitext, against plain training and against training on the clean part alone.

    python -m benchmarks.noisy_bitext --raw DIR --out runs/noisy_bitext --seeds 1,2,3 --stages 1,2
    python -m benchmarks.noisy_bitext --size toy --out runs/noisy_toy              (no files needed; half an hour)

Stages, in the order in which they are worked off (all seeds of a stage before the next):

1. corpus ``mixed`` (25 % misaligned, 25 % untranslated): uniform, clean-only, loss, deep, deep-loss (J = the dev loss)
2. corpus ``clean`` (nothing spoilt): uniform, deep
3. ``mixed``: surface, l2r, self_paced, paper (the paper's own setting)
4. corpora ``misaligned`` (50 %) and ``four`` (12.5 % each of misaligned, untranslated, misordered, truncated):
   uniform, clean-only, loss, deep
5. leave one out: deep without the head of one kind of noise that the corpus has, for each such kind
6. corpora ``mixed`` and ``misaligned``: the true labels as weights, from the teacher's start (told) or the first update on
   (told-from-0): the bound of what any weights can do on the same batches
7. ``mixed``, ``misaligned``, ``four``, ``clean``: deep that leaves no pair out (``--skip-below 0``: deep-all)
8. corpus ``unnamed`` (25 % with a sentence too many or too few on one side, 25 % with a source that is copied from the target:
   noise that the default contrast does not name): uniform, clean-only, deep

The same command again goes on where it stopped; with more seeds or stages it adds to what is there, and the table, the
figures and ``results.json`` in --out tell of all that is done. Scores are those of the last checkpoint, beam 5. A condition begins
as plain training, so all conditions of a corpus and seed share the student until --meta-start (see ``experiment.py``).
The clean part has a sentencepiece model of its own, as if the rest had been filtered out by hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import figures
from benchmarks.experiment import (
    SIZES,
    SPLITS,
    Condition,
    Corpus,
    Experiment,
    Run,
    bootstrap,
    check_raw,
    mean_and_deviation,
    won_back,
)
from benchmarks.jobs import add_queue_arguments, is_done, numbers, work
from benchmarks.record import table, write_json
from fairseq_l2rw.errors import L2RWError, install_exit_hook

NOISE = {
    "mixed": "misaligned:0.25,untranslated:0.25",
    "misaligned": "misaligned:0.5",
    "four": "misaligned:0.125,untranslated:0.125,misordered:0.125,truncated:0.125",
    "clean": "",
    "unnamed": "over-under:0.25,untranslated-source:0.25",
}
PAPER = (
    "--meta-objective loss --meta-momentum 0 --teacher-replay 0 --teacher-prior-strength 0 --weight-normalization batch"
).split()
CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("uniform", ("--teacher", "uniform")),
        Condition("clean-only", ("--teacher", "uniform"), corpus="only-clean"),
        Condition("loss", ("--teacher", "loss")),
        Condition("deep", ("--teacher", "deep")),
        Condition("deep-loss", ("--teacher", "deep", "--meta-objective", "loss")),
        Condition("deep-all", ("--teacher", "deep", "--skip-below", "0")),
        Condition("told", ("--teacher", "deep", "--skip-below", "0"), told=True),
        Condition("told-from-0", ("--teacher", "deep", "--skip-below", "0", "--meta-start", "0"), told=True),
        Condition("surface", ("--teacher", "surface")),
        Condition("l2r", ("--teacher", "l2r")),
        Condition("self_paced", ("--teacher", "self_paced")),
        Condition("paper", ("--teacher", "deep", *PAPER)),
    )
}
STAGES = {
    1: [("mixed", name) for name in ("uniform", "clean-only", "loss", "deep", "deep-loss")],
    2: [("clean", name) for name in ("uniform", "deep")],
    3: [("mixed", name) for name in ("surface", "l2r", "self_paced", "paper")],
    4: [(corpus, name) for corpus in ("misaligned", "four") for name in ("uniform", "clean-only", "loss", "deep")],
    5: [(corpus, f"deep-without-{kind}") for corpus in ("mixed", "misaligned", "four")
        for kind in (item.split(":")[0] for item in NOISE[corpus].split(","))],
    6: [(corpus, name) for corpus in ("mixed", "misaligned") for name in ("told", "told-from-0")],
    7: [(corpus, "deep-all") for corpus in ("mixed", "misaligned", "four", "clean")],
    8: [("unnamed", name) for name in ("uniform", "clean-only", "deep")],
}  # fmt: skip


def condition(name: str) -> Condition:
    """The condition of that name; ``deep-without-KIND`` is deep with the default contrast but for one kind."""
    without = "deep-without-"
    if not name.startswith(without):
        return CONDITIONS[name]
    from fairseq_l2rw.translation.config import DEFAULT_CONTRAST

    kept = [item for item in DEFAULT_CONTRAST.split(",") if item.split(":")[0] != name.removeprefix(without)]
    return Condition(name, ("--teacher", "deep", "--meta-contrast", ",".join(kept)))


def plan(experiment: Experiment, text: dict[str, str], stages: list[int], seeds: list[int], only: str | None) -> None:
    """Adds the trainings of these stages."""
    for stage in stages:
        for seed in seeds:
            for corpus_name, name in STAGES[stage]:
                if only is not None and f"{corpus_name}/{name}" not in only.split(","):
                    continue
                chosen = condition(name)
                experiment.add(corpus_for(corpus_name, text, chosen), chosen, seed)


def corpus_for(name: str, text: dict[str, str], condition: Condition) -> Corpus:
    """What a condition trains on: the noisy corpus of that name, or its clean part."""
    ending = f"-{condition.corpus}" if condition.corpus else ""
    return Corpus(name + ending, text, NOISE[name], only_clean=bool(ending))


def corpus_of(run: Run) -> str:
    """The corpus that a run is compared on."""
    return run.corpus.name.removesuffix("-only-clean")


def analyse(experiment: Experiment) -> list[dict]:
    """One entry for each training that is done, with its significance against uniform weights and what it won back."""
    done = [run for run in experiment.runs if is_done(experiment.jobs[run.name], experiment.root)]
    results = {run: experiment.result(run) for run in done}
    for corpus in dict.fromkeys(corpus_of(run) for run in done):
        for seed in sorted({run.seed for run in done}):
            runs = [run for run in done if corpus_of(run) == corpus and run.seed == seed]
            runs.sort(key=lambda run: run.condition.name != "uniform")  # the first is the baseline
            for split in SPLITS:
                systems = {run.condition.name: experiment.hypotheses(run, split) for run in runs}
                if not systems:
                    continue
                references = experiment.references(runs[0].corpus, split)
                tested = bootstrap(systems, references, runs[0].corpus.tgt)
                for run in runs:
                    entry = results[run].setdefault("bootstrap", {})
                    entry[split] = tested[run.condition.name]
                    if runs[0].condition.name != "uniform":
                        for scores in entry[split].values():
                            scores["p"] = None
            by_name = {run.condition.name: results[run] for run in runs}
            for name, result in by_name.items():
                result["corpus"] = corpus
                if {"uniform", "clean-only"} <= set(by_name):
                    low, high, own = (by_name[n]["scores"]["test"]["BLEU"] for n in ("uniform", "clean-only", name))
                    result["won_back"] = won_back(own, low, high)
    return list(results.values())


def summary(results: list[dict]) -> list[dict]:
    """A row for each corpus and condition: means over seeds, and their deviation."""
    rows = []
    for corpus in dict.fromkeys(r["corpus"] for r in results):
        for name in dict.fromkeys(r["condition"] for r in results if r["corpus"] == corpus):
            some = [r for r in results if (r["corpus"], r["condition"]) == (corpus, name)]
            row = {"corpus": corpus, "condition": name, "seeds": len(some)}
            for split in SPLITS:
                for metric in ("BLEU", "chrF"):
                    mean, deviation = mean_and_deviation([r["scores"][split][metric] for r in some])
                    row[f"{metric} {split}"] = mean
                    if (metric, split) == ("BLEU", "test"):
                        row["±"] = deviation
                        # half of the 95 % interval, over sentences
                        row["ci"] = mean_and_deviation([r["bootstrap"][split][metric]["ci"] for r in some])[0]
            row["won back"] = mean_and_deviation([r["won_back"] for r in some if r.get("won_back") is not None])[0]
            weighed = [r["weights"] for r in some if "weights" in r]
            if weighed:
                row["w clean"] = mean_and_deviation([w["clean"]["mean"] for w in weighed])[0]
                row["ess clean"] = mean_and_deviation([w["clean"]["ess"] for w in weighed if "ess" in w["clean"]])[0]
                for kind in sorted({kind for w in weighed for kind in w} - {"clean"}):
                    row[f"AUC {kind}"] = mean_and_deviation([w[kind]["auc"] for w in weighed if "auc" in w.get(kind, {})])[0]
            rows.append(row)
    return rows


def bars_reached(results: list[dict]) -> list[dict]:
    """The bars that the method set itself, and what was measured."""
    rows = []

    def add(corpus, what, value, bar):
        rows.append({"corpus": corpus, "what": what, "measured": value, "bar": bar,
                     "reached": None if value is None else "yes" if value >= bar else f"no, {bar - value:.3f} short"})  # fmt: skip

    of = lambda corpus, name: [r for r in results if (r["corpus"], r["condition"]) == (corpus, name)]  # noqa: E731
    mean = lambda values: mean_and_deviation([v for v in values if v is not None])[0]  # noqa: E731
    for corpus in dict.fromkeys(r["corpus"] for r in results):
        deep = of(corpus, "deep")
        if not deep:
            continue
        if corpus == "clean":
            add(corpus, "ess of deep", mean([r["weights"]["clean"].get("ess") for r in deep if "weights" in r]), 0.9)
            plain, own = (mean([r["scores"]["test"]["BLEU"] for r in of(corpus, n)]) for n in ("uniform", "deep"))
            if plain is not None:
                add(corpus, "BLEU of deep (bar: uniform's)", own, plain)
            continue
        kinds = sorted({kind for r in deep for kind in r.get("weights", {})} - {"clean", "all"})
        four = len(kinds) > 2
        if not four:
            add(corpus, "AUC of deep, all noise", mean([r["weights"]["all"]["auc"] for r in deep if "weights" in r]), 0.97)
        for kind in kinds:
            bar = 0.90 if four else 0.95
            add(corpus, f"AUC of deep, {kind}", mean([r["weights"][kind]["auc"] for r in deep if "weights" in r]), bar)
        late = [collapse(r) for r in deep if r.get("over_time")]
        add(corpus, "AUC late minus AUC at its best", mean(late), -0.02)
        add(corpus, "won back by deep", mean([r.get("won_back") for r in deep]), 0.9)
        others = {r["condition"] for r in results if r["corpus"] == corpus} - {"deep", "uniform", "clean-only"}
        others = {name for name in others if not name.startswith("deep-")}
        if others:
            best = max(mean([r["scores"]["test"]["BLEU"] for r in of(corpus, name)]) for name in others)
            scores = [r["scores"]["test"]["BLEU"] for r in deep]
            spread = mean_and_deviation(scores)[1] or 0.0
            add(corpus, "BLEU of deep (bar: best other reweighter, plus the seeds' deviation)", mean(scores), best + spread)
    return rows


def collapse(result: dict) -> float | None:
    """AUC of the weights of all pairs at the end of a training minus the best AUC of its stretches.

    Not that of the last stretch: what is left in the batches when the plain cases have been left out is harder to tell.
    """
    aucs = [stretch["kinds"]["all"]["auc"] for stretch in result["over_time"] if "auc" in stretch["kinds"]["all"]]
    last = result["weights"]["all"].get("auc")
    return last - max(aucs) if aucs and last is not None else None


def draw(results: list[dict], folder: Path) -> None:
    """Weights by kind and AUC over time, of the first seed; BLEU with error bars."""
    for corpus in dict.fromkeys(r["corpus"] for r in results):
        some = [r for r in results if r["corpus"] == corpus]
        first = {r["condition"]: r for r in reversed(sorted(some, key=lambda r: r["seed"])) if r.get("over_time")}
        first = dict(sorted(first.items(), key=lambda item: item[0]))
        figures.curves(folder / f"weights_{corpus}", {n: lines_over_time(r, "mean") for n, r in first.items()}, "mean weight")
        if corpus != "clean":
            figures.curves(folder / f"auc_{corpus}", {n: lines_over_time(r, "auc") for n, r in first.items()}, "AUC of the weights", (0.4, 1.0))
        values, lines = {}, {}
        for row in summary(some):
            error = row["±"] if row["±"] is not None else row["ci"]
            values[f"{row['condition']} ({row['seeds']})"] = (row["BLEU test"], error or 0.0)
            if row["condition"] in ("uniform", "clean-only"):
                lines[row["condition"]] = row["BLEU test"]
        label = "BLEU, test (± over seeds; one seed: over sentences)"
        figures.bars(folder / f"bleu_{corpus}", values, label, lines)


def lines_over_time(result: dict, what: str) -> dict[str, list[tuple[float, float]]]:
    """Kind -> (update, value) of what the weights of a training were over time; ``what`` is ``mean`` or ``auc``."""
    lines: dict[str, list] = {}
    for stretch in result["over_time"]:
        for kind, entry in stretch["kinds"].items():
            if entry.get(what) is not None and (what != "mean" or kind != "all"):
                lines.setdefault(kind, []).append((stretch["update"], entry[what]))
    return lines


def report(experiment: Experiment, configuration: dict) -> None:
    """Table to stdout, ``results.json`` and the figures to the queue's folder."""
    results = analyse(experiment)
    rows, reached = summary(results), bars_reached(results)
    write_json(experiment.root / "results.json", configuration, {"runs": results, "summary": rows, "bars": reached})
    if not results:
        print("nothing is done yet")
        return
    draw(results, experiment.root / "figures")
    aucs = [{name: f"{row[name]:.3f}" for name in row if name.startswith("AUC") and row[name] is not None} for row in rows]
    print(table([{**row, **of_row} for row, of_row in zip(rows, aucs)], digits=2))
    if reached:
        print()
        print(table(reached))
    print(f"\n{results[0]['signatures']['BLEU']}\nresults and figures: {experiment.root}/results.json, {experiment.root}/figures")


def texts(args) -> dict[str, str]:
    """Prefixes of the clean raw texts: Multi30k's in --raw, else the toy corpus, made where it is not there yet."""
    if args.raw:
        return check_raw(args.raw, {"train": "train", "valid": "val", "test": "test_2016_flickr"}, ("de", "en"))
    if args.size == "multi30k":
        raise L2RWError("--raw is missing: name the folder with train, val and test_2016_flickr .de and .en (plain or .gz), "
                        "or give --size toy")  # fmt: skip
    from fairseq_l2rw.corpus.toy import write_toy

    folder = Path(args.out).resolve() / "toy"
    sizes = {"train": 20_000, "valid": 1_000, "test": 500} if args.size == "toy" else {"train": 500, "valid": 60, "test": 20}
    if not (folder / "test.en").exists():
        write_toy(str(folder), "de", "en", sizes, seed=1)
    return {split: str(folder / split) for split in sizes}


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that all experiments of this kind share."""
    parser.add_argument("--size", choices=SIZES, default="multi30k", help="of text, student and training (default: %(default)s)")
    add_queue_arguments(parser, "fairseq-train")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.noisy_bitext", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--raw", metavar="DIR", help="Multi30k: train, val, test_2016_flickr .de and .en, plain or .gz")
    parser.add_argument("--stages", type=numbers, default=sorted(STAGES), metavar="N,...", help="see above (default: all)")
    parser.add_argument("--only", metavar="CORPUS/CONDITION,...", help="these trainings of the stages alone, as mixed/deep")
    add_training_arguments(parser)
    args = parser.parse_args(argv)
    experiment = Experiment(Path(args.out).resolve(), SIZES[args.size], tuple(args.options))
    plan(experiment, texts(args), args.stages, args.seeds, args.only)
    failed = work(experiment.jobs.values(), experiment.root, args)
    if not args.dry_run:
        report(experiment, {**vars(args), "sizes": vars(experiment.size)})
    return 1 if failed else 0


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main())
