"""Scores over training time, and when one of them is reached."""

import json

from benchmarks import time_to_bleu
from benchmarks.time_to_bleu import seconds_to


def test_the_queue(tiny, capsys):
    options = ["--size", "tiny", "--out", str(tiny), "--every", "4", "--bleu", "200", "--only", "deep-all"]
    assert time_to_bleu.main(options) == 0
    (row,) = json.loads((tiny / "time_to_bleu.json").read_text())["results"]
    assert row["condition"] == "deep-all" and row["seconds to 200 BLEU"] is None
    assert [point["updates"] for point in row["curve"]] == [8, 12]
    seconds = [point["seconds"] for point in row["curve"]]
    assert 0 < seconds[0] < seconds[1] == row["seconds in all"]
    assert (tiny / "figures" / "time_to_bleu.png").exists()
    assert "seconds to 200 BLEU" in capsys.readouterr().out


def test_between_two_scores_on_the_straight_line():
    rows = [{"seconds": 10.0, "BLEU": 4.0}, {"seconds": 20.0, "BLEU": 3.0}, {"seconds": 40.0, "BLEU": 8.0}]
    assert seconds_to(rows, 4.0) == 10.0
    assert seconds_to(rows, 5.5) == 30.0
    assert seconds_to(rows, 8.1) is None
