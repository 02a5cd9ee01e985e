"""From raw text to binarised data."""

import filecmp
import gzip
import json
import os
import shutil
import subprocess
import time

import numpy as np
import pytest

from fairseq_l2rw.cli.main import main
from fairseq_l2rw.corpus import prepare as module
from fairseq_l2rw.corpus.bitext import file_sha256, read_lines, write_lines
from fairseq_l2rw.corpus.prepare import Settings, prepare, read_record
from fairseq_l2rw.corpus.toy import write_toy
from fairseq_l2rw.errors import L2RWError

SIZES = {"train": 600, "valid": 60, "test": 40}
SETTINGS = Settings("de", "en", vocab_size=500, meta_size=20)
LONG = " ".join(["lang"] * 300)

# Training pairs that are cleaned away, and why, behind the 600 of the toy corpus. The last one stays.
DIRTY = [
    ("", "Nothing on the left.", "empty"),
    ("Rechts steht nichts.", " \u2028", "empty"),
    ("Das steht zweimal da.", "This is here twice.", None),
    ("Das steht zweimal da.", "This is here twice.", "duplicate"),
    ("Das steht zweimal da.", "This is here with another target.", None),
    ("VALID", "VALID", "in_valid"),
    ("TEST", "TEST", "in_test"),
    (LONG, "Long on one side.", "too_long"),
    ("Eine\u2028Zeile mit\x85Trennern\r", "One line\u2028with\x0bseparators", None),
]


def write_corpus(folder):
    """Toy text with dirty training pairs; returns split -> prefix, and id -> reason of the pairs that must go."""
    write_toy(str(folder), sizes=SIZES)
    sides = {
        lang: {split: list(read_lines(str(folder / f"{split}.{lang}"))) for split in SIZES} for lang in ("de", "en")
    }
    for lang, column in (("de", 0), ("en", 1)):
        for row in DIRTY:
            held_out = sides[lang].get(row[column].lower()) or [row[column]]
            sides[lang]["train"].append(held_out[7] if row[column] in ("VALID", "TEST") else row[column])
        sides[lang]["test"] += ["", "An odd\u2028test\x85line\r"]  # never cleaned
        for split, lines in sides[lang].items():
            write_lines(str(folder / f"{split}.{lang}"), lines)
    reasons = {600 + row: reason for row, (_, _, reason) in enumerate(DIRTY) if reason}
    return {split: str(folder / split) for split in SIZES}, reasons


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    prefixes, reasons = write_corpus(folder)
    write_lines(prefixes["train"] + ".labels.tsv", ["id\tkind"] + [f"{row}\tclean" for row in range(609)])
    return prefixes, reasons


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "data"
    result = prepare(str(out), corpus[0], SETTINGS)
    assert result["reused"] is False
    return out


def binarised(data, split, lang, pieces=False):
    """The text of a binarised split, as fairseq reads it."""
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(data / f"dict.{lang}.txt"))
    dataset = data_utils.load_indexed_dataset(str(data / f"{split}.de-en.{lang}"), dictionary)
    return [dictionary.string(tokens, bpe_symbol=None if pieces else "sentencepiece") for tokens in dataset]


def raw(data, split, lang):
    return list(read_lines(str(data / "raw" / f"{split}.{lang}")))


def spaced(text):
    return " ".join(text.split())


def test_the_folder_is_complete(data):
    names = {
        f"{split}.de-en.{lang}.{end}" for split in (*SIZES, "meta") for lang in ("de", "en") for end in ("bin", "idx")
    }
    names |= {
        "dict.de.txt",
        "dict.en.txt",
        "spm.model",
        "spm.vocab",
        "raw",
        "prepare.json",
        "train.lines.npy",
        "train.dropped.tsv",
    }
    assert set(os.listdir(data)) == names
    raw_names = {f"{split}.{lang}" for split in (*SIZES, "meta") for lang in ("de", "en")}
    assert set(os.listdir(data / "raw")) == raw_names | {"train.labels.tsv"}
    assert os.listdir(data.parent) == ["data"]
    assert filecmp.cmp(data / "dict.de.txt", data / "dict.en.txt", shallow=False)  # joined


