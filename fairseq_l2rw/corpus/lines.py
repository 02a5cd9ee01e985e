"""What is known of raw lines by their number: where a binarised pair came from, why a line was dropped, its noise label.

The map that `prepare` writes for the training split (the only one that is cleaned), raw lines counted from 0:

* ``train.lines.npy``: int64 [pairs], ascending; entry g is the raw line of binarised pair g. Read with
  ``numpy.load(path, mmap_mode="r")``, it takes no memory and any entry is found at once.
* ``train.dropped.tsv``: columns ``id`` (raw line, ascending) and ``reason``, for the lines that are in no binarised pair.

The two together name every raw line once. With ``prepare --shards N`` pair g lies in the folder ``shard{g % N}`` at row
``g // N``; each of these folders has a ``train.lines.npy`` of its own rows, with the same raw line numbers, so that an
id is unique over all of them.
"""

import heapq
import itertools
import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from fairseq_l2rw.corpus.bitext import read_lines
from fairseq_l2rw.errors import L2RWError

RECORD = "prepare.json"


class RawLine(NamedTuple):
    """One raw line: its number, and either the number of its binarised pair or the reason why there is none."""

    number: int
    pair: Optional[int]
    reason: Optional[str]


def data_folder(data: str) -> str:
    """The folder that `prepare` made, for that folder itself, one of its shards, or several joined by ``:``."""
    first = data.split(os.pathsep)[0]
    parent = os.path.dirname(os.path.abspath(first))
    if not os.path.exists(os.path.join(first, RECORD)) and os.path.exists(os.path.join(parent, RECORD)):
        return parent
    return first


def line_map(data: str, split: str):
    """Raw line number of each pair of a binarised split: int64 [pairs], read from disk as it is used.

    Args:
        data: a folder that `prepare` has made, or one of its shards.
        split: name of the split.

    Returns:
        A read-only memory map; None where the split was not cleaned, so that pair g is raw line g.
    """
    import numpy as np

    path = os.path.join(data, f"{split}.lines.npy")
    return np.load(path, mmap_mode="r") if os.path.exists(path) else None


def raw_line_numbers(data: str, split: str) -> Iterator[int]:
    """Raw line number of each pair of a binarised split, in order; 0, 1, 2, ... without end where it was not cleaned."""
    numbers = line_map(data, split)
    return map(int, numbers) if numbers is not None else itertools.count()


def dropped_lines(data: str, split: str) -> Iterator[Tuple[int, str]]:
    """Raw line number and reason of each pair of a split that was cleaned away, in order.

    Raises:
        L2RWError: a line of the file is not a number and a reason.
    """
    path = os.path.join(data, f"{split}.dropped.tsv")
    if not os.path.exists(path):
        return
    for row, line in enumerate(itertools.islice(read_lines(path), 1, None), start=2):
        number, tab, reason = line.partition("\t")
        if not (tab and number.isdecimal()):
            raise L2RWError(f"{path}, line {row}: not a line number and a reason; prepare the folder again")
        yield int(number), reason


def raw_lines(data: str, split: str) -> Iterator[RawLine]:
    """Every raw line of a split in order, kept or dropped; without end where the split was not cleaned."""
    kept = (RawLine(number, pair, None) for pair, number in enumerate(raw_line_numbers(data, split)))
    dropped = (RawLine(number, None, reason) for number, reason in dropped_lines(data, split))
    return heapq.merge(kept, dropped, key=lambda line: line.number)


def read_labels(path: str) -> Dict[int, str]:
    """Kind of noise of each raw line; see `iter_labels`."""
    return dict(iter_labels(path))


def iter_labels(path: str) -> Iterator[Tuple[int, str]]:
    """Raw line number and kind of noise, from a TSV with the columns ``id`` and ``kind``.

    Raises:
        L2RWError: the file is missing or has no such columns (at once), or a line does not fit them (on reading it).
    """
    lines = read_lines(path)
    header = next(lines, "").split("\t")
    if not {"id", "kind"} <= set(header):
        raise L2RWError(
            f"{path}, line 1: no columns 'id' and 'kind'; give a label file as 'fairseq-l2rw corrupt' writes it"
        )
    return _label_rows(path, lines, header)


def _label_rows(path: str, lines: Iterator[str], header: List[str]) -> Iterator[Tuple[int, str]]:
    id_column, kind_column = header.index("id"), header.index("kind")
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != len(header) or not cells[id_column].isdecimal():
            raise L2RWError(
                f"{path}, line {number}: not {len(header)} cells with a line number as id; write the file again"
            )
        yield int(cells[id_column]), cells[kind_column]
