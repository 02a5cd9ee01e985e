"""The influence log summed up: one number a pair, what it did to the dev objective over the whole training.

    gain_i = - sum over teacher updates t with pair i in the batch of  w_i(t) c_i(t) / W(t)       (nats per token)

To first order it is the part of pair i in the fall of the dev objective at those updates: above zero for a pair that helped,
0 for one that no teacher update saw. It is signed so that the better pair has the higher number, as weights have. With
several heads, the objectives J_k of all of them are added. It covers what was logged: every --meta-interval-th update.
"""

import itertools
import os
import tempfile
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from fairseq_l2rw.corpus.influence_log import Row, read_log
from fairseq_l2rw.errors import L2RWError

BLOCK = 20_000  # rows of the log taken together
NUMBER = "gain"


class InfluenceSum:
    """Sums over a log. They lie in a nameless file on the disk: memory grows neither with the log nor with the corpus.

    Args:
        path: the log.
        lines: number of raw lines of the corpus.
        folder: where the file may lie.

    Attributes:
        heads: those in the log, in the order of their first turn.

    Raises:
        L2RWError: no log, or one of a larger corpus.
    """

    def __init__(self, path: str, lines: int, folder: Optional[str] = None):
        import numpy as np

        self.heads: List[str] = []
        self._lines, self._path = lines, path
        self._file = tempfile.TemporaryFile(dir=folder)
        self._sums: List["np.memmap"] = []  # updates, sum of weights, then one a head
        self._column(), self._column()
        rows = read_log(path)
        while block := list(itertools.islice(rows, BLOCK)):
            self._add(block)

    def _column(self):
        import numpy as np

        start = len(self._sums) * self._lines * 8
        os.ftruncate(self._file.fileno(), start + max(8, self._lines * 8))
        self._sums.append(np.memmap(self._file, np.float64, "r+", start, (self._lines,)) if self._lines else np.zeros(0))

    def _add(self, block: Sequence[Row]) -> None:
        import numpy as np

        ids = np.array([row.id for row in block])
        if ids.max() >= self._lines:
            raise L2RWError(f"{self._path}: has pair {ids.max()}, and the corpus {self._lines} lines; it belongs to another corpus")
        np.add.at(self._sums[0], ids, 1)
        np.add.at(self._sums[1], ids, [row.weight for row in block])
        for head in dict.fromkeys(row.head for row in block):
            if head not in self.heads:
                self.heads.append(head)
                self._column()
            own = [(row.id, -row.share) for row in block if row.head == head]
            where, gains = zip(*own)
            np.add.at(self._sums[2 + self.heads.index(head)], np.array(where), gains)

    @property
    def columns(self) -> Tuple[str, ...]:
        """Names of all columns of a row."""
        heads = [f"{NUMBER}_{head}" for head in self.heads]
        return ("id", NUMBER, *heads, "updates", "mean_weight", "reason", "source", "target")

    def score(self, lines: Sequence) -> List[Optional[Mapping[str, str]]]:
        """The cells of each line; None where it has a reason."""
        return [None if line.reason else self._cells(line.number) for line in lines]

    def _cells(self, number: int) -> Dict[str, str]:
        updates, weights, *gains = (float(column[number]) for column in self._sums)
        cells = {NUMBER: f"{sum(gains):.6g}", "updates": f"{updates:.0f}"}
        cells.update({f"{NUMBER}_{head}": f"{gain:.6g}" for head, gain in zip(self.heads, gains)})
        if updates:
            cells["mean_weight"] = f"{weights / updates:.6g}"
        return cells
