"""Corpora that are read stretch by stretch: the same lines as fairseq and the raw files have, whatever the stretches."""

import json

import numpy as np
import pytest
import sentencepiece
import torch
from fairseq.data import indexed_dataset

from fairseq_l2rw.corpus.bitext import write_lines
from fairseq_l2rw.corpus.prepare import FORMAT
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.corpora import (
    BinarisedCorpus,
    RawCorpus,
    TokenFile,
    dictionary_folder,
    sentencepiece_paths,
)
from tests.translation.harness import dictionary, pairs

KEPT = [0, 1, 4, 5, 6, 9, 10, 12, 13, 14, 15]
DROPPED = {2: "empty", 3: "duplicate", 7: "too_long", 8: "too_long", 11: "in_test", 16: "empty"}
SENTENCES = pairs([5, 1, 3, 8, 2, 2, 7, 4, 6, 1, 3], [2, 2, 9, 1, 4, 5, 3, 7, 1, 1, 2], seed=4)
RAW = [[f"{lang} {n}\u2028\t<{n}>" for n in range(17)] for lang in ("de", "en")]


def binarise(folder, sentences):
    folder.mkdir(parents=True, exist_ok=True)
    for side, lang in enumerate(("de", "en")):
        prefix = str(folder / f"train.de-en.{lang}")
        builder = indexed_dataset.make_builder(indexed_dataset.data_file_path(prefix), "mmap", vocab_size=20)
        for sentence in sentences:
            builder.add_item(torch.tensor(sentence[side]))
        builder.finalize(indexed_dataset.index_file_path(prefix))
        dictionary().save(str(folder / f"dict.{lang}.txt"))


@pytest.fixture(params=[1, 2, 3])
def folder(request, tmp_path):
    """A prepared folder, its training pairs in it or dealt out to shards."""
    folder, count = tmp_path / "Daten und so ß", request.param
    folder.mkdir()
    for shard in range(count):
        binarise(folder if count == 1 else folder / f"shard{shard}", SENTENCES[shard::count])
    np.save(folder / "train.lines.npy", np.array(KEPT))
    write_lines(str(folder / "train.dropped.tsv"), ["id\treason", *(f"{n}\t{reason}" for n, reason in DROPPED.items())])
    for lang, lines in zip(("de", "en"), RAW):
        write_lines(str(folder / "raw" / f"train.{lang}"), lines)
    (folder / "prepare.json").write_text(json.dumps({"format": FORMAT, "settings": {"src": "de", "tgt": "en"}}))
    return folder


def read(corpus, size):
    return [line for first in range(0, corpus.lines, size) for line in corpus.read(first, min(first + size, corpus.lines))]


@pytest.mark.parametrize("size", [1, 2, 5, 17, 100])
def test_every_raw_line_in_order(folder, size):
    corpus = BinarisedCorpus(str(folder), "train")
    assert (corpus.lines, corpus.pairs, corpus.languages) == (17, 11, ("de", "en"))
    lines = read(corpus, size)
    assert [line.number for line in lines] == list(range(17))
    assert {line.number: line.reason for line in lines if line.reason} == DROPPED
    assert [[line.source for line in lines], [line.target for line in lines]] == RAW
    tokens = [tuple(side.tolist() for side in line.tokens) for line in lines if line.tokens is not None]
    assert tokens == [tuple(sentence) for sentence in SENTENCES]
    assert [line.number for line in lines if line.tokens is not None] == KEPT
    assert all(side.dtype == torch.int64 for line in lines if line.tokens for side in line.tokens)


def test_a_stretch_from_the_middle(folder):
    """What a shard, or a run that goes on after a kill, reads first."""
    lines = BinarisedCorpus(str(folder), "train").read(7, 13)
    whole = read(BinarisedCorpus(str(folder), "train"), 17)[7:13]
    for a, b in zip(lines, whole, strict=True):
        assert (a.number, a.source, a.target, a.reason) == (b.number, b.source, b.target, b.reason)
        assert (a.tokens is None) == (b.tokens is None) and all(torch.equal(*p) for p in zip(a.tokens or (), b.tokens or ()))


def test_a_folder_of_fairseqs(folder):
    """Without prepare's record there is no raw text: the pieces stand in for it."""
    (folder / "prepare.json").unlink()
    for name in ("train.lines.npy", "train.dropped.tsv"):
        (folder / name).unlink()
    corpus = BinarisedCorpus(str(folder), "train")
    lines = read(corpus, 4)
    assert corpus.lines == 11 and [line.number for line in lines] == list(range(11))
    assert [line.source for line in lines] == [dictionary().string(torch.tensor(source)) for source, _ in SENTENCES]