def test_train_lines_lead_from_binarised_to_raw(data, corpus):
    lines = np.load(data / "train.lines.npy").tolist()
    assert lines == [row for row in range(609) if row not in corpus[1]]
    for lang in ("de", "en"):
        given = raw(data, "train", lang)
        assert binarised(data, "train", lang) == [spaced(given[number]) for number in lines]


@pytest.mark.parametrize("split", ["valid", "test", "meta"])
@pytest.mark.parametrize("lang", ["de", "en"])
def test_other_splits_are_complete_and_in_order(data, split, lang):
    assert binarised(data, split, lang) == [spaced(line) for line in raw(data, split, lang)]
    assert len(raw(data, split, lang)) == {"valid": 40, "test": 42, "meta": 20}[split]


def test_raw_text_is_kept_byte_by_byte(data, corpus):
    for split in ("train", "test"):
        for lang in ("de", "en"):
            assert filecmp.cmp(data / "raw" / f"{split}.{lang}", f"{corpus[0][split]}.{lang}", shallow=False)
    assert filecmp.cmp(data / "raw" / "train.labels.tsv", corpus[0]["train"] + ".labels.tsv", shallow=False)


def test_dropped_pairs_have_their_reason(data, corpus):
    header, *rows = read_lines(str(data / "train.dropped.tsv"))
    assert header == "id\treason"
    dropped = {int(number): reason for number, reason in (row.split("\t") for row in rows)}
    assert set(dropped) == set(corpus[1])
    for number, reason in corpus[1].items():
        assert dropped[number] in ((reason,) if reason != "in_valid" else ("in_valid", "in_meta"))


def test_meta_is_cut_from_valid(data, corpus):
    given = list(zip(*(read_lines(f"{corpus[0]['valid']}.{lang}") for lang in ("de", "en"))))
    meta, valid = (list(zip(raw(data, split, "de"), raw(data, split, "en"))) for split in ("meta", "valid"))
    assert sorted(meta + valid) == sorted(given)
    assert [pair for pair in given if pair in set(meta)] == meta
    assert meta != given[:20]


def test_the_record_says_how_it_was_made(data, corpus):
    record = read_record(str(data))
    assert record["settings"]["meta_size"] == 20 and record["settings"]["joint"] is True
    assert record["inputs"]["train.de"] == {
        "path": corpus[0]["train"] + ".de",
        "sha256": file_sha256(corpus[0]["train"] + ".de"),
    }
    dropped = record["counts"]["train"]["dropped"]
    assert record["counts"]["train"]["read"] == 609 and record["counts"]["train"]["pairs"] == 603
    assert sum(dropped.values()) == 6 and dropped["empty"] == 2 and dropped["too_long"] == 1
    assert {split: record["counts"][split]["pairs"] for split in ("valid", "test", "meta")} == {
        "valid": 40,
        "test": 42,
        "meta": 20,
    }


def test_the_same_again_does_nothing(data, corpus):
    before = {path: os.stat(path).st_mtime_ns for path in map(str, data.rglob("*"))}
    start = time.monotonic()
    assert prepare(str(data), corpus[0], SETTINGS, workers=4)["reused"] is True
    assert time.monotonic() - start < 2
    assert {path: os.stat(path).st_mtime_ns for path in map(str, data.rglob("*"))} == before


def test_same_bytes_from_gz_files_with_two_workers(data, corpus, tmp_path):
    for split, prefix in corpus[0].items():
        for lang in ("de", "en"):
            with open(f"{prefix}.{lang}", "rb") as plain, gzip.open(tmp_path / f"{split}.{lang}.gz", "wb") as packed:
                shutil.copyfileobj(plain, packed)
    prepare(str(tmp_path / "data"), {split: str(tmp_path / split) for split in SIZES}, SETTINGS, workers=2)
    files = [str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()]
    files = set(files) - {"prepare.json", "raw/train.labels.tsv"}
    assert filecmp.cmpfiles(data, tmp_path / "data", files, shallow=False)[1:] == ([], [])


