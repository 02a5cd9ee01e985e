"""Weights of the true labels, and those that a run ended with, given to a training from its start on."""

import json

import pytest

from benchmarks import fixed_weights
from fairseq_l2rw.cli.main import main as l2rw
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.run import Training

OPTIONS = ["--data", "digits", "--noise", "uniform:0.4", "--schedule", "3", "--meta-start", "20"]


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    monkeypatch.setattr("fairseq_l2rw.vision.run.Training", Training)


def epochs(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_true_labels(tmp_path):
    assert l2rw(["vision", *OPTIONS, "--teacher", "uniform", "--save-dir", str(tmp_path / "plain")]) == 0
    assert fixed_weights.main(["true", *OPTIONS, "--teacher", "uniform", "--save-dir", str(tmp_path / "told")]) == 0
    told, plain = epochs(tmp_path / "told"), epochs(tmp_path / "plain")
    assert told[0]["updates"] < 20 < told[1]["updates"]
    assert told[0]["accuracy"] == plain[0]["accuracy"] and told[0]["w_mean"] == 1
    assert told[-1]["auc"] == 1 and told[-1]["accuracy"] > plain[-1]["accuracy"]


def test_those_of_a_run(tmp_path):
    run = tmp_path / "run"
    assert l2rw(["vision", *OPTIONS, "--teacher", "deep", "--save-dir", str(run)]) == 0
    before = (run / "checkpoint_last.pt").read_bytes()
    assert fixed_weights.main([str(run), *OPTIONS, "--teacher", "uniform", "--save-dir", str(tmp_path / "given")]) == 0
    assert (run / "checkpoint_last.pt").read_bytes() == before
    given, (weights, _) = epochs(tmp_path / "given"), fixed_weights.last_weights(run)
    assert given[0]["w_mean"] == 1
    assert given[-1]["w_mean"] == pytest.approx(float(weights.mean()), abs=0.01)
    assert 0.6 < given[-1]["auc"] < 1


def test_a_run_on_other_labels_is_refused(tmp_path, capfd):
    run = tmp_path / "run"
    assert l2rw(["vision", *OPTIONS, "--teacher", "deep", "--save-dir", str(run)]) == 0
    assert fixed_weights.main([str(run), *OPTIONS, "--seed", "7", "--teacher", "uniform"]) != 0
    assert "give the options that it had" in capfd.readouterr().err
    with pytest.raises(L2RWError, match="no checkpoint"):
        fixed_weights.main([str(tmp_path), *OPTIONS])
