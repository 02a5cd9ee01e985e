"""Does it find the noise of the real web, and does a dev set of another domain move the student there?

    python -m benchmarks.real_noise --data DIR --out runs/real_noise

An English-German student is trained on Tatoeba (short, clean sentences), as it is (``whole``) and with half of it spoilt
(``half``: 25 % misaligned, 25 % untranslated), with uniform weights and with the deep teacher, whose trusted dev set is post-edited
Wikipedia (``deep-wiki``) or TED talks (``deep-ted``). Then

* the deep teachers weigh pairs that were crawled from the web and judged by people: AUC of 1 - weight for the misaligned pairs and the
  wrong language (labels A and L) against the valid ones (V), and against all others, beside the loss per token and bicleaner's own score
  (nearly all of these pairs had passed bicleaner at 0.5, so they are hard for it);
* all are scored on Tatoeba's test set and on TED: does the TED score rise when the dev set is TED?

DIR holds tatoeba/{{train,val,test}}.{{en,de}}, ted/dev.{{en,de}}, wiki_postedit/dev.{{en,de}} (plain or .gz) and paracrawl_human/v3.tsv.gz with the
columns release, en, de, bicleaner, label. TED is cut in two: the first half is the dev set, the second is for scores. The same command
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import sys
from pathlib import Path

import numpy as np

from benchmarks import figures
from benchmarks.detection import by_kind
from benchmarks.experiment import L2RW, SIZES, Condition, Corpus, Experiment, Run, bootstrap
from benchmarks.jobs import Workshop, is_done, work
from benchmarks.noisy_bitext import add_training_arguments, lines_over_time
from benchmarks.record import table, write_json
from fairseq_l2rw.corpus.bitext import find_text, read_pairs, write_lines, writing
from fairseq_l2rw.errors import L2RWError, install_exit_hook

NOISE = {"whole": "", "half": "misaligned:0.25,untranslated:0.25"}
TEXTS = {"train": "tatoeba/train", "val": "tatoeba/val", "test": "tatoeba/test", "ted": "ted/dev", "wiki": "wiki_postedit/dev"}
JUDGED = "paracrawl_human/v3.tsv.gz"
#: splits of the data folders -> what is scored there
SCORED = {"valid": "TED", "test": "Tatoeba"}
#: what people said: misaligned, wrong language; all others count as translations in "rest"
WRONG = ("A", "L")
VALID = "V"


class RealNoise(Experiment):
    """Trainings after which the teacher weighs the judged pairs."""

    def _train(self, shop: Workshop, run: Run, base: str | None) -> None:
        super()._train(shop, run, base)
        if run.condition.learns:
            judged = [self.root / "texts" / f"judged.{lang}" for lang in ("en", "de")]
            shop.once("judged", [*L2RW, "weights", run.corpus.data(self.root), "--path", shop.folder / "checkpoint_last.pt",
                                 "--input", *judged, "--out", shop.folder / "judged.tsv", "--cpu"])  # fmt: skip


def make_texts(data: Path, folder: Path) -> dict[str, str]:
    """The two halves of TED, the judged pairs as two files and their labels; returns the prefixes of all texts.

    Raises:
        L2RWError: a file is missing, or is not as described.
    """
    prefixes = {name: str(data / path) for name, path in TEXTS.items()}
    for prefix in prefixes.values():
        for lang in ("en", "de"):
            find_text(prefix, lang)
    talks = list(read_pairs(*(find_text(prefixes["ted"], lang) for lang in ("en", "de"))))
    half = len(talks) // 2
    for name, pairs in (("ted-dev", talks[:half]), ("ted-scored", talks[half:])):
        for lang, side in zip(("en", "de"), zip(*pairs)):
            write_lines(str(folder / f"{name}.{lang}"), side)
        prefixes[name] = str(folder / name)
    rows = read_judged(data / JUDGED)
    with writing(*(str(folder / f"judged.{ending}") for ending in ("en", "de"))) as handles:
        for row in rows:
            for handle, lang in zip(handles, ("en", "de")):
                handle.write(" ".join(row[lang].split("\n")) + "\n")
    return prefixes


def read_judged(path: Path) -> list[dict[str, str]]:
    """The judged pairs, in order.

    Raises:
        L2RWError: the file is missing or has other columns.
    """
    if not path.is_file():
        raise L2RWError(f"{path}: no such file; see --help for what the folder of --data holds")
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or not {"en", "de", "bicleaner", "label"} <= set(rows[0]):
        raise L2RWError(f"{path}: needs the columns en, de, bicleaner and label")
    return rows


def plan(experiment: Experiment, texts: dict[str, str], seeds: list[int], only: str | None) -> None:
    """Uniform once for each training text; deep with either dev set."""

    def add(corpus: Corpus, condition: Condition) -> None:
        if only is None or f"{corpus.name.split('-')[0]}/{condition.name}" in only.split(","):
            experiment.add(corpus, condition, seed)

    metas = {"wiki": texts["wiki"], "ted": texts["ted-dev"]}
    for seed in seeds:
        for name, noise in NOISE.items():
            for meta, prefix in metas.items():
                text = {"train": texts["train"], "valid": texts["ted-scored"], "test": texts["test"], "meta": prefix}
                corpus = Corpus(f"{name}-{meta}", text, noise, src="en", tgt="de")
                if meta == "wiki":  # the training text is the same
                    add(corpus, Condition("uniform", ("--teacher", "uniform")))
                add(corpus, Condition(f"deep-{meta}", ("--teacher", "deep")))


def judged_detectors(folder: Path, rows: list[dict[str, str]]) -> dict[str, np.ndarray]:
    """Name -> a score of each judged pair, high for a bad one; a pair that was not weighed has none (not a number)."""
    out = {"bicleaner": np.array([1 - float(row["bicleaner"]) for row in rows])}
    with open(folder / "judged.tsv", encoding="utf-8", newline="") as handle:
        weighed = list(csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))
    for column in weighed[0]:
        if column == "loss" or column.startswith("weight"):
            scores = np.full(len(rows), np.nan)
            for row in weighed:
                if row[column]:
                    scores[int(row["id"])] = float(row[column]) * (1 if column == "loss" else -1)
            out["loss per token" if column == "loss" else column.replace("_", " ", 1)] = scores
    return out


def auc_rows(name: str, detectors: dict[str, np.ndarray], labels: np.ndarray) -> list[dict]:
    """A row for each detector: AUC of A, of L and of both against V, and of both against all others."""
    out = []
    for detector, scores in detectors.items():
        known = np.isfinite(scores)
        row = {"run": name, "detector": detector, "pairs": int(known.sum())}
        for what, bad, good in (("A against V", ("A",), (VALID,)), ("L against V", ("L",), (VALID,)), ("A, L against V", WRONG, (VALID,)),
                                ("A, L against the rest", WRONG, set(labels) - set(WRONG))):  # fmt: skip
            some = known & np.isin(labels, [*bad, *good])
            kinds = np.where(np.isin(labels[some], bad), "noise", "clean")
            row[what] = by_kind(scores[some], kinds).get("noise", {}).get("auc")
        out.append(row)
    return out


def report(experiment: Experiment, rows: list[dict[str, str]], configuration: dict) -> None:
    """Tables to stdout, ``results.json`` and figures to the queue's folder."""
    labels = np.array([row["label"] for row in rows])
    done = [run for run in experiment.runs if is_done(experiment.jobs[run.name], experiment.root)]
    results, judged, scores, means = [], [], [], {}
    for run in done:
        results.append(experiment.result(run))
        if run.condition.learns:
            name = f"{run.corpus.name.split('-')[0]} {run.condition.name} s{run.seed}"
            detectors = judged_detectors(experiment.root / run.name, rows)
            judged += [row for row in auc_rows(name, detectors, labels) if row["detector"] != "bicleaner" or not judged]
            weight = -detectors["weight"]
            means[name] = {label: float(np.nanmean(weight[labels == label])) for label in sorted(set(labels))}
    for name in NOISE:
        for seed in sorted({run.seed for run in done}):
            runs = {run.condition.name: run for run in done if run.corpus.name.startswith(f"{name}-") and run.seed == seed}
            if "uniform" not in runs:
                continue
            ordered = dict(sorted(runs.items(), key=lambda item: item[0] != "uniform"))
            entries: dict[str, dict] = {n: {"training text": name, "condition": n, "seed": seed} for n in ordered}
            for split, what in SCORED.items():
                tested = bootstrap({n: experiment.hypotheses(run, split) for n, run in ordered.items()},
                                   experiment.references(runs["uniform"].corpus, split), "de")  # fmt: skip
                for n, metrics in tested.items():
                    entries[n].update({f"BLEU {what}": metrics["BLEU"]["score"], f"± {what}": metrics["BLEU"]["ci"],
                                       f"p {what}": metrics["BLEU"]["p"], f"chrF {what}": metrics["chrF"]["score"]})  # fmt: skip
            scores += entries.values()
    content = {"runs": results, "judged": judged, "mean weights by judgement": means, "scores": scores}
    write_json(experiment.root / "results.json", configuration, content)
    if not done:
        print("nothing is done yet")
        return
    for some in (judged, [{"run": n, **m} for n, m in means.items()], scores):
        if some:
            print(table(some), end="\n\n")
    folder = experiment.root / "figures"
    aucs = {f"{row['run']}: {row['detector']}": (row["A, L against V"], 0.0) for row in judged if row["A, L against V"] is not None}
    figures.bars(folder / "judged_auc", aucs, "AUC, misaligned and wrong language against valid", {"chance": 0.5})
    for what in SCORED.values():
        bleu = {f"{s['training text']} {s['condition']} s{s['seed']}": (s[f"BLEU {what}"], s[f"± {what}"]) for s in scores}
        figures.bars(folder / f"bleu_{what.lower()}", bleu, f"BLEU, {what} (95 % interval over sentences)")
    timed = {f"{r['corpus']} {r['condition']} s{r['seed']}": r for r in results if r.get("over_time")}
    for quantity, label in (("mean", "mean weight"), ("auc", "AUC of the weights")):
        panels = {name: lines_over_time(result, quantity) for name, result in timed.items()}
        figures.curves(folder / f"over_time_{quantity}", panels, label)
    print(f"results and figures: {experiment.root}/results.json, {folder}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.real_noise", description=__doc__.replace("{{", "{").replace("}}", "}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", required=True, metavar="DIR", help="see above")
    parser.add_argument("--only", metavar="TEXT/CONDITION,...", help="these trainings alone, as half/deep-ted")
    add_training_arguments(parser)
    parser.set_defaults(size="tatoeba")
    args = parser.parse_args(argv)
    size = SIZES[args.size]
    experiment = RealNoise(Path(args.out).resolve(), size, tuple(args.options))
    data = Path(args.data).resolve()
    plan(experiment, make_texts(data, experiment.root / "texts"), args.seeds, args.only)
    failed = work(experiment.jobs.values(), experiment.root, args)
    if not args.dry_run:
        report(experiment, read_judged(data / JUDGED), {**vars(args), "sizes": vars(size)})
    return 1 if failed else 0


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main())
