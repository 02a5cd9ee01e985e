"""Spoils a part of a clean bitext, and says which pair was spoilt how (kinds after Khayrallah & Koehn 2018).

A kind is one function in the registry: it gets a `Window` of the corpus and the rows to spoil there, and answers with
the new pair of each row. Where it can change nothing (half of a one-word sentence, say) the pair stays as it was and is
called clean, so that the labels say what was done and not what was wanted.
"""

import functools
import itertools
import os
import random
import re
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from fairseq_l2rw.corpus.bitext import Pair, read_lines, read_pairs, writing
from fairseq_l2rw.errors import L2RWError

CLEAN = "clean"
LABEL_HEADER = "id\tkind"
WINDOW = 10_000  # pairs held in memory; a target is misplaced by no more than this many lines

NEEDS_THIRD = "wrong-language"

# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, Kana, Han.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_SENTENCE_END = re.compile("(?<=[.!?…])\\s+|(?<=[。！？])\\s*")


@dataclass(frozen=True)
class Window:
    """A stretch of the corpus, as a kind of noise sees it.

    Attributes:
        pairs: the clean pairs, in corpus order.
        donors: pairs of the stretch before this one, for a kind that needs one from elsewhere.
        third: lines in a third language, one for each pair; empty where no text was given.
    """

    pairs: Sequence[Pair]
    donors: Sequence[Pair]
    third: Sequence[str] = ()


Spoil = Callable[[Window, Sequence[int], random.Random], Dict[int, Pair]]
KINDS: Dict[str, Spoil] = {}


def register_kind(name: str) -> Callable[[Spoil], Spoil]:
    """Adds a kind of noise under the name that users type."""

    def register(spoil: Spoil) -> Spoil:
        KINDS[name] = spoil
        return spoil

    return register


def parse_noise(text: str, option: str = "--noise") -> Dict[str, float]:
    """Reads ``KIND:RATE,…``: the part of the pairs that each kind spoils."""
    rates: Dict[str, float] = {}
    for item in text.split(","):
        kind, colon, value = (part.strip() for part in item.partition(":"))
        if kind not in KINDS:
            raise L2RWError(f"{option}: unknown kind of noise {kind!r}; choose from {', '.join(KINDS)}")
        if kind in rates:
            raise L2RWError(f"{option}: {kind} is given twice; name each kind once")
        try:
            rates[kind] = float(value)
        except ValueError as error:
            raise L2RWError(f"{option}: {item.strip()!r} is not KIND:RATE, as in {kind}:0.25") from error
        if not 0 <= rates[kind] <= 1:
            raise L2RWError(f"{option}: the rate of {kind} is {value}; give a number from 0 to 1")
    if sum(rates.values()) > 1 + 1e-9:
        raise L2RWError(f"{option}: the rates sum to {sum(rates.values()):g}; together they can be 1 at most")
    return rates


def corrupt_pairs(
    pairs: Iterable[Pair],
    rates: Mapping[str, float],
    seed: int,
    window: int = WINDOW,
    third: Optional[Iterator[str]] = None,
) -> Iterator[Tuple[str, str, str]]:
    """Yields (source, target, kind) for every pair, in order; kind is `CLEAN` or a key of `rates`.

    Each pair draws its kind independently, so the rates hold in expectation. Memory: two windows.

    Args:
        pairs: the clean pairs; a stream.
        rates: kind -> probability.
        seed: the same seed and pairs give the same result, on any machine.
        window: pairs handled at a time.
        third: lines in a third language for `wrong-language`, as many as there are pairs, or more.

    Raises:
        L2RWError: a kind needs a third text and there is none.
    """
    if NEEDS_THIRD in rates and third is None:
        raise L2RWError(
            f"--noise {NEEDS_THIRD}: needs a text in a third language; give it with --third FILE to 'fairseq-l2rw corrupt'"
        )
    # Two streams of random numbers: who is spoilt does not depend on how many numbers a kind draws.
    draw, rng = random.Random(f"assign {seed}"), random.Random(f"spoil {seed}")
    donors: Sequence[Pair] = ()
    for chunk in _chunks(pairs, window):
        rows = _assign(len(chunk), rates, draw)
        lines = list(itertools.islice(third, len(chunk))) if third is not None else ()
        spoilt: Dict[int, Tuple[Pair, str]] = {}
        for kind, chosen in rows.items():
            for row, pair in KINDS[kind](Window(chunk, donors, lines), chosen, rng).items():
                if pair != chunk[row]:
                    spoilt[row] = (pair, kind)
        for row, pair in enumerate(chunk):
            (src, tgt), kind = spoilt.get(row, (pair, CLEAN))
            yield src, tgt, kind
        donors = chunk


