"""The table of weights: columns in memory, text of a few pairs, what detects noise."""

import numpy as np
import pytest

from fairseq_l2rw.corpus.bitext import write_lines
from fairseq_l2rw.corpus.lines import read_labels
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.report.pairs import OTHERS, UNKNOWN, Labels, highest, lowest, read_pairs, read_table
from report.folders import make_labels, make_table


@pytest.fixture
def table(tmp_path):
    make_table(tmp_path / "weights.tsv")
    make_labels(tmp_path / "labels.tsv")
    return read_table(str(tmp_path / "weights.tsv"), Labels(read_labels(str(tmp_path / "labels.tsv"))))


def write_table(path, *rows, header="id\tweight\tloss\tsource\ttarget"):
    write_lines(str(path), [header, *rows])
    return str(path)


def test_columns(table):
    assert len(table.weights) == len(table.losses) == len(table.lengths) == len(table.kind) == 300
    assert table.kinds == ("clean", "misaligned", UNKNOWN) and table.of_kind("misaligned").sum() == 100
    assert list(table.heads) == ["misaligned", "untranslated"]
    product = table.heads["misaligned"] * table.heads["untranslated"]
    assert np.allclose(product, table.weights, rtol=1e-4)
    assert table.length_unit == "words"


def test_auc(table):
    assert table.auc() == table.auc("misaligned") == 1.0
    table.weights[:] = np.random.default_rng(0).random(300)
    assert 0.4 < table.auc() < 0.6


def test_extremes(table):
    order = np.argsort(table.weights)
    assert lowest(table, 7) == order[:7].tolist() and highest(table, 7) == order[::-1][:7].tolist()
    clean = table.of_kind("clean")
    assert lowest(table, 3, clean) == [i for i in order if clean[i]][:3]
    assert len(highest(table, 500)) == 300


def test_text_of_a_few(table):
    pairs = read_pairs(table, [3, 299])
    assert pairs.keys() == {3, 299}
    assert (pairs[3].id, pairs[3].kind, pairs[3].source) == ("3", "misaligned", "Satz 3 .")
    assert pairs[3].head == ("misaligned", pytest.approx(float(table.heads["misaligned"][3])))
    assert pairs[299].weight == pytest.approx(float(table.weights[299]))


def test_pairs_dropped_before_training_are_counted_apart(tmp_path):
    path = write_table(tmp_path / "w.tsv", "0\t0\ttoo long\ta\tb", "1\t.5\t\tc\td", "2\t.7\t\te\tf",
                       header="id\tweight\treason\tsource\ttarget")  # fmt: skip
    table = read_table(path)
    assert table.dropped == {"too long": 1} and len(table.weights) == 2
    assert read_pairs(table, [1])[1].source == "e"


def test_without_text_and_labels(tmp_path):
    table = read_table(write_table(tmp_path / "w.tsv", "0\t.5", "1\t.6", header="id\tweight"))
    assert table.kinds == () and table.auc() is None and not len(table.lengths) and not len(table.losses)
    assert read_pairs(table, [0])[0].source == ""


def test_characters_where_there_are_no_spaces(tmp_path):
    table = read_table(write_table(tmp_path / "w.tsv", "0\t.5\t1\tcats\t" + "猫が好きです" * 4))
    assert table.length_unit == "characters" and table.lengths.tolist() == [24]


def test_labels_that_are_missing_or_many(tmp_path):
    labels = Labels({0: "clean", **{i: f"kind{i % 9}" for i in range(1, 30)}})
    assert len(labels.names) == 8 and (labels.names[0], *labels.names[-2:]) == ("clean", OTHERS, UNKNOWN)
    assert labels.names[1:3] == ("kind1", "kind2"), "the most frequent ones, 4 of 29"
    assert [labels.names[labels.number(i)] for i in (0, 1, 9, 77)] == ["clean", "kind1", OTHERS, UNKNOWN]
    assert Labels({3: "x", 4: "clean"}).names == ("clean", "x", UNKNOWN)
    table = read_table(
        write_table(tmp_path / "w.tsv", *(f"{i}\t.5\t1\ta\tb" for i in range(20))), Labels({0: "clean", 1: "x"})
    )
    assert table.spoilt().sum() == 1 and table.auc() == 0.5 and table.of_kind(UNKNOWN).sum() == 18


@pytest.mark.parametrize(
    "lines, message",
    [
        (["source\ttarget", "a\tb"], "line 1: no columns 'id' and 'weight'"),
        (["id\tweight", "0\t.5", "1"], "line 3: 1 cells, the header has 2"),
        (["id\tweight", "0\theavy"], "line 2: 'heavy' is no number for weight"),
        (["id\tweight"], "no pairs in it"),
    ],
)
def test_no_table(tmp_path, lines, message):
    write_lines(str(tmp_path / "w.tsv"), lines)
    with pytest.raises(L2RWError, match=message):
        read_table(str(tmp_path / "w.tsv"))
