"""What each part of the deep teacher is worth: one setting changed at a time, on one noisy corpus.

    python -m benchmarks.ablation --raw DIR --out runs/noisy_bitext --groups inputs,objective

Give it the --out of ``benchmarks.noisy_bitext`` and it shares corpora, base students and the trainings with the defaults. Groups:
{groups}

The queue, the scores and the figures are those of ``benchmarks.noisy_bitext``; the table compares with ``deep``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import figures
from benchmarks.experiment import SIZES, Condition, Corpus, Experiment
from benchmarks.jobs import work
from benchmarks.noisy_bitext import (
    CONDITIONS,
    NOISE,
    add_training_arguments,
    analyse,
    lines_over_time,
    summary,
    texts,
)
from benchmarks.record import table, write_json
from fairseq_l2rw.errors import L2RWError, install_exit_hook

#: group -> name of the condition -> what is changed
GROUPS = {
    "inputs": {
        "internal": "--teacher-inputs internal",
        "surface": "--teacher-inputs surface",
        "encoder": "--teacher-inputs encoder,surface",
        "decoder": "--teacher-inputs decoder,surface",
    },
    "interactions": {"means": "--teacher-interactions means"},
    "objective": {"loss": "--meta-objective loss"},
    "window": {"K=2": "--meta-window 2", "K=4": "--meta-window 4"},
    "interval": {f"every-{n}": f"--meta-interval {n}" for n in (1, 2, 4, 8)},
    "params": {
        "no-embeddings": r"--meta-params ^(encoder|decoder)\.layers\.",
        "encoder-and-cross-attention": r"--meta-params ^encoder\.layers\.|encoder_attn",
        "decoder-layers": r"--meta-params ^decoder\.layers\.",
    },
    "start": {"early": "--meta-start {half}", "late": "--meta-start {later}"},
    "normalization": {"batch": "--weight-normalization batch", "tokens": "--weight-normalization tokens"},
    "momentum": {"none": "--meta-momentum 0", "0.5": "--meta-momentum 0.5", "0.95": "--meta-momentum 0.95"},
    "scale": {"dev": "--meta-scale dev"},
    "lr": {rate: f"--teacher-lr {rate}" for rate in ("3e-4", "3e-3")},
    "hidden": {width: f"--teacher-hidden-dim {width}" for width in ("16", "256")},
    "replay": {"none": "--teacher-replay 0"},
    "prior": {"none": "--teacher-prior-strength 0", "0.03": "--teacher-prior-strength 0.03"},
    "influence": {"error": "--influence-normalization error"},
    "history": {"none": "--teacher-history 0"},
    "skip": {"none": "--skip-below 0", "0.1": "--skip-below 0.1"},
}


def conditions(groups: list[str], start: int, updates: int) -> dict[str, Condition]:
    """Name -> condition, as ``inputs-internal``."""
    out = {}
    for group in groups:
        if group not in GROUPS:
            raise L2RWError(f"--groups: unknown group '{group}'; choose from {', '.join(GROUPS)}")
        for value, option in GROUPS[group].items():
            words = option.format(half=start // 2, later=(start + updates) // 2).split(" ")
            # of other states than the default's the base has no statistics
            alone = value in ("encoder", "decoder", "means") or group == "history"
            out[f"{group}-{value}"] = Condition(f"{group}-{value}", ("--teacher", "deep", *words), alone=alone)
    return out


def report(experiment: Experiment, configuration: dict) -> None:
    """Table to stdout, ``ablation.json`` and figures to the queue's folder."""
    results = analyse(experiment)
    rows = summary(results)
    deep = next((row["BLEU test"] for row in rows if row["condition"] == "deep"), None)
    for row in rows:
        options = next(run.condition.options for run in experiment.runs if run.condition.name == row["condition"])
        row["options"] = " ".join(options[2:])
        row["Δ BLEU"] = None if deep is None else row["BLEU test"] - deep
    folder = experiment.root / "figures"
    write_json(experiment.root / "ablation.json", configuration, {"runs": results, "summary": rows})
    if not rows:
        print("nothing is done yet")
        return
    print(table(rows, [c for c in rows[0] if c not in ("corpus", "options")] + ["options"], digits=2))
    values = {row["condition"]: (row["BLEU test"], row["±"] if row["±"] is not None else row["ci"] or 0.0) for row in rows}
    figures.bars(folder / "ablation_bleu", values, "BLEU, test", {"deep": deep} if deep is not None else None)
    aucs = {row["condition"]: (row["AUC all"], 0.0) for row in rows if row.get("AUC all") is not None}
    figures.bars(folder / "ablation_auc", aucs, "AUC of the weights, all noise")
    panels: dict[str, dict] = {}
    for result in results:
        if result.get("over_time"):
            group = result["condition"].split("-")[0]
            panels.setdefault(group, {})[result["condition"]] = lines_over_time(result, "auc").get("all", [])
    figures.curves(folder / "ablation_auc_over_time", panels, "AUC of the weights, all noise", (0.4, 1.0))


def main(argv: list[str] | None = None) -> int:
    groups = "\n".join(f"  {name:<14} {', '.join(values)}" for name, values in GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description=__doc__.format(groups=groups),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--raw", metavar="DIR", help="Multi30k, as of benchmarks.noisy_bitext")
    parser.add_argument("--corpus", choices=NOISE, default="mixed", help="its noise (default: %(default)s)")
    parser.add_argument("--groups", default=",".join(GROUPS), metavar="NAME,...", help="see above (default: all)")
    parser.add_argument("--only", metavar="CONDITION,...", help="these of the groups alone, as params-decoder-layers")
    add_training_arguments(parser)
    args = parser.parse_args(argv)
    size = SIZES[args.size]
    experiment = Experiment(Path(args.out).resolve(), size, tuple(args.options))
    corpus = Corpus(args.corpus, texts(args), NOISE[args.corpus])
    changed = conditions(args.groups.split(","), size.start, size.updates)
    if args.only is not None:
        changed = {name: condition for name, condition in changed.items() if name in args.only.split(",")}
    for seed in args.seeds:
        for condition in (CONDITIONS["uniform"], CONDITIONS["deep"], *changed.values()):
            experiment.add(corpus, condition, seed)
    failed = work(experiment.jobs.values(), experiment.root, args)
    if not args.dry_run:
        report(experiment, {**vars(args), "sizes": vars(size)})
    return 1 if failed else 0


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main())
