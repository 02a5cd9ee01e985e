"""Files with a number for every raw line: how ``weights`` writes them and ``filter`` reads them.

============ =====================================================================================================
``tsv``      a header, then one row a line: id, the number, what it is made of, the reason why a line has none, text
``scores``   the number alone: what Marian's ``--data-weighting`` and OpusFilter read
``append``   the input's line (or source, tab, target), a tab and the number, as bicleaner writes it
============ =====================================================================================================
"""

import math
from dataclasses import dataclass
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from fairseq_l2rw.corpus.bitext import read_lines
from fairseq_l2rw.errors import L2RWError

FORMATS = ("tsv", "scores", "append")
NUMBERS = ("weight", "gain")  # columns that say how good a pair is, the first that is there counts


@dataclass(frozen=True)
class Layout:
    """What is written of a line.

    Attributes:
        format: one of FORMATS.
        number: the column that says how good a pair is.
        columns: of ``tsv``, in their order.
    """

    format: str
    number: str
    columns: Tuple[str, ...]

    @property
    def header(self) -> str:
        return "\t".join(self.columns) + "\n" if self.format == "tsv" else ""

    def text(self, lines: Iterable, cells: Iterable[Optional[Mapping[str, str]]]) -> str:
        """The rows of some lines.

        Args:
            lines: objects with ``number``, ``source``, ``target``, ``reason`` and ``original``.
            cells: of each line, column -> text; None where there is a reason.
        """
        return "".join(self._row(line, own or {self.number: "0"}) + "\n" for line, own in zip(lines, cells))

    def _row(self, line, cells: Mapping[str, str]) -> str:
        if self.format == "scores":
            return cells[self.number]
        if self.format == "append":
            given = f"{cell(line.source)}\t{cell(line.target)}" if line.original is None else line.original
            return f"{given}\t{cells[self.number]}"
        return "\t".join(self._cell(name, line, cells) for name in self.columns)

    @staticmethod
    def _cell(name: str, line, cells: Mapping[str, str]) -> str:
        if name == "id":
            return str(line.number)
        if name == "reason":
            return line.reason or ""
        if name in ("source", "target"):
            return cell(getattr(line, name))
        return cells.get(name, "")


def choose_columns(wanted: Optional[str], available: Sequence[str]) -> Tuple[str, ...]:
    """The columns that ``--columns`` names, all of them without it.

    Raises:
        L2RWError: one that there is not.
    """
    columns = tuple(available) if wanted is None else tuple(name.strip() for name in wanted.split(","))
    for name in columns:
        if name not in available:
            raise L2RWError(f"--columns: no column '{name}'; choose from {', '.join(available)}")
    return columns


def cell(text: str) -> str:
    """A sentence as one cell: a tab, and what many programs take for a line end, become spaces."""
    return text.replace("\t", " ").replace("\r", " ")


@dataclass(frozen=True)
class Score:
    """What a score file says of a line.

    Attributes:
        value: the higher the better; finite.
        reason: why the line has no weight; empty where it has one.
        heads: head -> its part in the weight; empty where the file does not say.
    """

    value: float
    reason: str
    heads: Dict[str, float]


def read_scores(path: str, column: Optional[str] = None) -> Iterator[Score]:
    """The numbers of a score file, line by line; which format it has, is seen from its first line.

    Args:
        path: the file.
        column: of a ``tsv``, the column to take; default: the first of NUMBERS that is there.

    Raises:
        L2RWError: a line without a number, lines that are missing, a column that is not there.
    """
    lines = read_lines(path)
    first = next(lines, None)
    if first is None:
        raise L2RWError(f"{path}: empty; give a file that 'fairseq-l2rw weights' has written")
    header = first.split("\t")
    if _is_number(header[-1]):
        if column is not None:
            raise L2RWError(f"--column {column}: {path} has no header with names of columns; leave it out")
        yield Score(_number(path, 1, header[-1]), "", {})
        for row, line in enumerate(lines, start=2):
            yield Score(_number(path, row, line.rpartition("\t")[2]), "", {})
        return
    wanted = (column,) if column is not None else NUMBERS
    name = next((name for name in wanted if name in header), None)
    if name is None:
        raise L2RWError(f"{path}, line 1: no column {' or '.join(wanted)}, but {', '.join(header)}; choose with --column")
    yield from _rows(path, lines, header, name)


def _rows(path: str, lines: Iterable[str], header: List[str], name: str) -> Iterator[Score]:
    at, places = header.index(name), {column: place for place, column in enumerate(header)}
    heads = {column[len(name) + 1 :]: place for column, place in places.items() if column.startswith(name + "_")}
    for row, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != len(header):
            raise L2RWError(f"{path}, line {row}: {len(cells)} cells under {len(header)} columns; write the file again")
        if "id" in places and cells[places["id"]] != str(row - 2):
            raise L2RWError(
                f"{path}, line {row}: id {cells[places['id']]}, and {row - 2} is expected; there must be a row for every raw "
                "line: join all shards, in their order"
            )
        reason = cells[places["reason"]] if "reason" in places else ""
        if reason:
            yield Score(0.0, reason, {})
        else:
            own = {head: _number(path, row, cells[place]) for head, place in heads.items()}
            yield Score(_number(path, row, cells[at]), "", own)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(path: str, row: int, text: str) -> float:
    value = float(text) if _is_number(text) else math.nan
    if not math.isfinite(value):
        raise L2RWError(f"{path}, line {row}: {text[:40]!r} is no number; write the file again")
    return value
