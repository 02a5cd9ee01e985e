"""From raw text to binarised data."""

import filecmp
import json
import os
import shutil
import subprocess
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from fairseq_l2rw.cli.main import main
from fairseq_l2rw.corpus import binarise as binarising
from fairseq_l2rw.corpus import prepare as module
from fairseq_l2rw.corpus.bitext import file_sha256, read_lines, write_lines
from fairseq_l2rw.corpus.build_folder import BuildFolder, locked
from fairseq_l2rw.corpus.lines import data_folder, line_map
from fairseq_l2rw.corpus.prepare import Settings, prepare, read_record
from fairseq_l2rw.corpus.toy import write_toy
from fairseq_l2rw.errors import L2RWError

SIZES = {"train": 600, "valid": 60, "test": 40}
SETTINGS = Settings("de", "en", vocab_size=500, meta_size=20, max_ratio=0.0, drop_duplicates=True)
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
    write_lines(
        prefixes["train"] + ".labels.tsv",
        ["id\tkind"] + [f"{row}\t{'clean' if row % 4 else 'misaligned'}" for row in range(609)],
    )
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


def files_in(data):
    """All files but the record, which holds the names of the input files."""
    return {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()} - {"prepare.json"}


def assert_same(data, other, files=None):
    files = files or files_in(data)
    assert filecmp.cmpfiles(data, other, files, shallow=False)[1:] == ([], [])


def test_same_bytes_from_a_packed_table_with_two_workers(data, corpus, tmp_path):
    pytest.importorskip("zstandard")
    for split, prefix in corpus[0].items():
        rows = zip(*(read_lines(f"{prefix}.{lang}") for lang in ("en", "de")))
        write_lines(str(tmp_path / f"{split}.tsv.zst"), (f"0.5\t{target}\t{source}" for target, source in rows))
    settings = replace(SETTINGS, columns=(3, 2))
    prepare(str(tmp_path / "data"), {split: str(tmp_path / split) for split in SIZES}, settings, workers=2)
    assert_same(data, tmp_path / "data", files_in(data) - {"raw/train.labels.tsv"})


def test_shards_share_out_the_pairs(data, corpus, tmp_path):
    """Each shard is a data folder of its own; together they hold what one folder would, under the same ids."""
    out = tmp_path / "data"
    result = prepare(str(out), {"train": corpus[0]["train"], "valid": corpus[0]["valid"]}, replace(SETTINGS, shards=2))
    assert result["data"] == f"{out}/shard0:{out}/shard1" and data_folder(result["data"]) == str(out)
    plain = np.load(data / "train.lines.npy")
    ids = np.load(out / "train.lines.npy")
    assert set(plain) < set(ids)  # without the test split, the pair that is in it stays
    seen = []
    for number in range(2):
        shard = out / f"shard{number}"
        assert_same(out, shard, {"dict.de.txt", "valid.de-en.en.bin", "meta.de-en.de.idx"})
        lines = line_map(str(shard), "train")
        assert lines.tolist() == ids[number::2].tolist()
        for lang in ("de", "en"):
            given = raw(out, "train", lang)
            assert binarised(shard, "train", lang) == [spaced(given[line]) for line in lines]
        seen += lines.tolist()
    assert sorted(seen) == ids.tolist()
    assert not (out / "train.de-en.de.bin").exists() and not (out / "test.de-en.de.bin").exists()


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


# --- cleaning ---


def test_a_labelled_corpus_keeps_its_noise(corpus, tmp_path, monkeypatch, caplog):
    """Duplicates and ratio are cleaned away by default, but not where a label file stands beside the text."""
    monkeypatch.setattr(module, "binarise", lambda *args: None)
    settings = Settings("de", "en", vocab_size=500)
    with caplog.at_level("INFO"):
        labelled = prepare(str(tmp_path / "labelled"), corpus[0], settings)
    assert "train.labels.tsv: a noise experiment, so what you did not ask for stays off" in caplog.text
    assert labelled["settings"]["max_ratio"] == 0 and labelled["settings"]["drop_duplicates"] is False
    assert labelled["counts"]["train"]["dropped"] == {"empty": 2, "in_test": 1, "in_valid": 1, "too_long": 1}
    assert labelled["counts"]["train"]["dropped_by_kind"] == {"clean": 4, "misaligned": 1}
    for lang in ("de", "en"):
        shutil.copy(f"{corpus[0]['train']}.{lang}", tmp_path)
    plain = prepare(str(tmp_path / "plain"), {**corpus[0], "train": str(tmp_path / "train")}, settings)
    assert plain["settings"]["max_ratio"] == 1.5 and plain["settings"]["drop_duplicates"] is True
    dropped = plain["counts"]["train"]["dropped"]
    assert dropped["duplicate"] == 1 and dropped["ratio"] > 5 and "dropped_by_kind" not in plain["counts"]["train"]


