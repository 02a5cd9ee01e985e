"""Influences of training images by whether their label is right."""

import json

import pytest
import torch

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
    over = results["over error"]
    assert over["clean"]["pairs"] == influence["clean"]["pairs"] and over["wrong"]["auc"] > 0.6
    assert over["clean"]["mean"] != influence["clean"]["mean"]


def test_weights_by_what_images_show_and_are_called(tmp_path, monkeypatch):
    made = vision_signal.read(run(tmp_path / "run"), True)
    truth, labels = made.parts.train.truth, made.parts.train.labels
    made.weights[:] = torch.where(truth == labels, 0.9, 0.1)
    hard = (truth == 3) & (labels == 8)
    made.weights[hard] = 0.9  # as the clean ones: no detector
    made.weights[(truth == 1) & (labels == 7)] = float("nan")  # never judged
    monkeypatch.setattr(vision_signal, "FEW", 1)
    found = vision_signal.by_classes(made)
    assert list(found)[0] == "3 as 8" and "1 as 7" not in found and not any(a == c for a, _, c in (kind.split() for kind in found))
    assert found["3 as 8"]["pairs"] == int(hard.sum()) > 0 and found["3 as 8"]["auc"] == 0.5
    assert found["3 as 8"]["mean"] == pytest.approx(0.9) and found["5 as 2"]["auc"] == 1
    monkeypatch.setattr(vision_signal, "FEW", 10_000)
    assert vision_signal.by_classes(made) == {}


def test_another_teacher_on_the_student_of_a_run(tmp_path):
    folder = run(tmp_path / "run")
    options = "--meta-contrast mislabelled:1.0 --meta-params ^head --student-average 0.9".split()
    made = vision_signal.read(folder, True, options)
    assert made.method.core.config.heads == ("mislabelled",) and made.epoch == 4
    old = vision_signal.read(folder, True)
    assert old.method.core.config.heads == ("confused",)
    for one, other, kept in zip(*(m.parameters() for m in (made.student.module, old.student.module, made.student.average.module))):
        assert torch.equal(one, other) and torch.equal(one, kept)
    words = [str(folder), "--updates", "24", "--cpu", "--json", str(tmp_path / "signal.json"), "--", *options]
    results = vision_signal.main(words)
    assert results["influence"]["wrong"]["auc"] > 0.6 and "mislabelled" in results["train scale"]
    assert json.loads((tmp_path / "signal.json").read_text())["configuration"]["meta_params"] == "^head"


def test_what_has_no_influences(tmp_path):
    with pytest.raises(L2RWError, match="no checkpoint of fairseq-l2rw vision"):
        vision_signal.main([str(tmp_path), "--cpu"])
    with pytest.raises(L2RWError, match="--teacher uniform has no influences"):
        vision_signal.main([str(run(tmp_path / "uniform", "--teacher", "uniform")), "--cpu"])
