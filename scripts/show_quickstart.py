"""Prints what a quick start found: weights by kind of noise, extreme pairs, both scores, and where everything lies."""

import csv
import json
import sys
from pathlib import Path

from fairseq_l2rw.errors import printable

out = Path(sys.argv[1])
summary = json.loads((out / "runs" / "deep" / "weights.json").read_text(encoding="utf-8"))
with open(out / "runs" / "deep" / "weights.tsv", encoding="utf-8", newline="") as handle:
    rows = [row for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE) if not row["reason"]]
with open(out / "corpus" / "train.labels.tsv", encoding="utf-8", newline="") as handle:
    kinds = {row["id"]: row["kind"] for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)}

print("\nmean weight by kind of pair (the teacher never saw the kinds):")
for kind, entry in summary["kinds"].items():
    auc = f"   AUC {entry['auc']:.3f}" if "auc" in entry else ""
    print(f"  {kind:<13}{entry['pairs']:>6} pairs   weight {entry['mean']:.3f}{auc}")
print(f"  the weight as a detector of noise: AUC {summary['auc']:.3f}")

rows.sort(key=lambda row: float(row["weight"]))
for title, some in (("lowest", rows[:3]), ("highest", rows[-3:])):
    print(f"\n{title} weights:")
    for row in some:
        print(f"  {float(row['weight']):.3f}  {kinds[row['id']]:<12}  {printable(row['source'], 200)}  |  {printable(row['target'], 200)}")

print(f"""
where everything lies:
  {out}/report.html       all of this and more, to look at in a browser
  {out}/corpus            raw text; train.labels.tsv says which pairs are spoilt
  {out}/data              binarised data, sentencepiece model
  {out}/runs/*/           checkpoints, train.log, eval/test.hyp, eval/test.json
  {out}/runs/deep/weights.tsv   weight of every pair, and of every head: why a pair was put down
what to try next:
  docs/clean_corpus.md, docs/reproduce.md, docs/extend.md  the same with your own corpus, the paper, your own reweighter
  bash scripts/multi30k_de_en.sh --help                    real image captions
  fairseq-train {out}/data --user-dir fairseq_l2rw --task l2rw_translation --help
""")
print(f"all steps after the set-up took {int(sys.argv[2]) / 60:.1f} minutes\n")
for teacher in ("uniform", "deep"):
    scores = json.loads((out / "runs" / teacher / "eval" / "test.json").read_text(encoding="utf-8"))
    print(f"{teacher:<8} BLEU {scores['BLEU']['score']:.1f}   chrF {scores['chrF']['score']:.1f}   ({scores['BLEU']['signature']})")
