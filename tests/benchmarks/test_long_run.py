"""What the long run reads of a process."""

import os

from benchmarks.long_run import memory, open_files


def test_an_open_file_is_seen(tmp_path):
    before = open_files(os.getpid())
    with open(tmp_path / "file", "w"):
        assert open_files(os.getpid()) == before + 1
    assert open_files(os.getpid()) == before


def test_memory_that_is_taken_is_seen():
    before = memory(os.getpid())
    taken = bytearray(os.urandom(1 << 16) * 1024)  # 64 MB
    assert memory(os.getpid()) - before > 50
    del taken
