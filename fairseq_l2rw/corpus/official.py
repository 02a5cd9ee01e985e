"""The official distributions of WMT14 English-German and IWSLT14 German-English, as plain text for `prepare`.

``python -m fairseq_l2rw.corpus.official NAME RAW OUT`` reads the files of RAW, unpacked or still in their archives, and
writes OUT/train, valid, test (and meta) for both languages; the recipes in ``scripts/`` call it.

* ``wmt14-en-de``: Europarl v7, Common Crawl and News Commentary v9 one after the other; newstest2012 for the teacher,
  newstest2013 to validate, newstest2014 in full (``test-full.tgz``, sacrebleu's ``wmt14/full``) to test. Text as it is.
* ``iwslt14-de-en``: the recipe of the literature (fairseq's ``prepare-iwslt14.sh``): Moses tokens, pairs of over 175 tokens
  or a ratio over 1.5 left out, lower case, every 23rd pair to validate, five test sets joined. ``test.raw.LANG`` is the test
  set as it was, for sacrebleu. The tokeniser is sacremoses, Moses' port to Python.
"""

import contextlib
import os
import re
import sys
import tarfile
import zlib
from typing import IO, Dict, Iterable, Iterator, List, Sequence

from fairseq_l2rw.corpus.bitext import Pair, remove_partial, write_lines, writing
from fairseq_l2rw.errors import EXIT_STATUS, L2RWError, print_error

#: archive -> what is needed of it, without the language
WMT14 = {
    "training-parallel-europarl-v7.tgz": ("training/europarl-v7.de-en",),
    "training-parallel-commoncrawl.tgz": ("commoncrawl.de-en",),
    "training-parallel-nc-v9.tgz": ("training/news-commentary-v9.de-en",),
    "dev.tgz": ("dev/newstest2012", "dev/newstest2013"),
    "test-full.tgz": ("test-full/newstest2014-deen",),
}
IWSLT14 = "de-en.tgz"
IWSLT14_TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
EVERY = 23  # of the IWSLT14 training pairs is one to validate
LONGEST, RATIO = 175, 1.5  # tokens of a side, and how much longer one side may be

_SEGMENT = re.compile(r"<seg.*?>(.*)</seg>.*?")
_METADATA = ("<url>", "<talkid>", "<keywords>")
_TAGS = re.compile(r"</?(?:title|description)>")


