"""Reading and writing raw text."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.corpus.bitext import (
    Bitext,
    find_bitext,
    find_text,
    read_lines,
    read_pairs,
    read_tsv,
    write_lines,
    writing,
)
from fairseq_l2rw.errors import L2RWError

# Any text in which "\n" does not occur; surrogates cannot be encoded.
LINES = st.lists(st.text(st.characters(blacklist_characters="\n", blacklist_categories=("Cs",))))
LINE_SEPARATORS = ["a\u2028b", "a\x85b", "a\rb", "a\r", "\x0b\x0c\x1c\x1d\x1e", "", " a ", "\ufeff"]


@pytest.mark.parametrize("name", ["text.de", "text.de.gz", "text.de.zst"])
@settings(deadline=None)
@given(lines=LINES)
def test_any_line_comes_back_unchanged(tmp_path_factory, name, lines):
    if name.endswith(".zst"):
        pytest.importorskip("zstandard")
    path = str(tmp_path_factory.getbasetemp() / name)
    assert write_lines(path, lines) == len(lines)
    assert list(read_lines(path)) == lines


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\n".join(LINE_SEPARATORS).encode())  # and the last line has none
    assert list(read_lines(str(path))) == LINE_SEPARATORS


def test_gzip_has_the_same_bytes_each_time(tmp_path):
    paths = [str(tmp_path / name) for name in ("one.gz", "two.gz")]
    for path in paths:
        write_lines(path, ["eins", "zwei"])
    contents = [open(path, "rb").read() for path in paths]
    assert contents[0] == contents[1]
    assert contents[0][4:8] == b"\0\0\0\0"  # no time in the header
    assert gzip.decompress(contents[0]) == b"eins\nzwei\n"


def test_files_appear_together_and_only_when_complete(tmp_path):
    paths = [str(tmp_path / "new" / name) for name in ("a", "b")]
    with pytest.raises(RuntimeError):
        with writing(*paths) as handles:
            handles[0].write("half")
            raise RuntimeError
    assert list((tmp_path / "new").iterdir()) == []
    with writing(*paths) as handles:
        handles[0].write("whole\n")
        assert not (tmp_path / "new" / "a").exists()
    assert [open(path).read() for path in paths] == ["whole\n", ""]
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old\n")
    with pytest.raises(RuntimeError):
        with writing(str(path)) as (handle,):
            handle.write("new\n")
            raise RuntimeError
    assert path.read_text() == "old\n"


@pytest.mark.parametrize("counts", [(3, 5), (5, 3), (0, 1), (4, 5)])
def test_unequal_line_counts_name_both_files_and_counts(tmp_path, counts):
    paths = [str(tmp_path / f"t.{lang}") for lang in ("de", "en")]
    for path, count in zip(paths, counts):
        write_lines(path, ["x"] * count)
    with pytest.raises(L2RWError) as error:
        list(read_pairs(*paths))
    assert f"{paths[0]} has {counts[0]} lines, {paths[1]} has {counts[1]}" in str(error.value)


def test_pairs_of_equal_files(tmp_path):
    paths = [str(tmp_path / f"t.{lang}") for lang in ("de", "en.gz")]
    write_lines(paths[0], ["eins", "zwei"])
    write_lines(paths[1], ["one", "two"])
    assert list(read_pairs(*paths)) == [("eins", "one"), ("zwei", "two")]


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path):
    path = tmp_path / "latin1.de"
    path.write_bytes(b"eins\nzw\xf6lf\n")
    with pytest.raises(L2RWError, match=r"latin1\.de, line 2: not UTF-8"):
        list(read_lines(str(path)))


def test_a_damaged_gzip_file_is_named(tmp_path):
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"eins\n" * 1000)[:-12])
    with pytest.raises(L2RWError, match=r"cut\.gz: damaged gzip file"):
        list(read_lines(str(path)))
    path.write_bytes(b"plain text\n")
    with pytest.raises(L2RWError, match=r"cut\.gz: damaged gzip file"):
        list(read_lines(str(path)))


def test_a_zstandard_file_of_several_frames_and_a_cut_one(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    frames = [zstandard.compress(b"eins\n" * 1000), zstandard.compress(b"zwei\n" * 1000)]
    path = tmp_path / "text.zst"
    path.write_bytes(b"".join(frames))
    assert list(read_lines(str(path))) == ["eins"] * 1000 + ["zwei"] * 1000
    for damaged in (b"".join(frames)[:-3], b"plain text\n", frames[0] + b"x" * 20):
        path.write_bytes(damaged)
        with pytest.raises(L2RWError, match=r"text\.zst: damaged Zstandard file after line \d+"):
            list(read_lines(str(path)))


def test_zstandard_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    for use in (lambda path: list(read_lines(path)), lambda path: write_lines(path, ["eins"])):
        with pytest.raises(L2RWError, match=r"\.zst files need the library zstandard: pip install zstandard"):
            use(str(tmp_path / "text.zst"))
    assert list(tmp_path.iterdir()) == []


def test_columns_of_a_tsv(tmp_path):
    path = str(tmp_path / "pairs.tsv.gz")
    write_lines(path, ["0.9\teins\tone", "0.1\t\ttwo\tmore"])
    assert list(read_tsv(path, (2, 3))) == [("eins", "one"), ("", "two")]
    assert list(read_tsv(path, (3, 1))) == [("one", "0.9"), ("two", "0.1")]
    with pytest.raises(L2RWError, match=r"pairs\.tsv\.gz, line 1: 3 columns, and column 4 is wanted"):
        list(read_tsv(path, (2, 4)))


def test_what_a_prefix_stands_for(tmp_path):
    def find(name, langs=("de", "en")):
        return find_bitext(str(tmp_path / name), langs, (2, 1))

    for name in ("a.de", "a.en.gz", "b.tsv", "c.tsv.gz", "d.de", "d.tsv"):
        write_lines(str(tmp_path / name), ["x\ty"])
    assert find("a") == Bitext((str(tmp_path / "a.de"), str(tmp_path / "a.en.gz")))
    assert find("b") == find("b.tsv") == Bitext((str(tmp_path / "b.tsv"),), (2, 1))
    assert find("c") == find("c.tsv") == find("c.tsv.gz") == Bitext((str(tmp_path / "c.tsv.gz"),), (2, 1))
    assert list(find("c").pairs()) == [("y", "x")]
    with pytest.raises(L2RWError, match=r"d\.en: no such file"):  # half a pair of files is no reason to take the table
        find("d")
    with pytest.raises(L2RWError, match=r"e\.tsv: no such file \(nor .*e\.tsv\.gz, nor .*\); give a TSV file"):
        find("e.tsv")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(L2RWError, match=r"none\.de: cannot be read \(No such file or directory\)"):
        list(read_lines(str(tmp_path / "none.de")))
    with pytest.raises(L2RWError, match=r"none\.de: no such file \(nor .*none\.de\.gz, nor .*\.zst\)"):
        find_text(str(tmp_path / "none"), "de")


def test_find_text_prefers_the_plain_file(tmp_path):
    (tmp_path / "t.de.gz").write_bytes(gzip.compress(b""))
    assert find_text(str(tmp_path / "t"), "de").endswith("t.de.gz")
    (tmp_path / "t.de").write_text("")
    assert find_text(str(tmp_path / "t"), "de").endswith("t.de")
