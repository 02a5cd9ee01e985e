"""The influence log summed up: one number a pair, what it did to the dev objective over the whole training.

    gain_i = - sum over teacher updates t with pair i in the batch of  w_i(t) c_i(t) / W(t)       (nats per token)

To first order it is the part of pair i in the fall of the dev objective at those updates: above zero for a pair that helped,
0 for one that no teacher update saw. It is signed so that the better pair has the higher number, as weights have. With
several heads, the objectives J_k of all of them are added. It covers what was logged: every --meta-interval-th update.
"""

import itertools
import os
import tempfile
from typing import IO, Dict, List, Mapping, Optional, Sequence, Tuple

from fairseq_l2rw.corpus.influence_log import Row, read_log
from fairseq_l2rw.errors import L2RWError

BLOCK = 20_000  # rows of the log taken together
NUMBER = "gain"


class InfluenceSum:
    """Sums over a log. They lie in nameless files on the disk: memory grows neither with the log nor with the corpus.

    (A map of such a file would: every page that was touched stays in memory.)

    Args:
        path: the log.
        lines: number of raw lines of the corpus.
        folder: where the files may lie, 24 bytes a line and head.

    Attributes:
        heads: those in the log, in the order of their first turn.

    Raises:
        L2RWError: no log, or one of a larger corpus.
    """

    RECORD = 3 * 8  # of one line: updates, sum of its weights, sum of its gains; float64

    def __init__(self, path: str, lines: int, folder: Optional[str] = None):
        self._lines, self._path, self._folder = lines, path, folder
        self._files: Dict[str, IO[bytes]] = {}
        rows = read_log(path)
        while block := list(itertools.islice(rows, BLOCK)):
            for head in dict.fromkeys(row.head for row in block):
                self._add(head, [row for row in block if row.head == head])

    @property
    def heads(self) -> Tuple[str, ...]:
        return tuple(self._files)

    def _file(self, head: str) -> int:
        if head not in self._files:
            self._files[head] = tempfile.TemporaryFile(dir=self._folder)
            self._files[head].truncate(self._lines * self.RECORD)  # a hole: zeros
        return self._files[head].fileno()

    def _add(self, head: str, rows: Sequence[Row]) -> None:
        import numpy as np

        ids, where = np.unique([row.id for row in rows], return_inverse=True)
        if ids[-1] >= self._lines:
            raise L2RWError(f"{self._path}: has pair {ids[-1]}, and the corpus {self._lines} lines; it belongs to another corpus")
        sums = np.zeros((len(ids), 3))
        np.add.at(sums, where, [(1.0, row.weight, -row.share) for row in rows])
        file, size = self._file(head), self.RECORD
        before = b"".join(os.pread(file, size, number * size) for number in ids.tolist())
        after = (sums + np.frombuffer(before).reshape(-1, 3)).tobytes()
        for row, number in enumerate(ids.tolist()):
            os.pwrite(file, after[row * size : (row + 1) * size], number * size)

    @property
    def columns(self) -> Tuple[str, ...]:
        """Names of all columns of a row."""
        heads = [f"{NUMBER}_{head}" for head in self.heads]
        return ("id", NUMBER, *heads, "updates", "mean_weight", "reason", "source", "target")

    def score(self, lines: Sequence) -> List[Optional[Mapping[str, str]]]:
        """The cells of each of some lines that follow each other; None where it has a reason."""
        import numpy as np

        sums = np.zeros((len(lines), 0, 3))
        if lines and self.heads:
            first, size = lines[0].number * self.RECORD, len(lines) * self.RECORD
            read = [np.frombuffer(os.pread(file.fileno(), size, first)) for file in self._files.values()]
            sums = np.stack([column.reshape(-1, 3) for column in read], axis=1)
        return [None if line.reason else self._cells(own) for line, own in zip(lines, sums.tolist())]

    def _cells(self, sums: Sequence[Sequence[float]]) -> Dict[str, str]:
        """Args: for each head, updates, sum of weights, sum of gains."""
        updates, weights, gain = (sum(column) for column in zip((0.0, 0.0, 0.0), *sums))
        cells = {NUMBER: f"{gain:.6g}", "updates": f"{updates:.0f}"}
        cells.update({f"{NUMBER}_{head}": f"{own[2]:.6g}" for head, own in zip(self.heads, sums)})
        if updates:
            cells["mean_weight"] = f"{weights / updates:.6g}"
        return cells
