"""A score of pairs as a detector of noise, by kind."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
from sklearn.metrics import roc_auc_score

CLEAN = "clean"
ALL = "all"


def by_kind(scores: Sequence[float], kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """How well a score, high for noise, tells each kind of noise from the clean pairs.

    Args:
        scores: one a pair.
        kinds: ``clean``, or the kind of noise.

    Returns:
        kind, and ``all`` -> ``pairs``, ``mean`` of the score, ``auc`` (area under the ROC curve) and ``snr`` (signal-to-noise
        ratio: difference of the means over the root of the mean variance). Of ``clean``, the first two only.
    """
    scores, kinds = np.asarray(scores, float), np.asarray(kinds)
    clean = scores[kinds == CLEAN]
    result = {}
    for kind in [*sorted(set(kinds.tolist())), ALL]:
        some = scores[kinds == kind] if kind != ALL else scores[kinds != CLEAN]
        entry = {"pairs": len(some), "mean": float(some.mean()) if len(some) else None}
        if kind != CLEAN and len(some) and len(clean):
            labels = np.r_[np.ones(len(some)), np.zeros(len(clean))]
            entry["auc"] = float(roc_auc_score(labels, np.r_[some, clean]))
            spread = ((some.var() + clean.var()) / 2) ** 0.5
            entry["snr"] = float((some.mean() - clean.mean()) / spread) if spread > 0 else None
        result[kind] = entry
    return result


def weights_by_kind(weights: Sequence[float], kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """The same for 1 - weight as a score, with the mean of the weights, and the effective sample size of the clean pairs."""
    weights = np.asarray(weights, float)
    result = by_kind(1 - weights, kinds)
    for entry in result.values():
        entry["mean"] = None if entry["mean"] is None else 1 - entry["mean"]
    clean = weights[np.asarray(kinds) == CLEAN]
    if len(clean) and clean.any():
        result[CLEAN]["ess"] = float(clean.sum() ** 2 / (len(clean) * (clean**2).sum()))
    return result


def read_weights(path: Path, *columns: str) -> tuple[np.ndarray, ...]:
    """Raw lines and weights of a file of ``fairseq-l2rw weights``, and any other columns of numbers; lines without one of them are
    left out."""
    opened = gzip.open(path, "rt", encoding="utf-8", newline="") if path.suffix == ".gz" else open(path, encoding="utf-8", newline="")
    with opened as handle:
        rows = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = ("weight", *columns)
        pairs = [(int(row["id"]), *(float(row[name]) for name in names)) for row in rows if all(_is_number(row[name]) for name in names)]
    ids, *numbers = zip(*pairs) if pairs else ((),) * (1 + len(names))
    return np.array(ids, dtype=np.int64), *map(np.array, numbers)


def over_time(rows, labels: Mapping[int, str], width: int) -> list[dict]:
    """Weights and influences by kind over the training, from the rows of an influence log.

    Args:
        rows: as :class:`~fairseq_l2rw.corpus.influence_log.Row`, in the order of the training.
        labels: raw line -> kind.
        width: student updates that are taken together.

    Returns:
        One entry for each stretch: ``update`` (its end), ``kinds``, as :func:`weights_by_kind`, and ``influences``: for each head that had turns
        there, as :func:`by_kind` of the influences c_i, nats, in units of their standard deviation in the stretch.
    """
    stretches: dict[int, list] = {}
    for row in rows:
        stretches.setdefault(-(-row.update // width), []).append((row.head, row.weight, row.influence, labels[row.id]))
    return [{"update": n * width, **_stretch(some)} for n, some in sorted(stretches.items())]


def _stretch(rows: list[tuple[str, float, float, str]]) -> dict:
    heads, weights, influences, kinds = map(np.array, zip(*rows))
    out: dict = {"kinds": weights_by_kind(weights, kinds), "influences": {}}
    for head in sorted(set(heads.tolist())):
        own = influences[heads == head]
        out["influences"][head] = by_kind(own / (own.std() or 1.0), kinds[heads == head])
    return out


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and np.isfinite(float(text))
    except ValueError:
        return False
