"""Shards: neighbouring chunks, all of them once; the schedulers' variables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.corpus.shards import Shard, choose_shard
from fairseq_l2rw.errors import L2RWError


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 20))
def test_shards_join_to_the_whole(total, count):
    parts = [Shard(number, count).chunks(total) for number in range(count)]
    assert [chunk for part in parts for chunk in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    "path, shard, name",
    [
        ("a/w.tsv", Shard(), "a/w.tsv"),
        ("a/w.tsv", Shard(3, 8), "a/w.tsv.00003-of-00008"),
        ("a/w.tsv.gz", Shard(11, 12), "a/w.tsv.00011-of-00012.gz"),
    ],
)
def test_names_sort_in_the_order_of_the_shards(path, shard, name):
    assert shard.file_name(path) == name


SLURM = {
    "SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "5",
}  # fmt: skip


@pytest.mark.parametrize(
    "count, number, environment, shard",
    [
        (None, None, {}, Shard()),
        (4, 2, SLURM, Shard(2, 4)),
        (1, None, SLURM, Shard()),  # the way to switch it off
        (None, None, {"RANK": "3", "WORLD_SIZE": "8"}, Shard(3, 8)),
        (None, None, SLURM, Shard(3, 5)),  # --array=1-9:2
        (None, None, {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "2"}, Shard(0, 2)),
        (None, None, {**SLURM, "RANK": "1", "WORLD_SIZE": "2"}, Shard(7, 10)),
        (None, None, {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, Shard()),  # a job that is no array
    ],
)
def test_where_the_shard_comes_from(count, number, environment, shard):
    assert choose_shard(count, number, environment)[0] == shard


@pytest.mark.parametrize(
    "count, number, environment, message",
    [
        (4, None, {}, "--num-shards: which of them"),
        (4, 4, {}, "--num-shards, --shard-id: shard 4 of 4"),
        (None, 1, {}, "shard 1 of 1"),
        (None, None, {"RANK": "x", "WORLD_SIZE": "8"}, "RANK=x in the environment: not a number"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT= in the environment"),
    ],
)
def test_what_does_not_fit(count, number, environment, message):
    with pytest.raises(L2RWError, match=message):
        choose_shard(count, number, environment)
