"""Keeps the best part of a raw bitext by the numbers that ``weights`` gives its lines.

Everything streams: the score file is read twice and the text once or twice; memory does not grow with the corpus.
"""

import itertools
import math
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from fairseq_l2rw.corpus.best_part import BestPart
from fairseq_l2rw.corpus.bitext import read_lines, read_pairs, writing
from fairseq_l2rw.corpus.lines import iter_labels
from fairseq_l2rw.corpus.score_files import Score, read_scores
from fairseq_l2rw.errors import L2RWError


@dataclass(frozen=True)
class Rule:
    """What is kept; one of the three is given.

    Attributes:
        keep: this part of the raw lines, those with the highest numbers.
        threshold: lines whose number is at least this.
        tokens: lines with the highest numbers, up to this many words of the target in all.
    """

    keep: Optional[float] = None
    threshold: Optional[float] = None
    tokens: Optional[int] = None


@dataclass(frozen=True)
class Text:
    """The raw bitext: a TSV file, or a source file and a target file.

    Attributes:
        paths: one or two.
        columns: of the TSV, those of source and target, from 1.
    """

    paths: Tuple[str, ...]
    columns: Tuple[int, int] = (1, 2)

    def lines(self) -> Iterator[Tuple[Tuple[str, ...], Tuple[str, str]]]:
        """(the line of each file as it stands, (source, target))."""
        if len(self.paths) == 2:
            yield from ((pair, pair) for pair in read_pairs(*self.paths))
            return
        for number, line in enumerate(read_lines(self.paths[0]), start=1):
            cells = line.split("\t")
            if len(cells) < max(self.columns):
                raise L2RWError(
                    f"{self.paths[0]}, line {number}: {len(cells)} columns, and column {max(self.columns)} is wanted; mend "
                    "the line, or name the columns with --scol and --tcol"
                )
            yield (line,), (cells[self.columns[0] - 1], cells[self.columns[1] - 1])


def filter_bitext(
    scores: str, text: Text, out: Sequence[str], rule: Rule, column: Optional[str] = None, labels: Optional[str] = None
) -> Dict[str, Any]:
    """Writes the lines that the rule keeps, unchanged and in order; returns how much of what went.

    A line for which the score file gives a reason (it was empty, a duplicate, too long) is never kept. Files in `out`
    appear together, when all is done.

    Args:
        scores: a file that ``weights`` has written, in any of its formats.
        text: the raw lines that it is about.
        out: as many files as the text has.
        rule: what is kept.
        column: of the score file; see ``read_scores``.
        labels: id and kind of noise of each raw line, to be counted.

    Raises:
        L2RWError: files that do not fit each other; names that are taken twice.
    """
    _check(scores, text, out, rule)
    folder = os.path.dirname(os.path.abspath(out[0]))
    os.makedirs(folder, exist_ok=True)
    chosen = _choose(scores, text, rule, column, folder)
    kinds = (kind for _, kind in iter_labels(labels)) if labels else itertools.repeat(None)
    account = _Account()
    with writing(*out) as handles:
        rows = _side_by_side(scores, text, column)
        for keep, kind, (score, (given, pair)) in zip(chosen, kinds, rows):
            account.add(keep, kind, score, pair)
            if keep:
                for handle, line in zip(handles, given):
                    handle.write(line + "\n")
        if next(rows, None) is not None:
            raise L2RWError(f"{labels}: fewer labels than there are raw lines; it belongs to another corpus")
    return account.result()


def _choose(scores: str, text: Text, rule: Rule, column: Optional[str], folder: str) -> Iterator[bool]:
    """For each line: is it kept?"""
    if rule.threshold is not None:
        return (not score.reason and score.value >= rule.threshold for score in read_scores(scores, column))
    part = BestPart(folder)
    if rule.tokens is None:
        costs: Iterable[int] = itertools.repeat(1)
    else:
        costs = (_words(pair[1]) for _, pair in text.lines())
    for score, cost in zip(read_scores(scores, column), costs):
        part.add(math.nan if score.reason else score.value, cost)
    return part.chosen(rule.tokens if rule.tokens is not None else round(rule.keep * part.lines))


def _side_by_side(scores: str, text: Text, column: Optional[str]) -> Iterator[Tuple[Score, Any]]:
    counts = [0, 0]
    for score, line in itertools.zip_longest(read_scores(scores, column), text.lines()):
        counts[0] += score is not None
        counts[1] += line is not None
        if None not in (score, line):
            yield score, line
    if counts[0] != counts[1]:
        raise L2RWError(
            f"{scores} has the numbers of {counts[0]} lines, and {text.paths[0]} has {counts[1]}; give the raw files that the "
            "numbers were made for, as they were then"
        )


def _words(text: str) -> int:
    return len(text.split())


class _Account:
    """How much of what went."""

    def __init__(self):
        self._read, self._kept, self._words, self._words_kept = 0, 0, [0, 0], [0, 0]
        self._reasons, self._heads = Counter(), Counter()
        self._kinds: Dict[str, List[int]] = {}
        self._lowest, self._highest = math.inf, -math.inf

    def add(self, keep: bool, kind: Optional[str], score: Score, pair: Tuple[str, str]) -> None:
        words = [_words(side) for side in pair]
        self._read += 1
        self._words = [a + b for a, b in zip(self._words, words)]
        if kind is not None:
            entry = self._kinds.setdefault(kind, [0, 0])
            entry[0] += 1
            entry[1] += keep
        if keep:
            self._kept += 1
            self._words_kept = [a + b for a, b in zip(self._words_kept, words)]
            self._lowest = min(self._lowest, score.value)
        elif score.reason:
            self._reasons[score.reason] += 1
        else:
            self._highest = max(self._highest, score.value)
            if score.heads:
                self._heads[min(score.heads, key=score.heads.get)] += 1

    def result(self) -> Dict[str, Any]:
        gone = self._read - self._kept
        result = {
            "read": self._read,
            "kept": self._kept,
            "removed": gone,
            "words": {"source": self._words[0], "target": self._words[1]},
            "words_kept": {"source": self._words_kept[0], "target": self._words_kept[1]},
            "lowest_kept": self._lowest if self._kept else None,
            "highest_removed": self._highest if gone > sum(self._reasons.values()) else None,
            "removed_without_weight": dict(sorted(self._reasons.items())),
            "removed_by_lowest_head": dict(sorted(self._heads.items())),
        }
        if self._kinds:
            result["kinds"] = {kind: {"read": a, "kept": b} for kind, (a, b) in sorted(self._kinds.items())}
        return result


def _check(scores: str, text: Text, out: Sequence[str], rule: Rule) -> None:
    if len(out) != len(text.paths):
        raise L2RWError(f"--out: {len(out)} files for the {len(text.paths)} of --input; give as many, in the same order")
    if sum(value is not None for value in (rule.keep, rule.threshold, rule.tokens)) != 1:
        raise L2RWError("give one of --keep, --threshold and --tokens")
    if rule.keep is not None and not 0 <= rule.keep <= 1:
        raise L2RWError(f"--keep {rule.keep:g}: a part of the corpus, from 0 to 1")
    taken = {os.path.realpath(path) for path in (scores, *text.paths)}
    for path in out:
        if os.path.realpath(path) in taken:
            raise L2RWError(f"--out {path}: a file that is read, or named twice; give it a name of its own")
        taken.add(os.path.realpath(path))
