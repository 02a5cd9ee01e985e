"""Runs of the image classifier: metrics.jsonl as fairseq_l2rw/vision/metrics.py tells it."""

import json

import pytest

from fairseq_l2rw.report.image_log import read_image_history, read_image_log, read_image_scores
from fairseq_l2rw.report.page import render
from fairseq_l2rw.report.run import read_runs


def entry(epoch):
    return {
        "epoch": epoch, "updates": 10 * epoch, "lr": 0.1, "loss": 2 - epoch / 100, "accuracy": 0.5 + epoch / 200, "auc": 0.9,
        "seconds": 1.5 * epoch, "w_mean": 0.7, "w_std": 0.2, "ess": 0.8, "meta_loss": 1.5, "teacher_gnorm": 0.1,
        "teacher_updates": 5, "weights": {"clean": [0] * 19 + [60], "wrong": [40] + [0] * 19},
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(entry(i)) + "\n" for i in range(1, 61)) + '{"epoch": 61, "upd'
    )
    (folder / "config.json").write_text(
        json.dumps({"teacher": "deep", "data": "digits", "meta_size": 100, "model": "cnn"})
    )
    return folder


def test_figures(folder):
    log = read_image_log(str(folder))
    assert [row["update"] for row in log.train] == list(range(10, 601, 10)) and log.images and not log.done
    assert log.train[0]["image_loss"] == 1.99 and log.train[0]["accuracy"] == pytest.approx(50.5)
    assert "loss" not in log.train[0] and log.option("task.meta_size") == 100 and log.option("vision.data") == "digits"


def test_histograms(folder):
    history = read_image_history(str(folder))
    assert history.kinds == ("clean", "wrong") and history.counts.shape == (2, 30, 20) and history.width == 20
    assert history.counts.sum((1, 2)).tolist() == [3600, 2400] and history.counts[1, :, 0].tolist() == [80] * 30


def test_page(folder):
    html = render(read_runs([str(folder)]))
    assert "in progress" in html and "Accuracy on the test images" in html and "<h3>Weights over time" in html
    assert "Do the weights separate?" in html
    assert "Not there yet" not in html and "Scores" not in html and "digits" in html
    (folder / "result.json").write_text(json.dumps({"accuracy": 0.8125, "auc": None, "seconds": 90}))
    assert read_image_scores(str(folder)) == {"accuracy, %": {"score": 81.25}}
    html = render(read_runs([str(folder)]))
    assert "finished" in html and "test images" in html and "81.2" in html


def test_uniform_weights_have_no_histogram(folder):
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "updates": 3, "accuracy": 0.5, "loss": 1.0, "lr": 0.1}\n')
    assert read_image_history(str(folder)) is None
    assert "Accuracy on the test images" in render(read_runs([str(folder)]))
