"""The table of what a pair's own influence knows, on made-up runs."""

import gzip

import pytest

pytest.importorskip("sklearn")

from benchmarks.own_influence import measure  # noqa: E402
from fairseq_l2rw.corpus.influence_log import InfluenceLog  # noqa: E402

LABELS = {i: "misaligned" if i % 2 else "clean" for i in range(40)}


def made(folder, influence):
    """A run whose teacher takes pairs 0 to 3 for another kind; `influence`: pair -> c."""
    log = InfluenceLog(str(folder / "influence.tsv.gz"), None)
    ids = list(range(40))
    log.write(1, "misaligned", ids, [0.5] * 40, [-influence(i) for i in ids], [0.0] * 40)  # before --since
    log.write(5, "misaligned", ids, [0.5] * 40, [influence(i) for i in ids], [0.0] * 40)
    log.write(6, "other", ids, [0.5] * 40, [-influence(i) for i in ids], [0.0] * 40)
    log.state_dict()
    with gzip.open(folder / "weights.tsv.gz", "wt") as handle:
        handle.write("id\tweight\tweight_misaligned\treason\n")
        for i in ids:
            w = 0.9 if (i % 2 == 0) != (i < 4) else 0.05
            handle.write(f"{i}\t{w * 0.9}\t{w}\t\n")
        handle.write("40\t0\t\tlong\n")
    return folder


@pytest.mark.parametrize("knows", [True, False])
def test_an_influence_that_knows_mends_what_the_teacher_takes_wrongly(tmp_path, knows):
    rows, groups = measure(made(tmp_path, lambda i: 0.5 if knows and i % 2 else -0.1), LABELS, "misaligned", since=2)
    auc = {row["detector"]: row["misaligned, head"] for row in rows}
    assert auc["teacher"] == pytest.approx(0.9 * 0.9 + 0.9 * 0.1) and auc["own"] == (1.0 if knows else 0.5)
    assert (auc["b = 5"] > auc["teacher"]) == knows
    mean = {group["group"]: (group["pairs"], group["mean influence"]) for group in groups}
    assert mean["clean, put down"] == (2, pytest.approx(-0.1)) and mean["misaligned, kept"] == (2, pytest.approx(0.5 if knows else -0.1))


def test_nothing_measured_is_told(tmp_path):
    with pytest.raises(SystemExit, match="no influence on the head misaligned since update 9; give an earlier --since"):
        measure(made(tmp_path, lambda i: 0.1), LABELS, "misaligned", since=9)
