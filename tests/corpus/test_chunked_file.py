"""A file in chunks: a kill at any byte loses no whole chunk, and nothing is there twice."""

import gzip
import shutil

import pytest

from fairseq_l2rw.corpus.chunked_file import ChunkedFile

CHUNKS = ["one\n", "zwei ä\n", "", "four\n" * 50]


def write_rest(path, made_from=None):
    file = ChunkedFile(str(path), made_from or {"a": 1})
    begun = file.chunks
    for number in range(begun, len(CHUNKS)):
        file.write(CHUNKS[number], {"chunks": number + 1})
    file.finish()
    return begun


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mit Leerzeichen ß" / "out.tsv"


def test_written_at_one_go(path):
    assert write_rest(path) == 0
    assert path.read_text(encoding="utf-8") == "".join(CHUNKS)
    assert [file.name for file in path.parent.iterdir()] == ["out.tsv"]


@pytest.mark.parametrize("torn", ["", "half a li"])
@pytest.mark.parametrize("whole", range(5))
def test_killed_and_gone_on_with(path, whole, torn):
    file = ChunkedFile(str(path), {"a": 1})
    for number in range(whole):
        file.write(CHUNKS[number], {"chunks": number + 1})
    with open(path.parent / ".out.tsv.partial", "a") as handle:
        handle.write(torn)
    assert not path.exists()
    again = ChunkedFile(str(path), {"a": 1})
    assert again.chunks == whole and again.notes == ({"chunks": whole} if whole else None)
    assert write_rest(path) == whole
    assert path.read_text(encoding="utf-8") == "".join(CHUNKS)


def test_other_settings_begin_anew(path, caplog):
    ChunkedFile(str(path), {"a": 1}).write("from other settings\n")
    assert write_rest(path, {"a": 2}) == 0
    assert path.read_text(encoding="utf-8") == "".join(CHUNKS) and "begun with other settings" in caplog.text


@pytest.mark.parametrize("name", [".out.tsv.partial", ".out.tsv.partial.json"])
def test_half_of_what_was_left_is_lost(path, name):
    ChunkedFile(str(path), {"a": 1}).write("one\n")
    (path.parent / name).write_bytes(b"")
    assert write_rest(path) == 0
    assert path.read_text(encoding="utf-8") == "".join(CHUNKS)


def test_compressed_shards_join(tmp_path):
    for name in ("a.gz", "b.gz"):
        write_rest(tmp_path / name)
    with open(tmp_path / "both.gz", "wb") as both:
        for name in ("a.gz", "b.gz"):
            with open(tmp_path / name, "rb") as part:
                shutil.copyfileobj(part, both)
    assert gzip.open(tmp_path / "both.gz", "rt", encoding="utf-8").read() == "".join(CHUNKS) * 2
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