def corrupt_files(
    src: str,
    tgt: str,
    out_src: str,
    out_tgt: str,
    labels: str,
    rates: Mapping[str, float],
    seed: int,
    third: Optional[str] = None,
) -> Dict[str, int]:
    """Corrupts the bitext of two files into two others, with a label file; returns the pairs of each kind.

    Files that end in .gz are read and written with gzip. The outputs appear together, when all is done.

    Args:
        third: file in a third language, line by line a translation of the bitext or any other text; one that is shorter
            than the bitext begins again at its end.
    """
    if third is not None and NEEDS_THIRD not in rates:
        raise L2RWError(f"--third {third}: only {NEEDS_THIRD} takes lines from it; name that kind in --noise as well")
    named = {"--src": src, "--tgt": tgt, "--out-src": out_src, "--out-tgt": out_tgt, "--labels": labels}
    taken: Dict[str, str] = {}
    for option, path in named.items():
        other = taken.setdefault(os.path.realpath(path), option)
        if option not in ("--src", "--tgt") and other != option:
            raise L2RWError(f"{option} {path}: the same file as {other}; give it a name of its own")
    lines = _over_and_over(third) if third is not None else None
    labelled = corrupt_pairs(read_pairs(src, tgt), rates, seed, third=lines)
    return {kind: 0 for kind in (CLEAN, *rates)} | write_labelled(labelled, out_src, out_tgt, labels)


def write_labelled(
    labelled: Iterable[Tuple[str, str, str]], src: str, tgt: str, labels: Optional[str] = None
) -> Dict[str, int]:
    """Writes (source, target, kind) triples to two text files and a label file; returns the pairs of each kind."""
    counts: Dict[str, int] = {}
    with writing(src, tgt, *([labels] if labels else [])) as handles:
        if labels:
            handles[2].write(LABEL_HEADER + "\n")
        for number, (source, target, kind) in enumerate(labelled):
            handles[0].write(source + "\n")
            handles[1].write(target + "\n")
            if labels:
                handles[2].write(f"{number}\t{kind}\n")
            counts[kind] = counts.get(kind, 0) + 1
    return counts


@register_kind("misaligned")
def _misalign(window: Window, rows: Sequence[int], rng: random.Random) -> Dict[int, Pair]:
    """The rows pass their targets round in a ring, so that each target is still used once."""
    ring = list(rows)
    rng.shuffle(ring)
    spoilt = {}
    for row, donor in zip(ring, ring[1:] + ring[:1]):
        src, own = window.pairs[row]
        target = window.pairs[donor][1]
        # A ring of one, or two pairs with the same target: then any other pair gives a copy of its target.
        spoilt[row] = (src, target if target != own else _another_target(window, own, rng))
    return spoilt


@register_kind("untranslated")
def _leave_untranslated(window: Window, rows: Sequence[int], rng: random.Random) -> Dict[int, Pair]:
    """The target is a copy of the source."""
    return {row: (window.pairs[row][0], window.pairs[row][0]) for row in rows}


@register_kind("untranslated-source")
def _leave_source_untranslated(window: Window, rows: Sequence[int], rng: random.Random) -> Dict[int, Pair]:
    """The source is a copy of the target."""
    return {row: (window.pairs[row][1], window.pairs[row][1]) for row in rows}


@register_kind(NEEDS_THIRD)
def _replace_language(window: Window, rows: Sequence[int], rng: random.Random) -> Dict[int, Pair]:
    """The target is the line of the third text; an empty one replaces nothing."""
    return {row: (window.pairs[row][0], window.third[row]) for row in rows if window.third[row].strip()}


