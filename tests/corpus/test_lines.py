"""The map between binarised pairs and raw lines."""

import itertools
import os

import numpy as np
import pytest

from fairseq_l2rw.corpus.bitext import write_lines
from fairseq_l2rw.corpus.lines import data_folder, dropped_lines, iter_labels, line_map, raw_line_numbers, raw_lines
from fairseq_l2rw.errors import L2RWError


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "train.lines.npy", np.array([0, 2, 3, 6]))
    write_lines(str(tmp_path / "train.dropped.tsv"), ["id\treason", "1\tempty", "4\tratio", "5\tempty"])
    return str(tmp_path)


def test_every_raw_line_once_and_in_order(data):
    assert list(raw_lines(data, "train")) == [
        (0, 0, None), (1, None, "empty"), (2, 1, None), (3, 2, None), (4, None, "ratio"), (5, None, "empty"), (6, 3, None),
    ]  # fmt: skip
    assert list(raw_line_numbers(data, "train")) == [0, 2, 3, 6]
    assert isinstance(line_map(data, "train"), np.memmap)


def test_a_split_that_was_not_cleaned(data):
    assert line_map(data, "valid") is None and list(dropped_lines(data, "valid")) == []
    assert list(itertools.islice(raw_lines(data, "valid"), 2)) == [(0, 0, None), (1, 1, None)]


def test_a_damaged_file_is_told(data):
    write_lines(os.path.join(data, "train.dropped.tsv"), ["id\treason", "x\tempty"])
    with pytest.raises(L2RWError, match=r"train\.dropped\.tsv, line 2: not a line number and a reason"):
        list(raw_lines(data, "train"))


def test_the_folder_of_a_shard(tmp_path):
    data, shards = tmp_path / "data", [tmp_path / "data" / f"shard{number}" for number in range(2)]
    for shard in shards:
        shard.mkdir(parents=True)
    (data / "prepare.json").touch()
    for given in (data, shards[1], ":".join(map(str, shards))):
        assert data_folder(str(given)) == str(data)
    assert data_folder(str(tmp_path / "other")) == str(tmp_path / "other")


def test_labels_that_are_none_are_told_before_the_first_is_read(tmp_path):
    (tmp_path / "plain.txt").write_text("ein Hund\n")
    for name, message in (("missing.tsv", "missing.tsv"), ("plain.txt", "plain.txt, line 1: no columns 'id' and 'kind'")):
        with pytest.raises(L2RWError, match=message):
            iter_labels(str(tmp_path / name))
