"""Chunks, shards and kills do not change a byte; a cleaned, spoilt, weighed and filtered bitext stays aligned."""

import random
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.corpus.bitext import read_lines, write_lines
from fairseq_l2rw.corpus.corrupt import CLEAN, KINDS, NEEDS_THIRD, corrupt_files
from fairseq_l2rw.corpus.filter import Rule, Text, filter_bitext
from fairseq_l2rw.corpus.lines import iter_labels
from fairseq_l2rw.corpus.score_files import FORMATS, Layout
from fairseq_l2rw.corpus.score_summary import ScoreSummary
from fairseq_l2rw.corpus.scoring import score_corpus
from fairseq_l2rw.corpus.shards import Shard
from fairseq_l2rw.errors import L2RWError

COLUMNS = ("id", "weight", "reason", "source", "target")


class Corpus:
    """Lines of text in memory; empty ones have no weight."""

    def __init__(self, pairs):
        self.pairs, self.lines, self.most = pairs, len(pairs), 0

    def read(self, first, last):
        self.most = max(self.most, last - first)
        return [
            SimpleNamespace(number=n, source=s, target=t, original=None, reason=None if s.strip() and t.strip() else "empty")
            for n, (s, t) in list(enumerate(self.pairs))[first:last]
        ]


def weight(line):
    return random.Random(f"{line.source}|{line.target}").random()


def scorer(lines):
    return [None if line.reason else {"weight": f"{weight(line):.6g}"} for line in lines]


def score(pairs, out, shard=Shard(), format="tsv", chunk=3, scorer=scorer):
    corpus = Corpus(pairs)
    score_corpus(corpus, scorer, str(out), Layout(format, "weight", COLUMNS), shard, ScoreSummary("weight"), {}, chunk)
    return corpus


PAIRS = [(f"Satz {i}", f"sentence {i}" if i % 4 else "") for i in range(20)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [2, 3, 9])
@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:2], []], ids=len)
def test_shards_concatenate_to_the_same_bytes(tmp_path, format, count, pairs):
    score(pairs, tmp_path / "whole", format=format)
    for number in range(count):
        assert score(pairs, tmp_path / "part", Shard(number, count), format).most <= 3
    parts = sorted(tmp_path.glob("part.*"))
    assert len(parts) == count
    joined = b"".join(part.read_bytes() for part in parts)
    assert joined == (tmp_path / "whole").read_bytes() and (joined or not pairs)


@pytest.mark.parametrize("at", range(7))
def test_killed_and_gone_on_with(tmp_path, at):
    score(PAIRS, tmp_path / "whole")
    calls = []

    def dies(lines):
        calls.append(lines[0].number)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return scorer(lines)

    with pytest.raises(KeyboardInterrupt):
        score(PAIRS, tmp_path / "out", scorer=dies)
    assert not (tmp_path / "out").exists()
    score(PAIRS, tmp_path / "out", scorer=lambda lines: calls.append(lines[0].number) or scorer(lines))
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert calls == [*range(0, 3 * at + 1, 3), *range(3 * at, 20, 3)], "a chunk was weighed twice"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_bad_input_leaves_nothing_behind(tmp_path):
    def finds_a_bad_line(lines):
        if lines[0].number == 9:
            raise L2RWError("train.de, line 10: bad")
        return scorer(lines)

    with pytest.raises(L2RWError):
        score(PAIRS, tmp_path / "out", scorer=finds_a_bad_line)
    assert list(tmp_path.iterdir()) == []


# ---- alignment --------------------------------------------------------------

#: anything that UTF-8 can hold but the line end: controls, right-to-left marks, separators, markup, tabs
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=30),
    st.sampled_from(
        ["", " ", "\t", "\r", "\x00", "a\tb", "\u202eabc\u202c", "\u2028", "\x85", "\x0b\x0c\x1c", "<seg id='1'>&amp;</seg>", "0.5",
         "id\tweight", "\ufeffBOM", "x" * 50_000, "wort " * 5_000, "กขค", "é", "e\u0301"]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12),
    st.sampled_from(FORMATS),
    st.floats(0, 1),
    st.integers(1, 5),
    st.sampled_from(["", ".gz"]),
)
def test_corrupt_weights_filter_keep_lines_aligned(pairs, format, keep, chunk, ending):
    with tempfile.TemporaryDirectory(prefix="Ünsinn mit Leerzeichen ") as folder:
        at = {name: str(Path(folder, name)) for name in ("a b.de", "a b.en", "ç.de", "ç.en", "ç.labels.tsv", "w", "k.de", "k.en")}
        for side, name in enumerate(("a b.de", "a b.en")):
            write_lines(at[name], (pair[side] for pair in pairs))
        rates = {kind: 0.1 for kind in KINDS if kind != NEEDS_THIRD}
        corrupt_files(at["a b.de"], at["a b.en"], at["ç.de"], at["ç.en"], at["ç.labels.tsv"], rates, 1)
        spoilt = list(zip(read_lines(at["ç.de"]), read_lines(at["ç.en"]), strict=True))
        kinds = [kind for _, kind in iter_labels(at["ç.labels.tsv"])]
        for before, after, kind in zip(pairs, spoilt, kinds, strict=True):
            assert (after == before) == (kind == CLEAN)

        score(spoilt, at["w"] + ending, format=format, chunk=chunk)
        text, out = Text((at["ç.de"], at["ç.en"])), [at["k.de"], at["k.en"]]
        filter_bitext(at["w"] + ending, text, out, Rule(keep=keep), labels=at["ç.labels.tsv"])

        values = [float(f"{weight(line):.6g}") if not line.reason else 0.0 for line in Corpus(spoilt).read(0, len(spoilt))]
        usable = [i for i, (s, t) in enumerate(spoilt) if format != "tsv" or (s.strip() and t.strip())]
        best = sorted(usable, key=lambda i: (-values[i], i))[: round(keep * len(spoilt))]
        want = [spoilt[i] for i in sorted(best)]
        assert list(zip(read_lines(at["k.de"]), read_lines(at["k.en"]), strict=True)) == want