def test_dictionaries_are_found(folder):
    found = dictionary_folder(str(folder))
    assert found == str(folder if (folder / "dict.de.txt").exists() else folder / "shard0")


def test_tokens_are_fairseqs(tmp_path):
    binarise(tmp_path, SENTENCES)
    prefix = str(tmp_path / "train.de-en.de")
    theirs, ours = indexed_dataset.MMapIndexedDataset(prefix), TokenFile(prefix)
    assert ours.length == len(theirs)
    assert [t.tolist() for t in ours.read(3, 9)] == [theirs[i].tolist() for i in range(3, 9)]
    assert ours.read(4, 4) == []


def test_bad_folders(folder, tmp_path):
    with pytest.raises(L2RWError, match="no binarised split 'dev'; give --gen-subset another"):
        BinarisedCorpus(str(folder), "dev")
    np.save(folder / "train.lines.npy", np.array(KEPT[:-1]))
    with pytest.raises(L2RWError, match="11 binarised pairs, but raw lines of 10; prepare it again"):
        BinarisedCorpus(str(folder), "train")
    np.save(folder / "train.lines.npy", np.array([*KEPT[:-1], 40]))
    with pytest.raises(L2RWError, match="raw line 16 is neither binarised nor dropped"):
        read(BinarisedCorpus(str(folder), "train"), 17)
    np.save(folder / "train.lines.npy", np.array(KEPT))
    write_lines(str(folder / "raw" / "train.en"), RAW[1][:-1])
    with pytest.raises(L2RWError, match="train.en: shorter than the binarised data beside it"):
        read(BinarisedCorpus(str(folder), "train"), 17)
    (tmp_path / "x.idx").write_bytes(b"TNTIDX\x00\x00" + bytes(40))
    with pytest.raises(L2RWError, match="x.idx: not in fairseq's mmap format"):
        TokenFile(str(tmp_path / "x"))


# ---- raw text ---------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("spm") / "spm"
    text = [f"der {a} und die {b}" for a in ("Hund", "Baum", "Fluss") for b in ("Katze", "Wiese", "Quelle")] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_prefix=str(prefix), vocab_size=40, model_type="bpe", minloglevel=2
    )
    return f"{prefix}.model"


def test_raw_text(model, tmp_path):
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    words = dictionary([processor.id_to_piece(i) for i in range(3, processor.get_piece_size())])
    source, target = ["der  Hund\r", "die Katze", " \u2028 ", "und"], ["die\x85Wiese", "", "der", "Ω"]
    for name, lines in (("a", source), ("b", target)):
        write_lines(str(tmp_path / name), lines)
    write_lines(str(tmp_path / "c.tsv"), [f"url\t{t}\t{s}\tmore" for s, t in zip(source, target)])
    one = RawCorpus([str(tmp_path / "c.tsv")], (3, 2), [model] * 2, [words] * 2)
    for size in (1, 3, 4):
        lines = read(RawCorpus([str(tmp_path / name) for name in "ab"], (1, 2), [model] * 2, [words] * 2), size)
        assert [line.reason for line in lines] == [None, "empty", "empty", None]
        assert [line.source for line in lines] == source and [line.target for line in lines] == target
        assert words.string(lines[0].tokens[0], "sentencepiece") == "der Hund"
        assert words.string(lines[0].tokens[1], "sentencepiece") == "die Wiese" and lines[0].tokens[1][-1] == words.eos()
    for a, b in zip(lines, read(one, 3)):
        assert (a.source, a.target, a.reason) == (b.source, b.target, b.reason) and a.original is None
        assert b.original == f"url\t{b.target}\t{b.source}\tmore"
        assert b.reason or all(torch.equal(*p) for p in zip(a.tokens, b.tokens))


def test_raw_text_that_does_not_fit(model, tmp_path):
    write_lines(str(tmp_path / "a"), ["x"])
    write_lines(str(tmp_path / "b"), ["x", "y"])
    with pytest.raises(L2RWError, match="--input: .*a has 1 lines, .*b has 2"):
        RawCorpus([str(tmp_path / "a"), str(tmp_path / "b")], (1, 2), [model] * 2, [dictionary()] * 2)
    with pytest.raises(L2RWError, match="a, line 1: 1 columns, and column 2 is wanted"):
        RawCorpus([str(tmp_path / "a")], (1, 2), [model] * 2, [dictionary()] * 2).read(0, 1)
    with pytest.raises(L2RWError, match="spm.model: no such file; name the sentencepiece models"):
        sentencepiece_paths(str(tmp_path), ("de", "en"))