@register_kind("misordered")
def _misorder(window: Window, rows: Sequence[int], rng: random.Random) -> Dict[int, Pair]:
    """The target's words in another order."""
    return {row: (window.pairs[row][0], _shuffle_words(window.pairs[row][1], rng)) for row in rows}


@register_kind("truncated")
def _truncate(window: Window, rows: Sequence[int], rng: random.Random) -> Dict[int, Pair]:
    """The first half of the target's words (rounded up)."""
    return {row: (window.pairs[row][0], _first_half(window.pairs[row][1])) for row in rows}


@register_kind("over-under")
def _merge_or_drop(window: Window, rows: Sequence[int], rng: random.Random) -> Dict[int, Pair]:
    """One side says more than the other, by a sentence: a target sentence is dropped, or a neighbour's is merged in.

    Half of the rows are over-translated: the target goes on with the neighbour's. The others are under-translated: the
    target loses one of its sentences, or, where it has only one, the source goes on with the neighbour's.
    """
    spoilt = {}
    for row in rows:
        (src, tgt), (next_src, next_tgt) = window.pairs[row], _neighbour(window, row)
        if rng.random() < 0.5:
            spoilt[row] = (src, _joined(tgt, next_tgt))
            continue
        sentences = [part for part in _SENTENCE_END.split(tgt) if part.strip()]
        if len(sentences) > 1:
            del sentences[rng.randrange(len(sentences))]
            spoilt[row] = (src, functools.reduce(_joined, sentences))
        else:
            spoilt[row] = (_joined(src, next_src), tgt)
    return spoilt


def _neighbour(window: Window, row: int) -> Pair:
    """The pair after this one, or the one before; two empty sides where there is none."""
    if row + 1 < len(window.pairs):
        return window.pairs[row + 1]
    if row > 0:
        return window.pairs[row - 1]
    return window.donors[-1] if window.donors else ("", "")


def _joined(first: str, second: str) -> str:
    """Two sentences as one line; the first alone where the second is empty."""
    if not second.strip():
        return first
    unspaced = _UNSPACED.match(first[-1:]) and _UNSPACED.match(second[:1])
    return first + ("" if unspaced else " ") + second


def _another_target(window: Window, own: str, rng: random.Random) -> str:
    """A target that is not `own`, from this window or the one before; `own` if there is none."""
    targets = [tgt for _, tgt in window.pairs]
    for _ in range(10):  # nearly always the first try; a list of all that differ costs the whole window
        target = rng.choice(targets)
        if target != own:
            return target
    others = [target for target in targets + [tgt for _, tgt in window.donors] if target != own]
    return rng.choice(others) if others else own


def _shuffle_words(text: str, rng: random.Random) -> str:
    words, joint = _words(text)
    if len(set(words)) < 2:
        return text
    shuffled = list(words)
    while shuffled == words:
        rng.shuffle(shuffled)
    return joint.join(shuffled)


def _first_half(text: str) -> str:
    words, joint = _words(text)
    if len(words) < 2:
        return text
    return joint.join(words[: (len(words) + 1) // 2])


def _words(text: str) -> Tuple[List[str], str]:
    """The words and what joins them: a line of an unspaced script counts by characters."""
    words = text.split()
    if len(words) == 1 and _UNSPACED.search(text):
        return list(words[0]), ""
    return words, " "


def _assign(size: int, rates: Mapping[str, float], draw: random.Random) -> Dict[str, List[int]]:
    """Draws a kind for each of `size` rows: kind -> rows, without the rows that stay clean."""
    rows: Dict[str, List[int]] = {kind: [] for kind in rates}
    for row in range(size):
        point = draw.random()
        for kind, rate in rates.items():
            if point < rate:
                rows[kind].append(row)
                break
            point -= rate
    return rows


def _over_and_over(path: str) -> Iterator[str]:
    """The lines of a file, again and again."""
    while True:
        empty = True
        for line in read_lines(path):
            empty = False
            yield line
        if empty:
            raise L2RWError(f"--third {path}: the file is empty; give a text in a third language")


def _chunks(pairs: Iterable[Pair], size: int) -> Iterator[List[Pair]]:
    chunk: List[Pair] = []
    for pair in pairs:
        chunk.append(pair)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