def test_separate_models_own_meta_files_and_ratio(corpus, tmp_path):
    meta = tmp_path / "trusted"
    write_lines(f"{meta}.de", ["Guten Morgen."])
    write_lines(f"{meta}.en", ["Good morning."])
    settings = Settings("de", "en", vocab_size=400, joint=False, max_ratio=1.5)
    record = prepare(str(tmp_path / "data"), {**corpus[0], "meta": str(meta)}, settings)
    data = tmp_path / "data"
    assert {"spm.de.model", "spm.en.model"} < set(os.listdir(data)) and not (data / "spm.model").exists()
    assert not filecmp.cmp(data / "dict.de.txt", data / "dict.en.txt", shallow=False)
    assert raw(data, "meta", "en") == ["Good morning."] and len(raw(data, "valid", "en")) == 60
    assert record["counts"]["train"]["dropped"]["ratio"] > 0
    lines = np.load(data / "train.lines.npy").tolist()
    sides = [[len(text.split()) for text in binarised(data, "train", lang, pieces=True)] for lang in ("de", "en")]
    assert len(lines) == len(sides[0]) == record["counts"]["train"]["pairs"]
    assert max(max(pair) / min(pair) for pair in zip(*sides)) <= 1.5


# --- errors ---


@pytest.mark.parametrize(
    "settings, message",
    [
        (Settings("de", "en", vocab_size=600, meta_size=20), r"vocab_size was 500, is now 600"),
        (Settings("de", "en", vocab_size=500, meta_size=10), r"meta_size was 20, is now 10"),
        (Settings("de", "en", vocab_size=500, meta_size=20, joint=False), r"joint was True, is now False"),
    ],
)
def test_other_settings_on_a_made_folder_are_refused(data, corpus, settings, message):
    with pytest.raises(L2RWError, match=rf"--out .*data: was made with other settings \({message}\); choose another"):
        prepare(str(data), corpus[0], settings)


def test_other_text_on_a_made_folder_is_refused(data, corpus):
    with pytest.raises(L2RWError, match=r"test\.de is not the file it was made from"):
        prepare(str(data), {**corpus[0], "valid": corpus[0]["test"]}, SETTINGS)
    with pytest.raises(L2RWError, match=r"meta\.de is not|meta_size was 20, is now 0"):
        prepare(str(data), {**corpus[0], "meta": corpus[0]["test"]}, Settings("de", "en", vocab_size=500))


