"""The official distributions, read from tiny ones."""

import shutil

import pytest

from fairseq_l2rw.corpus import official
from fairseq_l2rw.corpus.bitext import read_lines
from fairseq_l2rw.errors import L2RWError
from scripts import official as make


@pytest.fixture(scope="module")
def wmt14(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wmt14") / "raw"
    return folder, make.wmt14(folder, train=30, dev=5, test=4)


@pytest.fixture(scope="module")
def iwslt14(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iwslt14") / "raw"
    return folder, make.iwslt14(folder)


def lines(folder, split, lang):
    return list(read_lines(str(folder / f"{split}.{lang}")))


def spaced(line):
    return " ".join(line.split())


@pytest.mark.parametrize("unpacked", [False, True])
def test_wmt14(wmt14, tmp_path, unpacked):
    raw, text = wmt14
    if unpacked:
        for archive in raw.iterdir():
            shutil.unpack_archive(archive, tmp_path / "raw")
        raw = tmp_path / "raw"
    out = tmp_path / "text"
    assert official.write_wmt14(str(raw), str(out)) == {"meta": 5, "valid": 5, "test": 6, "train": 90}
    for lang in ("de", "en"):
        given = text[lang]
        assert lines(out, "train", lang) == given["europarl"] + given["crawl"] + given["news"]
        assert lines(out, "meta", lang) == given["2012"] and lines(out, "valid", lang) == given["2013"]
        assert lines(out, "test", lang) == [spaced(line) for line in given["test"]]


def test_the_test_set_is_that_of_sacrebleu(wmt14, tmp_path):
    """Its own reader of this format is the oracle; it keeps what is not escaped as it is."""
    from sacrebleu.dataset.fake_sgml import FakeSGMLDataset

    raw, _ = wmt14
    shutil.unpack_archive(raw / "test-full.tgz", tmp_path)
    path = tmp_path / "test-full" / "newstest2014-deen-ref.de.sgm"
    reader = FakeSGMLDataset("wmt14/full", data=[], langpairs={})
    if not hasattr(reader, "_convert_format"):
        pytest.skip("this sacrebleu reads its sgm files in another way")
    reader._convert_format(str(path), str(tmp_path / "theirs"))
    ours = list(official.read_sgm(read_lines(str(path))))
    assert ours == list(read_lines(str(tmp_path / "theirs"))) and any("A & B" in line for line in ours)


def test_iwslt14(iwslt14, tmp_path):
    pytest.importorskip("sacremoses")
    raw, text = iwslt14
    counts = official.write_iwslt14(str(raw), str(tmp_path))
    # a title and a description of each of two talks stay, as in the recipe
    assert counts["train"] + counts["valid"] + counts["left_out"] == 460 + 4
    assert counts["valid"] == (counts["train"] + counts["valid"]) // 23 and counts["test"] == 5 * 5 + 2
    from sacremoses import MosesTokenizer

    for lang in ("de", "en"):
        tokenizer = MosesTokenizer(lang)
        tests = [spaced(line) for name in make.IWSLT14_TESTS for line in text[lang][name]]
        assert lines(tmp_path, "test.raw", lang) == tests
        expected = [tokenizer.tokenize(line.replace("’", "'"), return_str=True).lower() for line in tests]
        assert lines(tmp_path, "test", lang) == expected and any("&amp;" in line for line in expected)
        kept = lines(tmp_path, "train", lang)
        assert kept[0] == "a title" and not any("<" in line or "talks, toys" in line for line in kept)
    sides = [lines(tmp_path, "train", lang) + lines(tmp_path, "valid", lang) for lang in ("de", "en")]
    for pair in zip(*sides):
        lengths = [len(side.split()) for side in pair]
        assert max(lengths) <= 1.5 * min(lengths)
    # every 23rd of those kept, in order: the recipe, by hand
    pairs = []
    for pair in zip(*(["A title", "TALK: a description.", *text[lang]["train"][:230]] for lang in ("de", "en"))):
        tokens = [
            MosesTokenizer(lang).tokenize(side, return_str=True).lower() for lang, side in zip(("de", "en"), pair)
        ]
        lengths = [len(side.split()) for side in tokens]
        if max(lengths) <= 1.5 * min(lengths):
            pairs.append(tokens[0])
    assert lines(tmp_path, "valid", "de")[: len(pairs) // 23] == pairs[22::23]


def test_what_is_missing_is_named(wmt14, iwslt14, tmp_path):
    with pytest.raises(
        L2RWError, match=r"--raw .*: no training-parallel-europarl-v7\.tgz in it, nor training/europarl"
    ):
        official.write_wmt14(str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(L2RWError, match=r"--raw .*: no de-en\.tgz in it and no train\.tags\.de-en\.de"):
        official.write_iwslt14(str(tmp_path), str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_is_named(wmt14, tmp_path):
    for archive in wmt14[0].iterdir():
        data = archive.read_bytes()
        (tmp_path / archive.name).write_bytes(data[: len(data) // 2] if archive.name == "dev.tgz" else data)
    with pytest.raises(L2RWError, match=r"dev/newstest2012\.\w\w cannot be read"):
        official.write_wmt14(str(tmp_path), str(tmp_path / "out"))


def test_unequal_sides_are_told(wmt14, tmp_path):
    for archive in wmt14[0].iterdir():
        (tmp_path / archive.name).write_bytes(archive.read_bytes())
    (tmp_path / "commoncrawl.de-en.de").write_text("eine\n")
    (tmp_path / "commoncrawl.de-en.en").write_text("one\ntwo\n")
    with pytest.raises(L2RWError, match=r"commoncrawl\.de-en: unequal line counts"):
        official.write_wmt14(str(tmp_path), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "train.de").exists()


def test_entities_of_a_file_are_not_expanded():
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x><seg>&b;</seg></x>'
    with pytest.raises(L2RWError, match=r"t\.xml: not readable as XML .*EntitiesForbidden"):
        list(official.read_iwslt_xml(bomb, "t.xml"))
    with pytest.raises(L2RWError, match=r"t\.xml: not readable as XML"):
        list(official.read_iwslt_xml("<x><seg>1</x>", "t.xml"))
    assert list(official.read_iwslt_xml("<x><seg> A &amp; <b>B</b> </seg></x>", "t.xml")) == ["A & B"]


def test_the_command(wmt14, tmp_path, capsys):
    assert official.main(["wmt14-en-de", str(wmt14[0]), str(tmp_path)]) == 0
    assert "train 90" in capsys.readouterr().out
    assert official.main(["wmt14-en-de", str(tmp_path), str(tmp_path)]) == 2
    assert official.main(["wmt15"]) == 2
    assert "usage: " in capsys.readouterr().err.splitlines()[-1]
