"""Corpora that are read stretch by stretch, so that memory does not grow with them: binarised data, and raw text.

fairseq's own datasets hold the length of every pair, and map files whose pages stay in memory once they are touched; here
each stretch is read by itself, with ordinary reads.
"""

from __future__ import annotations

import glob
import itertools
import os
from dataclasses import dataclass
from typing import Iterator, Sequence

import numpy as np
import torch
from fairseq.data import Dictionary, data_utils
from fairseq.data.indexed_dataset import _code_to_dtype, data_file_path, index_file_path

from fairseq_l2rw.corpus.bitext import find_text, read_lines
from fairseq_l2rw.corpus.lines import RECORD, data_folder, dropped_lines, line_map
from fairseq_l2rw.corpus.prepare import read_record
from fairseq_l2rw.errors import L2RWError

MAGIC = b"MMIDIDX\x00\x00"


@dataclass
class Line:
    """One raw line.

    Attributes:
        number: from 0.
        source, target: its text.
        tokens: source and target as fairseq has them, int64; None where there is a reason.
        reason: why it cannot be weighed (``empty``, ``duplicate``, ``too_long``, …); None where it can.
        original: the line of the input as it was given; None where source and target were two files.
    """

    number: int
    source: str
    target: str
    tokens: tuple[torch.Tensor, torch.Tensor] | None
    reason: str | None = None
    original: str | None = None


class TokenFile:
    """One side of a binarised split.

    Args:
        prefix: path without ``.bin`` and ``.idx``.

    Raises:
        L2RWError: it is not in fairseq's mmap format.
    """

    HEADER = 26  # magic, version, type of the tokens, number of sentences

    def __init__(self, prefix: str):
        self._index, self._data = index_file_path(prefix), data_file_path(prefix)
        with open(self._index, "rb") as handle:
            header = handle.read(self.HEADER)
        if len(header) < self.HEADER or not header.startswith(MAGIC):
            raise L2RWError(f"{self._index}: not in fairseq's mmap format; binarise with --dataset-impl mmap, the default")
        self._dtype = np.dtype(_code_to_dtype[header[17]])
        self.length = int.from_bytes(header[18:26], "little")

    def read(self, first: int, last: int) -> list[torch.Tensor]:
        """Sentences ``first`` to before ``last``, each with its end of sentence, int64."""
        if last <= first:
            return []
        sizes = np.fromfile(self._index, np.int32, last - first, offset=self.HEADER + 4 * first)
        (start,) = np.fromfile(self._index, np.int64, 1, offset=self.HEADER + 4 * self.length + 8 * first)
        tokens = np.fromfile(self._data, self._dtype, int(sizes.sum()), offset=int(start))
        if len(sizes) < last - first or len(tokens) < sizes.sum():
            raise L2RWError(f"{self._data}: cut short; binarise it again")
        return list(torch.from_numpy(tokens.astype(np.int64)).split(sizes.tolist()))


class TextFile:
    """The lines of a text file, of which any stretch after the last one can be had."""

    def __init__(self, path: str):
        self.path, self._lines, self._position = path, read_lines(path), 0

    def read(self, first: int, last: int) -> list[str]:
        """Lines ``first`` to before ``last``; what lies before is passed over."""
        lines = list(itertools.islice(self._lines, first - self._position, last - self._position))
        self._position = last
        if len(lines) < last - first:
            raise L2RWError(f"{self.path}: shorter than the binarised data beside it; prepare the folder again")
        return lines


