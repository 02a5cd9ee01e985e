"""The influence log: what is written is read, whatever is torn off; a resume cuts off what came after the checkpoint."""

import gzip
import logging

import pytest

from fairseq_l2rw.corpus.influence_log import COLUMNS, InfluenceLog, Row, read_log
from fairseq_l2rw.errors import L2RWError


def write(log, update, ids=(3, 0), head="misaligned"):
    log.write(update, head, ids, [0.5] * len(ids), [-2.0] * len(ids), [-0.125] * len(ids))


def updates(path):
    return [row.update for row in read_log(str(path))]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "Läufe und so" / "influence log.tsv.gz"


def test_rows_come_back(path):
    log = InfluenceLog(str(path))
    write(log, 7, ids=(12345678901, 0))
    log.flush()
    first, second = read_log(str(path))
    assert first == Row(7, 12345678901, "misaligned", 0.5, -2.0, -0.125)
    assert second.id == 0


def test_it_is_plain_gzip_of_tab_separated_text(path):
    log = InfluenceLog(str(path))
    write(log, 7)
    log.flush()
    lines = gzip.open(path, "rt").read().splitlines()
    assert lines == ["\t".join(COLUMNS), "7\t3\tmisaligned\t0.5\t-2\t-0.125", "7\t0\tmisaligned\t0.5\t-2\t-0.125"]


def test_resume_cuts_off_what_came_after_the_checkpoint(path):
    log = InfluenceLog(str(path))
    write(log, 1)
    state = log.state_dict()
    write(log, 2)
    log.flush()
    assert updates(path) == [1, 1, 2, 2]
    resumed = InfluenceLog(str(path), state)
    write(resumed, 2)
    resumed.flush()
    assert updates(path) == [1, 1, 2, 2]


def test_a_second_resume_from_the_checkpoint_of_a_resumed_training(path):
    log = InfluenceLog(str(path))
    write(log, 1)
    resumed = InfluenceLog(str(path), log.state_dict())
    write(resumed, 2)
    state = resumed.state_dict()
    write(resumed, 3)
    resumed.flush()
    InfluenceLog(str(path), state)
    assert updates(path) == [1, 1, 2, 2]


def test_kill_within_a_write(path, caplog):
    log = InfluenceLog(str(path))
    write(log, 1)
    state = log.state_dict()
    write(log, 2, ids=range(2000))
    log.flush()
    whole = path.read_bytes()
    for length in range(state["bytes"], len(whole), 997):
        path.write_bytes(whole[:length])
        with caplog.at_level(logging.WARNING):
            assert set(updates(path)) <= {1, 2} and updates(path)[:2] == [1, 1]
        resumed = InfluenceLog(str(path), state)
        write(resumed, 2)
        resumed.flush()
        assert updates(path) == [1, 1, 2, 2]
    assert "torn off" in caplog.text


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b[:-20] + b"x" * 20], ids=["shorter", "another"])
def test_resume_of_another_file_is_an_error(path, spoil):
    log = InfluenceLog(str(path))
    write(log, 1)
    state = log.state_dict()
    path.write_bytes(spoil(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(L2RWError, match="not the file that the training was writing .* or give another name"):
        InfluenceLog(str(path), state)
    assert path.read_bytes() == before


def test_a_new_training_moves_the_old_file_aside(path):
    write(log := InfluenceLog(str(path)), 1)
    log.flush()
    InfluenceLog(str(path))
    assert updates(path) == []
    assert updates(f"{path}.old") == [1, 1]


def test_resume_under_another_name_begins_anew(path, caplog):
    state = InfluenceLog(str(path)).state_dict()
    other = path.parent / "other.gz"
    with caplog.at_level(logging.WARNING):
        InfluenceLog(str(other), state)
    assert "logged before is not in it" in caplog.text and updates(other) == []


def test_name_must_say_that_it_is_compressed(tmp_path):
    with pytest.raises(L2RWError, match="--influence-log .*log.tsv: .* name that ends in .gz"):
        InfluenceLog(str(tmp_path / "log.tsv"))


@pytest.mark.parametrize("text", ["a\tb\n1\t2\n", "\t".join(COLUMNS) + "\n1\tx\tmisaligned\t1\t1\t1\n", ""])
def test_what_is_no_log(path, text):
    path.parent.mkdir()
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(L2RWError, match="log"):
        list(read_log(str(path)))


def test_what_is_not_compressed(path):
    path.parent.mkdir()
    path.write_text("plain\n")
    with pytest.raises(L2RWError, match="not a log of --influence-log"):
        list(read_log(str(path)))
