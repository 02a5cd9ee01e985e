"""Scores as detectors of noise."""

import numpy as np
import pytest

from benchmarks.detection import by_kind, over_time, read_weights, weights_by_kind
from fairseq_l2rw.corpus.influence_log import Row


def test_by_kind():
    kinds = ["clean"] * 4 + ["a"] * 2 + ["b"] * 2
    found = by_kind([0, 1, 2, 3, 10, 11, 0, 3], kinds)
    assert found["a"]["auc"] == 1.0 and found["b"]["auc"] == 0.5 and found["all"]["auc"] == 0.75
    assert found["clean"] == {"pairs": 4, "mean": 1.5}
    spread = ((np.var([10, 11]) + np.var([0, 1, 2, 3])) / 2) ** 0.5
    assert found["a"]["snr"] == pytest.approx(9 / spread)
    assert by_kind([1.0, 1.0], ["clean", "a"])["a"] == {"pairs": 1, "mean": 1.0, "auc": 0.5, "snr": None}


def test_weights_are_turned_round():
    found = weights_by_kind([0.9, 0.7, 0.1], ["clean", "clean", "a"])
    assert found["a"]["auc"] == 1.0 and found["a"]["mean"] == pytest.approx(0.1) and found["clean"]["mean"] == pytest.approx(0.8)
    assert found["clean"]["ess"] == pytest.approx(1.6**2 / (2 * (0.81 + 0.49)))
    assert "auc" not in weights_by_kind([0.5], ["clean"])["all"]


def test_over_time():
    columns = ((1, 0, "a", 1.0, -3.0), (10, 1, "a", 0.2, 1.0), (11, 0, "a", 0.6, 2.0), (20, 1, "b", 0.7, 4.0))
    rows = [Row(update, id, head, weight, influence, 0.0) for update, id, head, weight, influence in columns]
    found = over_time(rows, {0: "clean", 1: "a"}, 10)
    assert [stretch["update"] for stretch in found] == [10, 20]
    assert [stretch["kinds"]["a"]["auc"] for stretch in found] == [1.0, 0.0]
    assert found[0]["influences"].keys() == {"a"} and found[1]["influences"].keys() == {"a", "b"}
    of_a = found[0]["influences"]["a"]
    assert (of_a["clean"]["mean"], of_a["a"]["mean"], of_a["a"]["auc"]) == (-1.5, 0.5, 1.0)  # -3 and 1 have a deviation of 2
    assert found[1]["influences"]["b"]["a"]["mean"] == 4.0 and "auc" not in found[1]["influences"]["b"]["a"]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_read_weights(tmp_path, ending):
    from fairseq_l2rw.corpus.bitext import write_lines

    path = tmp_path / f"weights.tsv{ending}"
    write_lines(str(path), ["id\tweight\tsource", '0\t0.5\ta "quoted', "2\t\tno weight", "5\t0.25\tb"])
    ids, weights = read_weights(path)
    assert ids.tolist() == [0, 5] and weights.tolist() == [0.5, 0.25]
