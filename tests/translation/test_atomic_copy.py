"""A copy of a checkpoint is whole or not there: the old one stays until the new one is complete."""

import os
import shutil

import pytest
from fairseq.file_io import PathManager

import fairseq_l2rw.translation  # noqa: F401  mends the copy
from fairseq_l2rw.translation.atomic_copy import mend_copy


@pytest.fixture
def files(tmp_path):
    """A new checkpoint, and the ``checkpoint_last.pt`` of the save before."""
    source, last = tmp_path / "checkpoint_1_40.pt", tmp_path / "checkpoint_last.pt"
    source.write_bytes(b"new" * 1000)
    last.write_bytes(b"old")
    return source, last


def cut_short(source, target):
    """``shutil.copyfile`` on a disk that is full half-way."""
    with open(source, "rb") as read, open(target, "wb") as write:
        write.write(read.read(5))
    raise OSError(28, os.strerror(28))


def test_copy(files):
    source, last = files
    assert PathManager.copy(str(source), str(last), overwrite=True)
    assert last.read_bytes() == source.read_bytes()
    assert sorted(os.listdir(last.parent)) == ["checkpoint_1_40.pt", "checkpoint_last.pt"]


def test_a_copy_that_fails_leaves_the_old_file(files, monkeypatch):
    source, last = files
    monkeypatch.setattr(shutil, "copyfile", cut_short)
    with pytest.raises(OSError, match="No space left"):
        PathManager.copy(str(source), str(last), overwrite=True)
    assert last.read_bytes() == b"old"
    assert sorted(os.listdir(last.parent)) == ["checkpoint_1_40.pt", "checkpoint_last.pt"]


def test_fairseqs_plain_copy_loses_both(files, monkeypatch):
    """Negative control: what is mended."""
    source, last = files
    monkeypatch.setattr(shutil, "copyfile", cut_short)
    with pytest.raises(OSError, match="No space left"):
        PathManager.copy.__wrapped__(str(source), str(last), overwrite=True)
    assert last.read_bytes() == b"newne"


def test_the_old_file_is_there_all_the_time(files, monkeypatch):
    """A kill at any point finds one whole file under the name: it is replaced by a rename alone."""
    source, last = files
    seen = []
    copyfile = shutil.copyfile

    def watched(src, dst):
        seen.append(last.read_bytes())
        copyfile(src, dst)
        seen.append(last.read_bytes())
        return dst

    monkeypatch.setattr(shutil, "copyfile", watched)
    PathManager.copy(str(source), str(last), overwrite=True)
    assert seen == [b"old", b"old"] and last.read_bytes() == source.read_bytes()


def test_mending_twice_changes_nothing():
    copy = PathManager.copy
    mend_copy()
    assert PathManager.copy is copy
