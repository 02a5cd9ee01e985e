"""Line N stays line N, whatever Unicode the lines hold (hypothesis draws them)."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.corpus.bitext import read_lines, read_pairs, write_lines
from fairseq_l2rw.corpus.corrupt import corrupt_files

# What ends a line elsewhere, markup, marks of direction, control characters: all of it may stand within a sentence.
HOSTILE = ["\r", "\x0b", "\x0c", "\x1b[31m", "\x85", "\u2028", "\u2029", "\u202e", "\ufeff", "\t", "\0", "<script>", "&amp;", '"', "ｘ", "😀"]
TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=12)
SENTENCE = st.one_of(TEXT, st.lists(st.one_of(TEXT, st.sampled_from(HOSTILE)), max_size=5).map(" ".join))
CORPUS = st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=30)


@given(CORPUS)
@settings(max_examples=60, deadline=None)
def test_written_and_read(pairs):
    with tempfile.TemporaryDirectory() as folder:
        for side, name in enumerate(("a", "b.gz")):
            write_lines(str(Path(folder, name)), [pair[side] for pair in pairs])
        assert list(read_pairs(str(Path(folder, "a")), str(Path(folder, "b.gz")))) == pairs


@given(CORPUS, st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_corrupt_keeps_every_line_in_its_place(pairs, seed):
    """As many lines as before; sources as they were; a pair that is labelled clean is as it was; a label for every line."""
    with tempfile.TemporaryDirectory() as folder:
        src, tgt, out_src, out_tgt, labels = (str(Path(folder, name)) for name in ("src", "tgt", "out.src", "out.tgt", "labels.tsv"))
        write_lines(src, [source for source, _ in pairs])
        write_lines(tgt, [target for _, target in pairs])
        corrupt_files(src, tgt, out_src, out_tgt, labels, {"misaligned": 0.3, "misordered": 0.2, "truncated": 0.2}, seed)
        after = list(read_pairs(out_src, out_tgt))
        rows = [line.split("\t") for line in read_lines(labels)][1:]
        assert [row[0] for row in rows] == [str(number) for number in range(len(pairs))]
        assert [source for source, _ in after] == [source for source, _ in pairs]
        for before, now, row in zip(pairs, after, rows, strict=True):
            assert row[1] in ("clean", "misaligned", "misordered", "truncated")
            assert row[1] != "clean" or now == before
