"""Score files: each format is read as it was written, by us and by others."""

import json
import math
from types import SimpleNamespace

import pytest

from fairseq_l2rw.corpus.score_files import FORMATS, Layout, Score, choose_columns, read_scores
from fairseq_l2rw.errors import L2RWError

COLUMNS = ("id", "weight", "weight_misaligned", "weight_truncated", "loss", "reason", "source", "target")


def line(number, source, target, reason=None, original=None):
    return SimpleNamespace(number=number, source=source, target=target, reason=reason, original=original)


LINES = [line(0, "ein\tTab", "a tab"), line(1, "", "", "empty"), line(2, "\u2028\x85 \u200f", "x\ry")]
CELLS = [
    {"weight": "0.25", "weight_misaligned": "0.5", "weight_truncated": "0.5", "loss": "2.0000"},
    None,
    {"weight": "1e-07", "weight_misaligned": "0.1", "weight_truncated": "1e-06", "loss": "1.0000"},
]


@pytest.fixture
def write(tmp_path):
    def write(format, columns=COLUMNS):
        layout = Layout(format, "weight", columns)
        path = tmp_path / f"weights {format}"
        path.write_bytes((layout.header + layout.text(LINES, CELLS)).encode())
        return path

    return write


def test_table(write):
    rows = [row.split("\t") for row in write("tsv").read_bytes().decode().split("\n")]
    assert rows == [
        list(COLUMNS),
        ["0", "0.25", "0.5", "0.5", "2.0000", "", "ein Tab", "a tab"],
        ["1", "0", "", "", "", "empty", "", ""],
        ["2", "1e-07", "0.1", "1e-06", "1.0000", "", "\u2028\x85 \u200f", "x y"],
        [""],
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_read_back(write, format):
    scores = list(read_scores(str(write(format))))
    assert [score.value for score in scores] == [0.25, 0.0, 1e-07]
    if format == "tsv":
        assert [score.reason for score in scores] == ["", "empty", ""]
        assert scores[0].heads == {"misaligned": 0.5, "truncated": 0.5} and scores[1].heads == {}
        assert [score.value for score in read_scores(str(write(format)), "weight_misaligned")][::2] == [0.5, 0.1]
    else:
        assert all(score == Score(score.value, "", {}) for score in scores)


def marian(path):
    """``--data-weighting FILE --data-weighting-type sentence``: one number in a line, as many lines as the corpus has."""
    for text in path.read_text().splitlines():
        (word,) = text.split()
        yield float(word)


def opusfilter(path):
    """A score file: a JSON value in a line; a plain number is one."""
    with open(path) as handle:
        yield from (json.loads(text) for text in handle)


@pytest.mark.parametrize("reader", [marian, opusfilter])
def test_scores_as_others_read_them(write, reader):
    assert list(reader(write("scores"))) == [0.25, 0, 1e-07]


@pytest.mark.parametrize("reader", [marian, opusfilter])
def test_the_table_is_not_what_others_read(write, reader):
    with pytest.raises(ValueError):
        list(reader(write("tsv")))


def test_append_keeps_the_line_of_the_input(tmp_path):
    text = Layout("append", "weight", ()).text([line(0, "a", "b", original="url\ta\tb\r")], [{"weight": "0.5"}])
    assert text == "url\ta\tb\r\t0.5\n"


def test_columns():
    assert choose_columns(None, COLUMNS) == COLUMNS
    assert choose_columns("weight, id", COLUMNS) == ("weight", "id")
    with pytest.raises(L2RWError, match="--columns: no column 'wieght'; choose from id, weight, "):
        choose_columns("wieght", COLUMNS)


@pytest.mark.parametrize(
    "text, column, message",
    [
        ("", None, "empty; give a file"),
        ("a\tb\n1\t2\n", None, "line 1: no column weight or gain, but a, b; choose with --column"),
        ("0.5\nx\n", None, "line 2: 'x' is no number"),
        ("0.5\nnan\n", None, "line 2: 'nan' is no number"),
        ("0.5\n", "weight", "--column weight: .* has no header"),
        ("id\tweight\tsource\n0\t1\n", None, "line 2: 2 cells under 3 columns"),
        ("id\tweight\tsource\n0\t1\ta\n2\t1\ta\n", None, "line 3: id 2, and 1 is expected; .*join all shards"),
    ],
)
def test_what_is_no_score_file(tmp_path, text, column, message):
    path = tmp_path / "scores"
    path.write_text(text)
    with pytest.raises(L2RWError, match=message):
        list(read_scores(str(path), column))


def test_gain_is_read_where_there_is_no_weight(tmp_path):
    path = tmp_path / "gains.tsv"
    path.write_text("id\tgain\tgain_truncated\tsource\n0\t-0.5\t-0.5\ta\n")
    assert list(read_scores(str(path))) == [Score(-0.5, "", {"truncated": -0.5})]
    assert math.copysign(1, next(read_scores(str(path))).value) == -1