def test_a_folder_that_is_not_ours_is_refused(corpus, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(L2RWError, match=r"exists and was not made by prepare; choose another folder"):
        prepare(str(tmp_path), corpus[0], SETTINGS)
    assert os.listdir(tmp_path) == ["notes.txt"]


def refused(tmp_path, prefixes, settings, message):
    """Expects an error and no trace of DATA."""
    out = tmp_path / "parent" / "data"
    with pytest.raises(L2RWError, match=message):
        prepare(str(out), prefixes, settings)
    assert not out.parent.exists() or not os.listdir(out.parent)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_unequal_line_counts(corpus, tmp_path, split):
    write_lines(str(tmp_path / "odd.de"), ["eins", "zwei", "drei"])
    write_lines(str(tmp_path / "odd.en"), ["one"])
    message = r"unequal line counts: .*odd\.de has 3 lines, .*odd\.en has 1;"
    refused(tmp_path, {**corpus[0], split: str(tmp_path / "odd")}, SETTINGS, message)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_empty_split(corpus, tmp_path, split):
    for lang in ("de", "en"):
        write_lines(str(tmp_path / f"nil.{lang}"), [])
    message = rf"nil\.de, .*nil\.en: the {split} split is empty; give files with sentence pairs"
    refused(tmp_path, {**corpus[0], split: str(tmp_path / "nil")}, SETTINGS, message)


@pytest.mark.parametrize("split", ["train", "valid", "test", "meta"])
def test_missing_files(corpus, tmp_path, split):
    prefixes = {**corpus[0], split: str(tmp_path / "none")}
    refused(tmp_path, prefixes, Settings("de", "en"), r"none\.de: no such file \(nor .*none\.de\.gz\)")


def test_meta_size_that_leaves_nothing(corpus, tmp_path):
    message = r"--meta-size 60: .*valid\.de has 60 lines, and some must be left to validate"
    refused(tmp_path, corpus[0], Settings("de", "en", meta_size=60), message)


def test_meta_twice(corpus, tmp_path):
    message = r"--meta-size: --meta gives the teacher's split already"
    refused(tmp_path, {**corpus[0], "meta": corpus[0]["test"]}, SETTINGS, message)


def test_one_language(corpus, tmp_path):
    refused(tmp_path, corpus[0], Settings("de", "de"), r"--tgt de: the same language as --src")


def test_vocabulary_smaller_than_the_alphabet(corpus, tmp_path):
    message = r"--vocab-size 20: the text has \d+ different characters"
    refused(tmp_path, corpus[0], Settings("de", "en", vocab_size=20), message)


def test_nothing_left_after_cleaning(corpus, tmp_path):
    message = r"nothing is left of the training text after cleaning \(.*'too_long': 60\d"
    refused(tmp_path, corpus[0], Settings("de", "en", max_pieces=1), message)
    for lang in ("de", "en"):
        write_lines(str(tmp_path / f"blank.{lang}"), ["", " "])
    message = r"nothing is left of the training text after cleaning \({'empty': 2}\)"
    refused(tmp_path, {**corpus[0], "train": str(tmp_path / "blank")}, SETTINGS, message)


def test_ratio_below_one(corpus, tmp_path):
    refused(
        tmp_path, corpus[0], Settings("de", "en", max_ratio=0.5), r"--max-ratio 0.5: .*1 at least; 0 switches it off"
    )


def test_colon_in_the_name(corpus, tmp_path):
    with pytest.raises(L2RWError, match=r"fairseq takes ':' in a data folder for a list"):
        prepare(str(tmp_path / "a:b"), corpus[0], SETTINGS)


def test_a_failure_of_fairseq_leaves_nothing_behind(corpus, tmp_path, monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, stdout="what fairseq said\n")
    monkeypatch.setattr(module.subprocess, "run", lambda *args, **kwargs: failed)
    refused(tmp_path, corpus[0], SETTINGS, r"fairseq-preprocess ended with status 1; its messages stand above")
    assert "what fairseq said" in capsys.readouterr().err


def test_read_record_of_other_folders(tmp_path):
    with pytest.raises(
        L2RWError, match=r"prepare\.json: no such file; give a folder that 'fairseq-l2rw prepare' has made"
    ):
        read_record(str(tmp_path))
    (tmp_path / "prepare.json").write_text('{"format": 99}')
    with pytest.raises(L2RWError, match=r"prepare\.json: not readable \(format 99, this version reads 1\)"):
        read_record(str(tmp_path))
    (tmp_path / "prepare.json").write_text("{")
    with pytest.raises(L2RWError, match=r"prepare\.json: not readable"):
        read_record(str(tmp_path))


def test_the_command(data, corpus, capsys):
    splits = [word for split, prefix in corpus[0].items() for word in (f"--{split}", prefix)]
    common = ["prepare", "--src", "de", "--tgt", "en", *splits, "--out", str(data), "--meta-size", "20"]
    assert main([*common, "--vocab-size", "500"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True
    assert main([*common, "--vocab-size", "500", "--separate"]) == 2
    assert "joint was True, is now False" in capsys.readouterr().err
