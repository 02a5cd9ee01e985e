"""Does a pair's own measured influence know what the teacher's weight does not?

    python -m benchmarks.own_influence OUT/runs/mixed/deep-s1 OUT/runs/mixed/deep-s2 --labels OUT/corpora/mixed/data/raw/train.labels.tsv

A run is a folder with ``weights.tsv.gz`` (`fairseq-l2rw weights` at the end of the training) and ``influence.tsv.gz``
(``--influence-log``), as ``benchmarks.noisy_bitext`` leaves them. Of the pairs whose influence on a head was measured since an
update, the table tells how well each of these finds the noise that the head is about:

``teacher``   z_k(x), the logit of the head's weight, which goes by the features;
``own``       -c, the pair's mean influence measured since then, mostly a single one, under dropout;
``b = ...``   both: z_k(x) - b c / r, with r the root mean square of c.

"weight" is the AUC of the whole weight, the product of the heads, with that head's logit so changed; and the mean influences
show whether the clean pairs that the teacher puts down (a weight below 0.1) do harm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.special import expit, logit

from benchmarks.detection import ALL, CLEAN, by_kind, read_weights
from benchmarks.record import table, write_json
from fairseq_l2rw.corpus.influence_log import read_log
from fairseq_l2rw.corpus.lines import read_labels

STRENGTHS = (0, 1, 2, 5, 10)
PUT_DOWN = 0.1


def measure(run: Path, labels: dict[int, str], head: str, since: int) -> tuple[list[dict], list[dict]]:
    """The rows of both tables for one run."""
    sums: dict[int, list[float]] = {}
    for row in read_log(str(run / "influence.tsv.gz")):
        if row.head == head and row.update >= since:
            sums.setdefault(row.id, []).append(row.influence)
    ids, weights, own_head = read_weights(run / "weights.tsv.gz", f"weight_{head}")
    measured = np.array([i in sums for i in ids.tolist()], dtype=bool)
    ids, weights, own_head = ids[measured], weights[measured], own_head[measured].clip(1e-9, 1 - 1e-9)
    if not len(ids):
        raise SystemExit(f"{run}: no influence on the head {head} since update {since}; give an earlier --since")
    c = np.array([np.mean(sums[i]) for i in ids.tolist()])
    kinds = np.array([labels[i] for i in ids.tolist()])
    rest, scaled, z = weights / own_head, c / np.sqrt(np.mean(c**2)), logit(own_head)

    def auc(score, kind):
        return by_kind(score, kinds)[kind]["auc"]

    detectors = [("teacher", -z, 1 - weights), ("own", c, None)]
    detectors += [(f"b = {b}", b * scaled - z, 1 - expit(z - b * scaled) * rest) for b in STRENGTHS if b]
    rows = []
    for name, of_head, whole in detectors:
        row = {"run": run.name, "pairs": len(ids), "detector": name, f"{head}, head": auc(of_head, head)}
        if whole is not None:
            row |= {f"{head}, weight": auc(whole, head), "all noise, weight": auc(whole, ALL)}
        rows.append(row)
    groups = {
        "clean, put down": (kinds == CLEAN) & (own_head < PUT_DOWN),
        "clean, kept": (kinds == CLEAN) & (own_head >= PUT_DOWN),
        f"{head}, put down": (kinds == head) & (own_head < PUT_DOWN),
        f"{head}, kept": (kinds == head) & (own_head >= PUT_DOWN),
    }
    means = [
        {"run": run.name, "group": name, "pairs": int(some.sum()), "mean influence": float(c[some].mean()),
         "its standard error": float(c[some].std() / some.sum() ** 0.5)}
        for name, some in groups.items() if some.any()
    ]  # fmt: skip
    return rows, means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trainings")
    parser.add_argument("--labels", required=True, help="raw line and kind of noise, as `fairseq-l2rw corrupt` writes them")
    parser.add_argument("--head", default="misaligned", help="whose influences (default: %(default)s)")
    parser.add_argument("--since", type=int, default=2000, help="the first update that counts (default: %(default)s)")
    parser.add_argument("--out", default="own_influence.json", help="JSON file (default: %(default)s)")
    args = parser.parse_args()
    labels = read_labels(args.labels)
    detectors, groups = [], []
    for run in args.runs:
        rows, means = measure(run, labels, args.head, args.since)
        detectors, groups = detectors + rows, groups + means
    write_json(args.out, {**vars(args), "runs": [str(run) for run in args.runs]}, {"detectors": detectors, "groups": groups})
    print(table(detectors), table(groups), sep="\n\n")


if __name__ == "__main__":
    main()
