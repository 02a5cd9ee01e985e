"""What a score file says in a few numbers: lines dropped, means, and how well the numbers tell noise from clean pairs."""

import math
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Tuple

from fairseq_l2rw.errors import L2RWError

CLEAN = "clean"
BINS = 40_000  # of the histogram that the area under the ROC curve is taken from: steps of 0.001 of the logit


class ScoreSummary:
    """Sums over rows; constant memory, plain JSON.

    Args:
        number: the column that is summed up.
        labels: raw line and kind of noise, ascending; None without labels.
        labels_path: where they come from, for messages.
    """

    def __init__(self, number: str, labels: Optional[Iterator[Tuple[int, str]]] = None, labels_path: str = ""):
        self._number, self._labels, self._path = number, labels, labels_path
        self._kinds: Dict[str, Dict[str, Any]] = {}
        self._dropped: Dict[str, int] = {}

    def add(self, lines: Sequence[Any], cells: Iterable[Optional[Mapping[str, str]]]) -> None:
        """Takes in the rows of the lines (see ``scoring``)."""
        for line, own in zip(lines, cells):
            kind = self._kind(line.number)
            if own is None:
                self._dropped[line.reason] = self._dropped.get(line.reason, 0) + 1
                continue
            entry = self._kinds.setdefault(kind, {"pairs": 0, "sum": 0.0, "bins": {}})
            value = float(own[self._number])
            entry["pairs"] += 1
            entry["sum"] += value
            if self._labels is not None:
                where = str(_bin(value))
                entry["bins"][where] = entry["bins"].get(where, 0) + 1

    def _kind(self, number: int) -> str:
        if self._labels is None:
            return ""
        for labelled, kind in self._labels:
            if labelled == number:
                return kind
            if labelled > number:
                break
        raise L2RWError(f"{self._path}: no label of raw line {number} (id counts from 0, ascending); it belongs to another corpus")

    def state_dict(self) -> Dict[str, Any]:
        return {"kinds": self._kinds, "dropped": self._dropped}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self._kinds, self._dropped = state["kinds"], state["dropped"]

    def result(self) -> Dict[str, Any]:
        """Pairs, dropped lines and mean; with labels also pairs, mean and AUC of each kind and of all noise.

        AUC: of the number as a detector of clean pairs, from a histogram.
        """
        pairs = sum(entry["pairs"] for entry in self._kinds.values())
        total = sum(entry["sum"] for entry in self._kinds.values())
        result: Dict[str, Any] = {"pairs": pairs, "dropped": self._dropped, "mean": total / pairs if pairs else None}
        if self._labels is None:
            return result
        noise = [kind for kind in sorted(self._kinds) if kind != CLEAN]
        result["kinds"] = {}
        for kind in sorted(self._kinds):
            entry = self._kinds[kind]
            result["kinds"][kind] = {"pairs": entry["pairs"], "mean": entry["sum"] / entry["pairs"]}
            if kind != CLEAN and CLEAN in self._kinds:
                result["kinds"][kind]["auc"] = self._auc([kind])
        result["auc"] = self._auc(noise) if noise and CLEAN in self._kinds else None
        return result

    def _auc(self, noise: Sequence[str]) -> float:
        from sklearn.metrics import roc_auc_score

        rows = [(CLEAN, True), *((kind, False) for kind in noise)]
        bins = [(clean, int(where), count) for kind, clean in rows for where, count in self._kinds[kind]["bins"].items()]
        clean, where, counts = zip(*bins)
        return float(roc_auc_score(clean, where, sample_weight=counts))


def _bin(value: float) -> int:
    """Its place in the histogram: of weights by their logit, of other numbers by their sign and magnitude."""
    if not 0 <= value <= 1:
        return int(math.copysign(BINS + 1000 * math.log1p(abs(value) * 1e9), value))
    logit = math.log(value / (1 - value)) if 0 < value < 1 else math.copysign(math.inf, value - 0.5)
    return round(max(-20.0, min(20.0, logit)) * BINS / 40)
