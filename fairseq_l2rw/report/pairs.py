"""The table that ``fairseq-l2rw weights`` writes: weights of all pairs in memory, text of a few."""

from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from fairseq_l2rw.corpus.bitext import read_lines
from fairseq_l2rw.errors import L2RWError

CLEAN = "clean"  # the label of pairs that nothing was done to
UNKNOWN = "no label"
OTHERS = "other labels"
MAX_KINDS = 8  # told apart, by colour too; pairs with further labels are counted together
_HEAD = "weight_"


class Labels:
    """Noise label of each raw line, as a number: the same ones, and colours, for everything that is shown of a run.

    Args:
        labels: label of each raw line.

    Attributes:
        names: `CLEAN`, the most frequent others, `OTHERS` for the rest, and `UNKNOWN` for lines without one.
    """

    def __init__(self, labels: Mapping[int, str]):
        common = [name for name, _ in Counter(labels.values()).most_common() if name != CLEAN]
        told_apart = common if len(common) <= MAX_KINDS - 2 else [*common[: MAX_KINDS - 3], OTHERS]
        self.names: Tuple[str, ...] = (CLEAN, *told_apart, UNKNOWN)
        self._labels, self._numbers = labels, {name: number for number, name in enumerate(self.names)}

    def number(self, line: int) -> int:
        """Index into `names` of a raw line's label."""
        return self._numbers.get(self._labels.get(line, UNKNOWN), self._numbers.get(OTHERS, 0))


@dataclass(frozen=True)
class Pair:
    """One row with its text.

    Attributes:
        id: raw line, from 0.
        weight: w_i.
        head: name and weight of the head that thinks least of the pair; None where there is only one.
        loss: nats per target token; None where the table has none.
        kind: noise label; empty where there are no labels.
        source, target: text; empty where the table has none.
    """

    id: str
    weight: float
    head: Optional[Tuple[str, float]]
    loss: Optional[float]
    kind: str
    source: str
    target: str


@dataclass(frozen=True)
class PairTable:
    """The columns of a table, one entry a pair, about 30 bytes each; the text stays in the file.

    Attributes:
        path: the file.
        weights: w_i, ``[N]``.
        heads: name of a head -> w_i^k, ``[N]``; empty for one head.
        losses: nats per target token, ``[N]``; empty where the table has none.
        lengths: of the target, ``[N]``: words, or characters in a script without spaces; empty without text.
        length_unit: ``words`` or ``characters``.
        kinds: `Labels.names`, not all of which need have pairs; empty where there are no labels.
        kind: index into `kinds`, ``[N]``.
        dropped: reason -> number of pairs that were dropped before training; they are in no other column.
    """

    path: str
    weights: np.ndarray
    heads: Dict[str, np.ndarray]
    losses: np.ndarray
    lengths: np.ndarray
    length_unit: str
    kinds: Tuple[str, ...]
    kind: np.ndarray
    dropped: Mapping[str, int]

    def of_kind(self, kind: str) -> np.ndarray:
        """Mask of the pairs with this label."""
        return self.kind == self.kinds.index(kind)

    def spoilt(self) -> np.ndarray:
        """Mask of the pairs with any label but `CLEAN`."""
        return ~(self.of_kind(CLEAN) | self.of_kind(UNKNOWN))

    def auc(self, kind: Optional[str] = None) -> Optional[float]:
        """Area under the ROC curve of 1 - w as a detector of `kind` (default: of all noise) among it and the clean pairs.

        None where there are no pairs of one side.
        """
        from sklearn.metrics import roc_auc_score

        if not self.kinds:
            return None
        clean = self.of_kind(CLEAN)
        noise = self.spoilt() if kind is None else self.of_kind(kind)
        both = clean | noise
        return float(roc_auc_score(noise[both], -self.weights[both])) if noise.any() and clean.any() else None


