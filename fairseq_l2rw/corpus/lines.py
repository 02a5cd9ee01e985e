"""What is known of raw lines by their number: where a binarised pair came from, and its noise label."""

import itertools
import os
from typing import Dict, Iterator

from fairseq_l2rw.corpus.bitext import read_lines
from fairseq_l2rw.errors import L2RWError


def raw_line_numbers(data: str, split: str) -> Iterator[int]:
    """Raw line number of each pair of a binarised split, in order.

    Only the training side is cleaned, so every other split is numbered 0, 1, 2, ... without end.

    Args:
        data: a folder that ``prepare`` has made.
        split: name of the split.
    """
    path = os.path.join(data, f"{split}.lines")
    return map(int, read_lines(path)) if os.path.exists(path) else itertools.count()


def read_labels(path: str) -> Dict[int, str]:
    """Kind of noise of each raw line, from a TSV with the columns ``id`` and ``kind``.

    Raises:
        L2RWError: the file has no such columns, or a line that does not fit them.
    """
    lines = read_lines(path)
    header = next(lines, "").split("\t")
    if not {"id", "kind"} <= set(header):
        raise L2RWError(f"{path}, line 1: no columns 'id' and 'kind'; give a label file as 'fairseq-l2rw corrupt' writes it")
    id_column, kind_column, labels = header.index("id"), header.index("kind"), {}
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != len(header) or not cells[id_column].isdecimal():
            raise L2RWError(f"{path}, line {number}: not {len(header)} cells with a line number as id; write the file again")
        labels[int(cells[id_column])] = cells[kind_column]
    return labels
