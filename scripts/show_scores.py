"""Prints the scores of a recipe: every run, and for each teacher the mean over the seeds."""

import json
import statistics
import sys
from pathlib import Path

out, teachers, seeds = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3].split(",")
results = {
    (teacher, seed): json.loads((out / f"seed{seed}" / teacher / "eval" / "test.json").read_text(encoding="utf-8"))
    for teacher in teachers
    for seed in seeds
}
names = [
    name for name, value in next(iter(results.values())).items() if isinstance(value, dict) and "signature" in value
]
width = max(len(teacher) for teacher in teachers)
print("\n" + " " * (width + 8) + "".join(f"{name:>15}" for name in names))
for teacher in teachers:
    for seed in seeds:
        cells = "".join(f"{results[teacher, seed][name]['score']:>15.2f}" for name in names)
        print(f"{teacher:<{width}} seed {seed:<2}{cells}")
    if len(seeds) > 1:
        columns = [[results[teacher, seed][name]["score"] for seed in seeds] for name in names]
        cells = "".join(f"{statistics.mean(column):>8.2f} ± {statistics.stdev(column):4.2f}" for column in columns)
        print(f"{teacher:<{width}} mean   {cells}")
print()
for name in names:
    print(f"{name}: {next(iter(results.values()))[name]['signature']}")
print(f"""
where everything lies:
  {out}/report.html             scores, curves, pairs, options of all runs, to look at in a browser
  {out}/data                    binarised data, sentencepiece model
  {out}/seed*/*/                checkpoints, train.log
  {out}/seed*/*/eval/test.hyp   translations
what to try next:
  fairseq-l2rw weights {out}/data --path {out}/seed{seeds[0]}/{teachers[0]}/checkpoint_last.pt --out weights.tsv
  docs/reproduce.md, docs/clean_corpus.md   the paper's tables; your own corpus""")