def read_table(path: str, labels: Optional[Labels] = None) -> PairTable:
    """Reads a table.

    Raises:
        L2RWError: no such table.
    """
    rows = _Rows(path)
    weights, losses, words, characters, kind = (array(code) for code in "ffIIB")
    heads = {name: array("f") for name in rows.heads}
    dropped: Counter = Counter()
    for cells in rows:
        if rows.text(cells, "reason"):
            dropped[rows.text(cells, "reason")] += 1
            continue
        weights.append(rows.number(cells, "weight"))
        for name, column in heads.items():
            column.append(rows.number(cells, _HEAD + name))
        if "loss" in rows.columns:
            losses.append(rows.number(cells, "loss"))
        if "target" in rows.columns:
            target = rows.text(cells, "target")
            words.append(len(target.split()))
            characters.append(len(target))
        if labels is not None:
            kind.append(labels.number(int(rows.number(cells, "id"))))
    if not weights:
        raise L2RWError(f"{path}: no pairs in it; write it again with 'fairseq-l2rw weights'")
    spaceless = sum(characters) > 15 * sum(words)  # a word has 5 or 6 characters, a Chinese sentence no spaces
    return PairTable(
        path, np.array(weights), {name: np.array(column) for name, column in heads.items()}, np.array(losses),
        np.array(characters if spaceless else words), "characters" if spaceless else "words", labels.names if labels else (),
        np.array(kind), dropped,
    )  # fmt: skip


def lowest(table: PairTable, count: int, mask: Optional[np.ndarray] = None) -> List[int]:
    """Rows of the `count` lowest weights, lowest first; only of those in `mask`."""
    rows = np.arange(len(table.weights)) if mask is None else np.flatnonzero(mask)
    if len(rows) > count:
        rows = rows[np.argpartition(table.weights[rows], count)[:count]]
    return rows[np.argsort(table.weights[rows], kind="stable")].tolist()


def highest(table: PairTable, count: int, mask: Optional[np.ndarray] = None) -> List[int]:
    """Rows of the `count` highest weights, highest first; only of those in `mask`."""
    rows = np.arange(len(table.weights)) if mask is None else np.flatnonzero(mask)
    if len(rows) > count:
        rows = rows[np.argpartition(-table.weights[rows], count)[:count]]
    return rows[np.argsort(-table.weights[rows], kind="stable")].tolist()


def read_pairs(table: PairTable, rows: Iterable[int]) -> Dict[int, Pair]:
    """Row -> pair with its text, for a few rows of the table."""
    wanted, found = set(rows), {}
    reader = _Rows(table.path)
    kept = (cells for cells in reader if not reader.text(cells, "reason"))
    for row, cells in enumerate(kept):
        if row in wanted:
            head = min(
                ((name, float(column[row])) for name, column in table.heads.items()), key=lambda h: h[1], default=None
            )
            found[row] = Pair(
                id=reader.text(cells, "id"),
                weight=float(table.weights[row]),
                head=head,
                loss=float(table.losses[row]) if len(table.losses) else None,
                kind=table.kinds[table.kind[row]] if table.kinds else "",
                source=reader.text(cells, "source"),
                target=reader.text(cells, "target"),
            )
            if len(found) == len(wanted):
                break
    return found


class _Rows:
    """The rows of a table as lists of cells, checked against its header."""

    def __init__(self, path: str):
        self.path, self.number_of_line = path, 1
        self._lines = read_lines(path)
        self.columns: Dict[str, int] = {name: i for i, name in enumerate(next(self._lines, "").split("\t"))}
        if not {"id", "weight"} <= self.columns.keys():
            raise L2RWError(f"{path}, line 1: no columns 'id' and 'weight'; give a table of 'fairseq-l2rw weights'")
        heads = [name.removeprefix(_HEAD) for name in self.columns if name.startswith(_HEAD)]
        self.heads: Sequence[str] = heads if len(heads) > 1 else ()

    def __iter__(self) -> Iterator[List[str]]:
        for self.number_of_line, line in enumerate(self._lines, start=2):
            cells = line.split("\t")
            if len(cells) != len(self.columns):
                raise self._error(f"{len(cells)} cells, the header has {len(self.columns)}")
            yield cells

    def text(self, cells: List[str], column: str) -> str:
        return cells[self.columns[column]] if column in self.columns else ""

    def number(self, cells: List[str], column: str) -> float:
        try:
            return float(self.text(cells, column))
        except ValueError as error:
            raise self._error(f"{self.text(cells, column)[:40]!r} is no number for {column}") from error

    def _error(self, what: str) -> L2RWError:
        return L2RWError(f"{self.path}, line {self.number_of_line}: {what}; write it again with 'fairseq-l2rw weights'")
