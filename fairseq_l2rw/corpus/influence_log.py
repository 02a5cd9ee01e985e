"""The influence log: what every teacher update found out about every pair of its batch.

A gzip file of tab-separated text (``zcat``, pandas and the like read it as it is), one row for each teacher update and pair:

========== ==========================================================================================
update     student updates that were done when the teacher was updated, as in fairseq's log
id         raw line of the pair, from 0 (its number in the binarised split where ``prepare`` left no map)
head       the head that had its turn, a kind of noise, or ``loss``
weight     w_i in the student's step, the product of all heads
influence  c_i, nats: below zero for a pair that lowers the head's dev objective J_k
share      w_i c_i / W, nats per token: the part of the pair in what the student's step did to J_k, to
           first order; the shares of one update sum to the predicted change of J_k
========== ==========================================================================================

With ``--meta-momentum``, J_k is the running average of the dev objective; with ``--meta-gradient unrolled`` and
``--weight-normalization batch``, c_i is relative to the weighted mean.

**Kill and resume.** Rows are gathered into gzip members, each written in one piece. A checkpoint notes the length and
the checksum of the file at that time; a resumed training checks them and cuts off what was written later, a torn end
included. So no row is there twice, and none is missing that the checkpoint has lived through.
"""

import atexit
import gzip
import logging
import os
import zlib
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Sequence

from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)

COLUMNS = ("update", "id", "head", "weight", "influence", "share")
MEMBER = 1 << 20  # bytes of text gathered into a gzip member: small enough to follow a run, large enough to compress
OPTION = "--influence-log"


@dataclass(frozen=True)
class Row:
    """One row of the log; see the table above."""

    update: int
    id: int
    head: str
    weight: float
    influence: float
    share: float


def check_log_name(path: str) -> None:
    """Raises L2RWError where `path` is no name for a log."""
    if not path.endswith(".gz"):
        raise L2RWError(f"{OPTION} {path}: the log is compressed with gzip; give a name that ends in .gz")
    if os.path.isdir(path):
        raise L2RWError(f"{OPTION} {path}: a folder; give the name of a file, for example {path}/influence.tsv.gz")


class InfluenceLog:
    """Writes the log of one training.

    Args:
        path: name of the file, ending in ``.gz``.
        state: what :meth:`state_dict` gave when the checkpoint was saved from which the training goes on; None where
            there is none. Then a file of that name is moved to ``PATH.old``.

    Raises:
        L2RWError: the file is not what it was at the time of the checkpoint.
    """

    def __init__(self, path: str, state: Optional[Dict[str, int]] = None):
        check_log_name(path)
        self.path = path
        self._lines: List[str] = []
        self._size = 0
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if state is not None and os.path.exists(path):
            self._go_on(state)
        else:
            self._begin(state)
        atexit.register(self.flush)

    def _begin(self, state: Optional[Dict[str, int]]) -> None:
        if state is not None:
            logger.warning("%s %s: a new file; what the training logged before is not in it", OPTION, self.path)
        elif os.path.exists(self.path):
            os.replace(self.path, self.path + ".old")
            logger.warning("%s %s: there was a file of that name; it is now %s.old", OPTION, self.path, self.path)
        self._bytes, self._checksum = 0, 0
        with open(self.path, "wb"):
            pass
        self._add("\t".join(COLUMNS) + "\n")
        self.flush()

    def _go_on(self, state: Dict[str, int]) -> None:
        self._bytes, self._checksum = state["bytes"], state["checksum"]
        with open(self.path, "r+b") as handle:
            if _checksum(handle, self._bytes) != self._checksum:
                raise L2RWError(
                    f"{OPTION} {self.path}: not the file that the training was writing when its checkpoint was saved; "
                    "put that one back, or give another name"
                )
            handle.truncate(self._bytes)

    def write(
        self,
        update: int,
        head: str,
        ids: Sequence[int],
        weights: Sequence[float],
        influence: Sequence[float],
        shares: Sequence[float],
    ) -> None:
        """Adds the rows of one teacher update."""
        rows = zip(ids, weights, influence, shares)
        self._add("".join(f"{update}\t{i}\t{head}\t{w:.6g}\t{c:.6g}\t{s:.6g}\n" for i, w, c, s in rows))
        if self._size >= MEMBER:
            self.flush()

    def _add(self, text: str) -> None:
        self._lines.append(text)
        self._size += len(text)

    def flush(self) -> None:
        """Brings everything to the disk."""
        if not self._lines:
            return
        member = gzip.compress("".join(self._lines).encode(), mtime=0)
        self._lines, self._size = [], 0
        with open(self.path, "ab") as handle:
            handle.write(member)
            handle.flush()
            os.fsync(handle.fileno())
        self._bytes += len(member)
        self._checksum = zlib.crc32(member, self._checksum)

    def state_dict(self) -> Dict[str, int]:
        """Length and checksum of the file, which holds everything by then."""
        self.flush()
        return {"bytes": self._bytes, "checksum": self._checksum}


def read_log(path: str) -> Iterator[Row]:
    """The rows of a log, in the order of the training; a torn end (a run that is still going on, or was killed) is left out.

    Raises:
        L2RWError: no log, or a damaged one.
    """
    number = 0
    try:
        with gzip.open(path, "rb") as handle:
            for number, line in enumerate(_whole_lines(handle, path), start=1):
                cells = line.decode().rstrip("\n").split("\t")
                if number == 1:
                    if tuple(cells) != COLUMNS:
                        raise ValueError(f"columns {', '.join(cells)}")
                    continue
                update, pair, head, *numbers = cells
                yield Row(int(update), int(pair), head, *map(float, numbers))
    except (ValueError, TypeError, zlib.error, gzip.BadGzipFile) as error:
        raise L2RWError(f"{path}, row {number}: not a log of {OPTION} ({error}); give one that a training has written") from error
    if number == 0:
        raise L2RWError(f"{path}: an empty log; give one that a training has written with {OPTION}")


def _whole_lines(handle: Iterable[bytes], path: str) -> Iterator[bytes]:
    lines = iter(handle)
    while True:
        try:
            line = next(lines, b"")
        except EOFError:
            logger.warning("%s: the end is torn off (a training that still runs, or was killed); read up to there", path)
            return
        if not line.endswith(b"\n"):
            return
        yield line


def _checksum(handle, length: int) -> Optional[int]:
    """CRC-32 of the first `length` bytes; None where there are fewer."""
    checksum = 0
    while length:
        block = handle.read(min(length, 1 << 20))
        if not block:
            return None
        checksum, length = zlib.crc32(block, checksum), length - len(block)
    return checksum
