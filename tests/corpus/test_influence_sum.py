"""The influence log summed up, against the sums written by hand."""

from types import SimpleNamespace

import pytest

from fairseq_l2rw.corpus import influence_sum
from fairseq_l2rw.corpus.influence_log import InfluenceLog
from fairseq_l2rw.corpus.influence_sum import InfluenceSum
from fairseq_l2rw.errors import L2RWError


@pytest.fixture
def path(tmp_path):
    log = InfluenceLog(str(tmp_path / "log.gz"))
    log.write(1, "misaligned", [0, 2], [0.5, 1.0], [-2.0, 4.0], [-0.25, 0.125])
    log.write(2, "truncated", [2, 3], [0.5, 0.25], [1.0, 1.0], [0.5, 0.0625])
    log.write(3, "misaligned", [2, 0], [0.75, 0.25], [-8.0, 0.0], [-2.0, 0.0])
    log.flush()
    return str(tmp_path / "log.gz")


@pytest.mark.parametrize("block", [1, 4, 1000])
def test_sums(path, monkeypatch, block):
    monkeypatch.setattr(influence_sum, "BLOCK", block)
    sums = InfluenceSum(path, 5)
    assert sums.columns == (
        "id", "gain", "gain_misaligned", "gain_truncated", "updates", "mean_weight", "reason", "source", "target",
    )  # fmt: skip
    lines = [SimpleNamespace(number=number, reason="empty" if number == 4 else None) for number in range(5)]
    assert sums.score(lines) == [
        {"gain": "0.25", "gain_misaligned": "0.25", "gain_truncated": "0", "updates": "2", "mean_weight": "0.375"},
        {"gain": "0", "gain_misaligned": "0", "gain_truncated": "0", "updates": "0"},
        {"gain": "1.375", "gain_misaligned": "1.875", "gain_truncated": "-0.5", "updates": "3", "mean_weight": "0.75"},
        {"gain": "-0.0625", "gain_misaligned": "0", "gain_truncated": "-0.0625", "updates": "1", "mean_weight": "0.25"},
        None,
    ]


def test_a_pair_twice_in_one_update_counts_twice(tmp_path):
    log = InfluenceLog(str(tmp_path / "log.gz"))
    log.write(1, "loss", [0, 0], [1.0, 1.0], [1.0, 1.0], [0.5, 0.25])
    log.flush()
    (cells,) = InfluenceSum(log.path, 1).score([SimpleNamespace(number=0, reason=None)])
    assert (cells["gain"], cells["updates"]) == ("-0.75", "2")


def test_log_of_a_larger_corpus(path):
    with pytest.raises(L2RWError, match="has pair 3, and the corpus 3 lines; it belongs to another corpus"):
        InfluenceSum(path, 3)