class Distribution:
    """The files below a folder, unpacked or in the archives that lie in it.

    Args:
        folder: where they are.
        archives: names of the archives.
    """

    def __init__(self, folder: str, archives: Sequence[str]):
        self._folder, self._archives = folder, archives

    def missing(self, members: Sequence[str], archive: str) -> bool:
        """Whether neither all `members` nor their archive are there."""
        there = all(os.path.isfile(os.path.join(self._folder, member)) for member in members)
        return not there and not os.path.isfile(os.path.join(self._folder, archive))

    def lines(self, member: str) -> Iterator[str]:
        """The lines of one file; they end at ``\\n`` alone.

        Raises:
            L2RWError: it is nowhere, or it or its archive is damaged.
        """
        number = 0
        try:
            with self._open(member) as handle:
                for number, line in enumerate(handle, start=1):
                    yield line.removesuffix(b"\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise L2RWError(f"{member}, line {number}: not UTF-8 ({error.reason}); fetch it again") from error
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise L2RWError(f"{self._folder}: {member} cannot be read ({error}); fetch its archive again") from error

    @contextlib.contextmanager
    def _open(self, member: str) -> Iterator[IO[bytes]]:
        path = os.path.join(self._folder, member)
        if os.path.isfile(path):
            with open(path, "rb") as handle:
                yield handle
            return
        for archive in self._archives:
            path = os.path.join(self._folder, archive)
            if os.path.isfile(path):
                with tarfile.open(path) as tar:
                    for entry in tar:  # in order: looking a name up would read to the end of the archive first
                        if entry.isfile() and entry.name.removeprefix("./") == member:
                            yield tar.extractfile(entry)
                            return
        raise L2RWError(f"{self._folder}: no {member}, and no archive in it ({', '.join(self._archives)}) has it")


def read_sgm(lines: Iterable[str]) -> Iterator[str]:
    """The segments of an .sgm file of WMT, read as sacrebleu reads it (so the text is that of its test sets).

    The format is no SGML that a parser would take: characters are not escaped.
    """
    for line in lines:
        if line.startswith("<seg "):
            yield " ".join(_SEGMENT.sub(r"\1", line).split())


def read_iwslt_xml(text: str, name: str) -> Iterator[str]:
    """The segments of an .xml test set of IWSLT, in order; entities of its own are refused.

    Raises:
        L2RWError: it is not well-formed, or defines entities.
    """
    try:
        from defusedxml import ElementTree
        from defusedxml.common import DefusedXmlException
    except ImportError as error:
        raise L2RWError(f"{name}: reading XML needs the library defusedxml: pip install defusedxml") from error
    try:
        root = ElementTree.fromstring(text.encode("utf-8"))
    except (ElementTree.ParseError, DefusedXmlException) as error:
        raise L2RWError(f"{name}: not readable as XML ({error}); fetch it again") from error
    for segment in root.iter("seg"):
        yield " ".join("".join(segment.itertext()).split())


def read_train_tags(lines: Iterable[str]) -> Iterator[str]:
    """The sentences of a ``train.tags`` file of IWSLT: what describes a talk goes, its title and summary stay."""
    for line in lines:
        if not any(tag in line for tag in _METADATA):
            yield _TAGS.sub("", line).strip()


def write_wmt14(raw: str, out: str) -> Dict[str, int]:
    """Writes the text of WMT14 English-German; returns the number of pairs of each split."""
    distribution = Distribution(raw, tuple(WMT14))
    test = {"en": "test-full/newstest2014-deen-src.en.sgm", "de": "test-full/newstest2014-deen-ref.de.sgm"}
    members = {archive: [f"{stem}.{lang}" for stem in stems for lang in test] for archive, stems in WMT14.items()}
    members["test-full.tgz"] = list(test.values())
    missing = [archive for archive, files in members.items() if distribution.missing(files, archive)]
    if missing:
        raise L2RWError(
            f"--raw {raw}: no {missing[0]} in it, nor {' and '.join(members[missing[0]])}; fetch it from statmt.org"
        )

    def newstest(year: int) -> Iterator[Pair]:
        return _pair(f"newstest{year}", *(distribution.lines(f"dev/newstest{year}.{lang}") for lang in ("en", "de")))

    def training() -> Iterator[Pair]:
        for archive, stems in WMT14.items():
            for stem in stems if archive.startswith("training") else ():
                yield from _pair(stem, *(distribution.lines(f"{stem}.{lang}") for lang in ("en", "de")))

    splits = {
        "meta": newstest(2012),
        "valid": newstest(2013),
        "test": _pair("newstest2014", *(read_sgm(distribution.lines(test[lang])) for lang in ("en", "de"))),
        "train": training(),
    }
    return {split: _write(pairs, out, split, ("en", "de")) for split, pairs in splits.items()}


def write_iwslt14(raw: str, out: str) -> Dict[str, int]:
    """Writes the text of IWSLT14 German-English; returns the number of pairs of each split, and of pairs left out."""
    from fairseq_l2rw.corpus.moses import Moses

    if not os.path.exists(os.path.join(raw, IWSLT14)) and not os.path.isdir(os.path.join(raw, "de-en")):
        if not os.path.isfile(os.path.join(raw, "train.tags.de-en.de")):
            raise L2RWError(
                f"--raw {raw}: no {IWSLT14} in it and no train.tags.de-en.de; fetch the archive of IWSLT 2014"
            )
    folder = "" if os.path.isfile(os.path.join(raw, "train.tags.de-en.de")) else "de-en/"
    distribution, languages = Distribution(raw, (IWSLT14,)), ("de", "en")
    moses = {lang: Moses(lang) for lang in languages}

    def tokens(lines: Iterable[str], lang: str) -> Iterator[str]:
        return moses[lang].tokenize(lines)

    def test_lines(lang: str) -> List[str]:
        names = [f"{folder}IWSLT14.{test}.de-en.{lang}.xml" for test in IWSLT14_TESTS]
        return [line for name in names for line in read_iwslt_xml("\n".join(distribution.lines(name)), name)]

    # The right quotation mark of some sets is Moses' apostrophe, as the recipe has it.
    tests = {lang: test_lines(lang) for lang in languages}
    test = _pair("test", *(tokens((line.replace("’", "'") for line in tests[lang]), lang) for lang in languages))
    counts = {"test": _write(_lower(test), out, "test", languages)}
    for lang in languages:
        write_lines(os.path.join(out, f"test.raw.{lang}"), tests[lang])
    sides = [
        tokens(read_train_tags(distribution.lines(f"{folder}train.tags.de-en.{lang}")), lang) for lang in languages
    ]
    counts.update({"train": 0, "valid": 0, "left_out": 0})
    paths = [os.path.join(out, f"{split}.{lang}") for split in ("train", "valid") for lang in languages]
    with writing(*paths) as handles:
        number = 0
        for pair in _lower(_pair("train.tags.de-en", *sides)):
            lengths = [len(side.split()) for side in pair]
            if min(lengths) < 1 or max(lengths) > LONGEST or max(lengths) > RATIO * min(lengths):
                counts["left_out"] += 1
                continue
            number += 1
            split = "train" if number % EVERY else "valid"
            counts[split] += 1
            for handle, text in zip(handles[:2] if split == "train" else handles[2:], pair):
                handle.write(text + "\n")
    return counts


def _pair(name: str, source: Iterable[str], target: Iterable[str]) -> Iterator[Pair]:
    """Pairs of two sides that must be of the same length."""
    sides = iter(source), iter(target)
    for count, line in enumerate(sides[0]):
        other = next(sides[1], None)
        if other is None:
            raise L2RWError(f"{name}: unequal line counts, the second language has {count} lines only; fetch it again")
        yield line, other
    if next(sides[1], None) is not None:
        raise L2RWError(f"{name}: unequal line counts, the second language has more lines; fetch it again")


def _lower(pairs: Iterable[Pair]) -> Iterator[Pair]:
    return ((source.lower(), target.lower()) for source, target in pairs)


def _write(pairs: Iterable[Pair], out: str, split: str, languages: Sequence[str]) -> int:
    count = 0
    with writing(*(os.path.join(out, f"{split}.{lang}") for lang in languages)) as handles:
        for count, pair in enumerate(pairs, start=1):
            for handle, text in zip(handles, pair):
                handle.write(text + "\n")
    return count


COMMANDS = {"wmt14-en-de": write_wmt14, "iwslt14-de-en": write_iwslt14}


def main(argv: Sequence[str]) -> int:
    if len(argv) != 3 or argv[0] not in COMMANDS:
        print_error(f"usage: python -m fairseq_l2rw.corpus.official {{{','.join(COMMANDS)}}} RAW OUT")
        return EXIT_STATUS
    remove_partial(argv[2])
    try:
        counts = COMMANDS[argv[0]](argv[1], argv[2])
    except L2RWError as error:
        print_error(error)
        return EXIT_STATUS
    print("  ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
