"""Makes tiny corpora that are laid out exactly as the official distributions: archive names, inner paths, formats.

The text is that of the toy corpus, with a few lines that need care.
"""

import gzip
import io
import tarfile
from pathlib import Path
from xml.sax.saxutils import escape

from fairseq_l2rw.corpus.bitext import read_lines
from fairseq_l2rw.corpus.toy import write_toy

#: what every test set has besides: quotes, an ampersand, a compound with a hyphen, a mark that Unicode calls a line end
ODD = {
    "de": ["Das „SAP-System“ von A & B\u2028 ist neu.", 'Er sagt: "Geht’s?"'],
    "en": ["The SAP system of A & B\u2028 is new.", 'He says: "OK?"'],
}


def sentences(folder: Path, sizes: dict[str, int]) -> dict[str, dict[str, list[str]]]:
    """Language -> name -> lines of the toy corpus; no pair is in two of them."""
    total = sum(sizes.values())
    write_toy(str(folder), sizes={"train": total, "valid": 1, "test": 1})
    result = {}
    for lang in ("de", "en"):
        lines = iter(read_lines(str(folder / f"train.{lang}")))
        result[lang] = {name: [next(lines) for _ in range(size)] for name, size in sizes.items()}
    return result


def write_archive(path: Path, members: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            data = text.encode("utf-8")
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def plain(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def sgm(lines: list[str], kind: str, lang: str) -> str:
    """One document of WMT's format: not escaped, segments at the beginning of their lines."""
    segments = [f'<seg id="{number}">{line}</seg>' for number, line in enumerate(lines, start=1)]
    head = [
        f'<{kind}set setid="newstest2014" srclang="any" trglang="{lang}">',
        f'<doc sysid="{kind}" docid="a" genre="news" origlang="{lang}">',
        "<p>",
    ]
    return plain([*head, *segments, "</p>", "</doc>", f"</{kind}set>"])


def wmt14(folder: Path, train: int = 300, dev: int = 40, test: int = 12) -> dict[str, dict[str, list[str]]]:
    """The five archives of WMT14 that hold English-German; returns the text."""
    folder.mkdir(parents=True)
    text = sentences(
        folder.parent / "wmt14-text",
        {"europarl": train, "crawl": train, "news": train, "2012": dev, "2013": dev, "test": test},
    )
    for lang in ("de", "en"):
        text[lang]["test"] += ODD[lang]
    other = plain(["Une phrase."])
    for name, stem, key in (
        ("training-parallel-europarl-v7.tgz", "training/europarl-v7", "europarl"),
        ("training-parallel-commoncrawl.tgz", "commoncrawl", "crawl"),
        ("training-parallel-nc-v9.tgz", "training/news-commentary-v9", "news"),
    ):
        members = {f"{stem}.cs-en.cs": other, f"{stem}.cs-en.en": other}
        members.update({f"{stem}.de-en.{lang}": plain(text[lang][key]) for lang in ("de", "en")})
        if key == "crawl":
            members["commoncrawl.de-en.annotation"] = other
        write_archive(folder / name, members)
    members = {"dev/newstest2012-src.en.sgm": sgm(text["en"]["2012"], "src", "en")}
    members.update(
        {f"dev/newstest{year}.{lang}": plain(text[lang][year]) for year in ("2012", "2013") for lang in ("de", "en")}
    )
    write_archive(folder / "dev.tgz", members)
    members = {
        f"test-full/newstest2014-deen-{kind}.{lang}.sgm": sgm(text[lang]["test"], kind, lang)
        for kind in ("src", "ref")
        for lang in ("de", "en")
    }
    write_archive(folder / "test-full.tgz", members)
    return text


IWSLT14_TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")


def iwslt14(folder: Path, train: int = 460, test: int = 5) -> dict[str, dict[str, list[str]]]:
    """de-en.tgz of IWSLT 2014; returns the text."""
    folder.mkdir(parents=True)
    text = sentences(folder.parent / "iwslt14-text", {"train": train, **{name: test for name in IWSLT14_TESTS}})
    members = {}
    for lang in ("de", "en"):
        text[lang]["TED.dev2010"] += ODD[lang]
        half = train // 2
        lines = text[lang]["train"]
        talks = [
            "<url>http://www.example.org/talk</url>", "<keywords>talks, toys</keywords>", "<talkid>1</talkid>",
            "<title>A title</title>", "<description>TALK: a description.</description>",
        ]  # fmt: skip
        members[f"de-en/train.tags.de-en.{lang}"] = plain([*talks, *lines[:half], *talks, *lines[half:]])
        for name in IWSLT14_TESTS:
            segments = [
                f'<seg id="{number}"> {escape(line)} </seg>' for number, line in enumerate(text[lang][name], start=1)
            ]
            kind = "srcset" if lang == "de" else "refset"
            members[f"de-en/IWSLT14.{name}.de-en.{lang}.xml"] = plain([
                '<?xml version="1.0" encoding="UTF-8"?>', "<mteval>", f'<{kind} setid="iwslt2014" srclang="german">',
                '<doc docid="1" genre="lectures">', "<url>http://www.example.org/1</url>", "<title>T</title>",
                "<translator></translator>", *segments, "</doc>", f"</{kind}>", "</mteval>",
            ])  # fmt: skip
    members["de-en/README"] = "no text\n"
    write_archive(folder / "de-en.tgz", members)
    return text


def multi30k(folder: Path, train: int = 400, dev: int = 60, test: int = 16) -> dict[str, dict[str, list[str]]]:
    """The gzip files of data/task1/raw of multi30k/dataset; returns the text."""
    folder.mkdir(parents=True)
    text = sentences(folder.parent / "multi30k-text", {"train": train, "val": dev, "test_2016_flickr": test})
    for lang in ("de", "en"):
        for name, lines in text[lang].items():
            with gzip.open(folder / f"{name}.{lang}.gz", "wb") as file:
                file.write(plain(lines).encode("utf-8"))
    return text