def test_no_cleaning_keeps_all_but_empty_pairs(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "binarise", lambda *args: None)
    splits = [word for split, prefix in corpus[0].items() for word in (f"--{split}", prefix)]
    command = ["prepare", "--src", "de", "--tgt", "en", *splits, "--no-clean", "--vocab-size", "500", "--out"]
    assert main([*command, str(tmp_path / "data")]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["train"]["dropped"] == {"empty": 2}
    assert main([*command, str(tmp_path / "more"), "--max-ratio", "2"]) == 2
    assert "--no-clean: keeps what --max-ratio and --duplicates drop would take" in capsys.readouterr().err


def test_the_sample_of_sentencepiece_follows_the_seed(corpus):
    from fairseq_l2rw.corpus.pieces import train_model

    paths = [f"{corpus[0]['train']}.{lang}" for lang in ("de", "en")]
    models = [
        train_model(paths, part, seed, 200, "nmt_nfkc") for part, seed in ((0.2, 1), (0.2, 1), (0.2, 2), (1, 1), (1, 2))
    ]
    assert models[0] == models[1] != models[2] and models[3] == models[4] != models[0]


def peak_memory(folder, size):
    """Most bytes at a time that Python and numpy hold while so many different pairs are prepared (without fairseq)."""
    words = [f"w{number}" for number in range(50)]
    for split, first, count in (("train", 0, size), ("valid", size, 20)):
        for lang in ("de", "en"):
            rows = range(first, first + count)
            write_lines(str(folder / f"{split}.{lang}"), (f"{words[row % 50]} {words[row % 49]} {row}" for row in rows))
    tracemalloc.start()
    settings = Settings("de", "en", vocab_size=200, sample=1000)
    prepare(str(folder / "data"), {split: str(folder / split) for split in ("train", "valid")}, settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_grows_by_eight_bytes_a_pair(tmp_path, monkeypatch):
    """Twenty while hashes are merged; a set of Python's numbers takes over sixty."""
    monkeypatch.setattr(module, "binarise", lambda *args: None)
    monkeypatch.setattr("fairseq_l2rw.corpus.prepare_stages.BLOCK", 500)
    for name in ("prepare_stages", "pieces"):
        monkeypatch.setattr(f"fairseq_l2rw.corpus.{name}.CHUNK", 500)
    peaks = []
    for size in (2_000, 2_000, 32_000):  # the first one pays for imports
        folder = tmp_path / f"{len(peaks)}"
        folder.mkdir()
        peaks.append(peak_memory(folder, size))
    assert peaks[2] - peaks[1] < 30_000 * 20, peaks


# --- what is there is not made again ---


def test_a_kill_after_each_stage(data, corpus, tmp_path, monkeypatch):
    """Killed as each stage has done its work but not said so; the end is the same to the byte, and nothing stays behind."""
    done = []

    def mark(build, stage, result):
        if stage not in done:
            done.append(stage)
            raise KeyboardInterrupt
        write(build, stage, result)

    write = BuildFolder.mark
    monkeypatch.setattr(BuildFolder, "mark", mark)
    monkeypatch.setattr(binarising, "_preprocess", lambda build, *args: [
        shutil.copy(path, build.folder) for path in data.iterdir() if path.suffix in (".bin", ".idx") or "dict" in path.name
    ])  # fmt: skip
    out = tmp_path / "data"
    for stage in ("raw", "cleaned", "models", "pieces", "binarised"):
        with pytest.raises(KeyboardInterrupt):
            prepare(str(out), corpus[0], SETTINGS)
        assert done[-1] == stage and os.listdir(tmp_path) == [".data.partial"]
        (tmp_path / ".data.partial" / "raw" / ".train.de.partial-1").write_text("half")  # what a kill leaves of a file
    for name in ("write_raw", "clean", "train_sentencepiece", "cut_into_pieces"):
        monkeypatch.setattr(module, name, None)  # calling one of them again would fail
    assert prepare(str(out), corpus[0], SETTINGS)["reused"] is False
    assert os.listdir(tmp_path) == ["data"]
    assert_same(data, out)


def test_half_work_of_other_settings_is_not_used(corpus, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "binarise", stop)
        prepare(str(tmp_path / "data"), corpus[0], SETTINGS)
    monkeypatch.setattr(module, "binarise", lambda *args: None)
    result = prepare(str(tmp_path / "data"), corpus[0], replace(SETTINGS, meta_size=5))
    assert result["counts"]["meta"]["pairs"] == 5 == len(raw(tmp_path / "data", "meta", "de"))


def test_only_missing_files_are_made_again(data, corpus, tmp_path, monkeypatch):
    out = tmp_path / "data"
    shutil.copytree(data, out)
    (out / "raw" / "valid.en").unlink()
    for name in ("clean", "train_sentencepiece", "cut_into_pieces", "binarise"):
        monkeypatch.setattr(module, name, None)
    assert prepare(str(out), corpus[0], SETTINGS)["reused"] is False
    assert_same(data, out)
    assert prepare(str(out), corpus[0], SETTINGS)["reused"] is True


def test_one_at_a_time(corpus, tmp_path):
    out = str(tmp_path / "data")
    (tmp_path / ".data.partial").mkdir()
    with locked(str(tmp_path / ".data.partial"), out):
        with pytest.raises(L2RWError, match=r"another prepare is making it; wait for its end"):
            prepare(out, corpus[0], SETTINGS)


# --- errors ---


@pytest.mark.parametrize(
    "settings, message",
    [
        (replace(SETTINGS, vocab_size=600), r"vocab_size was 500, is now 600"),
        (replace(SETTINGS, meta_size=10), r"meta_size was 20, is now 10"),
        (replace(SETTINGS, joint=False), r"joint was True, is now False"),
        (replace(SETTINGS, max_ratio=None, drop_duplicates=None), r"drop_duplicates was True, is now False"),
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
    refused(tmp_path, prefixes, Settings("de", "en"), r"none\.de: no such file \(nor .*none\.de\.gz, nor .*\)")


def test_meta_size_that_leaves_nothing(corpus, tmp_path):
    message = r"--meta-size 60: .*valid\.de, .*valid\.en has 60 lines, and some must be left to validate"
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


@pytest.mark.parametrize("columns", [(0, 1), (2, 2)])
def test_columns_that_cannot_be(corpus, tmp_path, columns):
    refused(
        tmp_path,
        corpus[0],
        replace(SETTINGS, columns=columns),
        r"--columns \d,\d: give two different columns from 1 on",
    )


def test_shards(corpus, tmp_path):
    refused(tmp_path, corpus[0], replace(SETTINGS, shards=257), r"--shards 257: 256 at most")
    for lang in ("de", "en"):
        write_lines(str(tmp_path / f"few.{lang}"), ["eins", "zwei", "drei"])
    prefixes = {**corpus[0], "train": str(tmp_path / "few")}
    refused(tmp_path, prefixes, replace(SETTINGS, shards=4), r"--shards 4: more than the 3 pairs that are left")


def test_a_failure_of_fairseq_is_told_and_gone_on_from(corpus, tmp_path, monkeypatch, capsys):
    """It is not the text's fault (a full disk, say): what was done before stays."""
    failed = subprocess.CompletedProcess([], 1, stdout="what fairseq said\n")
    monkeypatch.setattr(binarising.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(
        L2RWError, match=r"fairseq-preprocess ended with status 1; .*Run the same command again to go on"
    ):
        prepare(str(tmp_path / "data"), corpus[0], SETTINGS)
    assert "what fairseq said" in capsys.readouterr().err
    monkeypatch.setattr(module, "cut_into_pieces", None)
    monkeypatch.setattr(module, "binarise", lambda *args: None)
    assert prepare(str(tmp_path / "data"), corpus[0], SETTINGS)["reused"] is False


def test_read_record_of_other_folders(tmp_path):
    with pytest.raises(
        L2RWError, match=r"prepare\.json: no such file; give a folder that 'fairseq-l2rw prepare' has made"
    ):
        read_record(str(tmp_path))
    (tmp_path / "prepare.json").write_text('{"format": 99}')
    with pytest.raises(L2RWError, match=r"prepare\.json: not readable \(format 99, this version reads 2\)"):
        read_record(str(tmp_path))
    (tmp_path / "prepare.json").write_text("{")
    with pytest.raises(L2RWError, match=r"prepare\.json: not readable"):
        read_record(str(tmp_path))


def test_the_command(data, corpus, capsys):
    splits = [word for split, prefix in corpus[0].items() for word in (f"--{split}", prefix)]
    common = ["prepare", "--src", "de", "--tgt", "en", *splits, "--out", str(data), "--meta-size", "20"]
    common += ["--max-ratio", "0", "--duplicates", "drop"]
    assert main([*common, "--vocab-size", "500"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True
    assert main([*common, "--vocab-size", "500", "--separate"]) == 2
    assert "joint was True, is now False" in capsys.readouterr().err