class BinarisedCorpus:
    """A split of a folder that ``prepare`` (or fairseq-preprocess) has made, in the order of its raw lines.

    Args:
        data: the folder, one of its shards, or several joined by ``:``.
        split: name of the split.

    Attributes:
        lines: number of raw lines.
        languages: source and target language.

    Raises:
        L2RWError: no such split.
    """

    def __init__(self, data: str, split: str):
        self.folder, self.split = data_folder(data), split
        prepared = os.path.exists(os.path.join(self.folder, RECORD))
        settings = read_record(self.folder)["settings"] if prepared else None
        self.folders = self._folders(split)
        self.languages = (settings["src"], settings["tgt"]) if prepared else data_utils.infer_language_pair(self.folders[0])
        self._tokens = [[TokenFile(self._prefix(f) + lang) for lang in self.languages] for f in self.folders]
        self.pairs = sum(source.length for source, _ in self._tokens)
        self.lines = self.pairs + sum(1 for _ in dropped_lines(self.folder, split))
        numbers = line_map(self.folder, split)
        mapped = self.lines if numbers is None else len(numbers)  # without a map, pair and raw line have one number
        if mapped != self.pairs:
            raise L2RWError(f"{self.folder}: {self.pairs} binarised pairs, but raw lines of {mapped}; prepare it again")
        self._dropped = _Peekable(dropped_lines(self.folder, split))
        self._texts = None
        if prepared:
            self._texts = [TextFile(find_text(os.path.join(self.folder, "raw", split), lang)) for lang in self.languages]
        else:
            self._dictionaries = [self.dictionary(lang) for lang in self.languages]

    def _folders(self, split: str) -> list[str]:
        """Where the split lies: here, or dealt out to the shards (``corpus.lines`` says how)."""
        shards = sorted(glob.glob(os.path.join(glob.escape(self.folder), "shard[0-9]*")), key=lambda f: (len(f), f))
        for folders in ([self.folder], shards):
            if folders and all(glob.glob(os.path.join(glob.escape(f), f"{glob.escape(split)}.*-*.*.idx")) for f in folders):
                return folders
        raise L2RWError(f"{self.folder}: no binarised split '{split}'; give --gen-subset another, or binarise one")

    def _prefix(self, folder: str) -> str:
        langs = self.languages
        for a, b in (langs, langs[::-1]):
            prefix = os.path.join(folder, f"{self.split}.{a}-{b}.")
            if os.path.exists(index_file_path(prefix + a)):
                return prefix
        raise L2RWError(f"{folder}: no binarised split '{self.split}' for {langs[0]} and {langs[1]}")

    def dictionary(self, lang: str) -> Dictionary:
        return Dictionary.load(os.path.join(self.folders[0], f"dict.{lang}.txt"))

    def read(self, first: int, last: int) -> list[Line]:
        """Raw lines ``first`` to before ``last``; stretches are asked for in ascending order."""
        numbers = line_map(self.folder, self.split)  # anew each time: pages of a map stay in memory while it is open
        if numbers is None:
            low, high, kept = first, last, range(first, last)
        else:
            low, high = np.searchsorted(numbers, [first, last]).tolist()
            kept = np.array(numbers[low:high]).tolist()
        reasons = dict(self._dropped.between(first, last))
        tokens = dict(zip(kept, zip(*(self._read_side(side, low, high) for side in (0, 1)))))
        missing = [number for number in range(first, last) if number not in tokens and number not in reasons]
        if missing:
            raise L2RWError(f"{self.folder}: raw line {missing[0] + 1} is neither binarised nor dropped; prepare it again")
        if self._texts is None:
            texts = [[d.string(tokens[n][side]) for n in kept] for side, d in enumerate(self._dictionaries)]
        else:
            texts = [text.read(first, last) for text in self._texts]
        return [
            Line(number, source, target, tokens.get(number), reasons.get(number))
            for number, source, target in zip(range(first, last), *texts)
        ]

    def _read_side(self, side: int, low: int, high: int) -> list[torch.Tensor]:
        """Pairs low to before high of all shards: pair g is row g // N of shard g % N."""
        count = len(self._tokens)
        out: list = [None] * (high - low)
        for shard, files in enumerate(self._tokens):
            rows = [-(-(end - shard) // count) for end in (low, high)]
            out[rows[0] * count + shard - low :: count] = files[side].read(*rows)
        return out


class RawCorpus:
    """Raw text, cut into pieces by the model's sentencepiece.

    Args:
        paths: a TSV file, or the source file and the target file.
        columns: of the TSV, those of source and target, from 1.
        models: paths of the sentencepiece models of the two sides.
        dictionaries: of the two sides.

    Raises:
        L2RWError: two files with unequal line counts.
    """

    def __init__(self, paths: Sequence[str], columns: tuple[int, int], models: Sequence[str], dictionaries):
        import sentencepiece

        self._columns, self._dictionaries = columns, dictionaries
        self._files = [TextFile(path) for path in paths]
        counts = [count_lines(path) for path in paths]
        if len(set(counts)) > 1:
            raise L2RWError(
                f"--input: {paths[0]} has {counts[0]} lines, {paths[1]} has {counts[1]}; give two files in which line N is "
                "the translation of line N"
            )
        self.lines = counts[0]
        self._models = [sentencepiece.SentencePieceProcessor(model_file=path) for path in models]

    def read(self, first: int, last: int) -> list[Line]:
        """Lines ``first`` to before ``last``; stretches are asked for in ascending order."""
        read = [file.read(first, last) for file in self._files]
        originals = read[0] if len(read) == 1 else itertools.repeat(None)
        if len(read) == 1:
            cells = [self._cells(line, number) for number, line in enumerate(read[0], first + 1)]
            read = [[pair[side] for pair in cells] for side in (0, 1)]
        tokens = zip(*(self._encode(side, texts) for side, texts in enumerate(read)))
        lines = []
        for number, source, target, pair, original in zip(range(first, last), *read, tokens, originals):
            empty = min(len(side) for side in pair) < 2  # nothing but the end of sentence
            lines.append(Line(number, source, target, None if empty else pair, "empty" if empty else None, original))
        return lines

    def _cells(self, line: str, number: int) -> tuple[str, str]:
        cells = line.split("\t")
        if len(cells) < max(self._columns):
            raise L2RWError(
                f"{self._files[0].path}, line {number}: {len(cells)} columns, and column {max(self._columns)} is wanted; mend "
                "the line, or name the columns with --scol and --tcol"
            )
        return cells[self._columns[0] - 1], cells[self._columns[1] - 1]

    def _encode(self, side: int, texts: Sequence[str]) -> list[torch.Tensor]:
        pieces = self._models[side].encode([" ".join(text.split()) for text in texts], out_type=str)
        encode = self._dictionaries[side].encode_line
        return [encode(" ".join(line), add_if_not_exist=False).long() for line in pieces]


def sentencepiece_paths(data: str, languages: Sequence[str]) -> list[str]:
    """The sentencepiece models of both sides in a folder that ``prepare`` has made.

    Raises:
        L2RWError: there are none.
    """
    folder, paths = data_folder(data), []
    for lang in languages:
        names = [os.path.join(folder, name) for name in (f"spm.{lang}.model", "spm.model")]
        path = next(filter(os.path.isfile, names), None)
        if path is None:
            raise L2RWError(f"{names[1]}: no such file; name the sentencepiece models with --sentencepiece")
        paths.append(path)
    return paths


def dictionary_folder(data: str) -> str:
    """The folder for fairseq to read the dictionaries from: DATA, or its first shard where they lie there alone."""
    folder = data_folder(data)
    folders = [folder, *sorted(glob.glob(os.path.join(glob.escape(folder), "shard[0-9]*")))]
    return next((f for f in folders if glob.glob(os.path.join(glob.escape(f), "dict.*.txt"))), folder)


def count_lines(path: str) -> int:
    """Lines of a text file, by reading it once."""
    return sum(1 for _ in read_lines(path))


class _Peekable:
    """(line number, reason) pairs in ascending order, taken stretch by stretch."""

    def __init__(self, items: Iterator[tuple[int, str]]):
        self._items, self._next = items, next(items, None)

    def between(self, first: int, last: int) -> Iterator[tuple[int, str]]:
        while self._next is not None and self._next[0] < last:
            if self._next[0] >= first:
                yield self._next
            self._next = next(self._items, None)
