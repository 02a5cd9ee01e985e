"""Influences of training images by whether their label is right."""

import json

import pytest

from benchmarks import vision_signal
from fairseq_l2rw.cli.main import main as command
from fairseq_l2rw.errors import L2RWError

DIGITS = "vision --data digits --noise uniform:0.4 --schedule 4 --meta-start 8 --cpu --seed 2".split()


def run(folder, *more):
    assert command([*DIGITS, "--save-dir", str(folder), *more]) in (0, None)
    return folder


def test_clean_and_wrong_images(tmp_path, capsys):
    folder = run(tmp_path / "run")
    before = (folder / "checkpoint_last.pt").read_bytes()
    results = vision_signal.main([str(folder), "--updates", "12", "--cpu", "--json", str(tmp_path / "signal.json")])
    influence, weight = results["influence"], results["weight"]
    # a teacher update at every second step, on batches of 100 images
    assert influence["clean"]["pairs"] + influence["wrong"]["pairs"] == 600
    assert influence["clean"]["mean"] < 0 < influence["wrong"]["mean"] and influence["wrong"]["auc"] > 0.6
    assert weight["clean"]["mean"] > weight["wrong"]["mean"] + 0.1
    assert 0.05 <= results["train scale"]["confused"] <= 1 and results["epoch"] == 4
    assert (folder / "checkpoint_last.pt").read_bytes() == before
    assert json.loads((tmp_path / "signal.json").read_text())["results"]["influence"] == influence
    assert "| wrong " in capsys.readouterr().out


def test_what_has_no_influences(tmp_path):
    with pytest.raises(L2RWError, match="no checkpoint of fairseq-l2rw vision"):
        vision_signal.main([str(tmp_path), "--cpu"])
    with pytest.raises(L2RWError, match="--teacher uniform has no influences"):
        vision_signal.main([str(run(tmp_path / "uniform", "--teacher", "uniform")), "--cpu"])
