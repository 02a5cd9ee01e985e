"""Influences of single pairs at a checkpoint, against one pair at a time; and the run as a whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import signal
from benchmarks.signal import Influences
from fairseq_l2rw.errors import L2RWError

CONTRAST = "misaligned:0.5,untranslated:0.4"


@pytest.fixture
def place(tiny):
    return str(tiny / "corpora" / "mixed" / "data"), lambda name: str(tiny / "runs" / "mixed" / f"{name}-s1" / "checkpoint_last.pt")


@pytest.mark.parametrize("name", ["deep", "uniform"])
def test_the_whole(place, tmp_path, capsys, name):
    data, path = place
    command = [data, "--path", path(name), "--out", str(tmp_path), "--pairs", "60", "--contrast", f"{CONTRAST},generated:0.4"]
    assert signal.main([*command, "--dev-batches", "1", "--more-dev-batches", "2", "--dev-tokens", "300"]) == 0
    rows = json.loads((tmp_path / "signal.json").read_text())["results"]["detectors"]
    detectors = {(row["detector"], row["objective"]) for row in rows}
    for objective in ("loss", "contrastive, one sum", "head misaligned", "head untranslated", "head generated", "heads"):
        assert ("influence", objective) in detectors
    assert {row["parameters"] for row in rows} >= {"all", "embeddings", "encoder + cross-attention"}
    kinds_of_rows = {row["detector"] for row in rows}
    assert kinds_of_rows >= {"gradient's norm per token", "influence over the gradient's norm", "influence, not per token", "regression on states", "classifier on states"}
    assert {row["direction"] for row in rows} >= {"adam", "sgd"} and {row["dev batches"] for row in rows} >= {1, 2}
    assert any(what.startswith("weights of deep") for what, _ in detectors) == (name == "deep")
    assert all(0 <= row["AUC all"] <= 1 for row in rows)
    assert "| loss per token" in capsys.readouterr().out and (tmp_path / "signal.svg").exists()


def test_spoilt_on_the_fly(place, tmp_path):
    data, path = place
    command = [data, "--path", path("uniform"), "--out", str(tmp_path), "--pairs", "40", "--contrast", CONTRAST, "--dev-tokens", "300"]
    assert signal.main([*command, "--dev-batches", "1", "--more-dev-batches", "1", "--spoil", "swapped,truncated"]) == 0
    rows = json.loads((tmp_path / "signal.json").read_text())["results"]["detectors"]
    assert {key for key in rows[0] if key.startswith("AUC")} == {"AUC swapped", "AUC truncated", "AUC all"}


def test_influence_is_the_slope_of_each_pairs_loss(place):
    """c_i against the gradient of each pair's own loss, by a backward pass of its own, times v; the wrong sign fails."""
    from fairseq_l2rw.meta.functional import swapped
    from fairseq_l2rw.meta.hypergradient import StepVector

    data, path = place
    probe = signal.Probe(data, path("uniform"), ["misaligned"], 300)
    batches = probe.sample({}, data, 12, 1, 300)
    step = probe.step(batches)
    adjoint = signal.mean(probe.dev_gradients(1)["clean"])
    vector = StepVector(probe.rule, step)(adjoint)
    c = probe.influence(step, vector, batches)
    theta, slopes = [t.clone().requires_grad_() for t in step.parameters], []
    for batch in batches:
        with swapped(probe.model, probe.parameters, theta):
            losses, _ = probe.student.losses(batch.sample)
        for loss in losses:
            gradient = torch.autograd.grad(loss, theta, retain_graph=True, allow_unused=True)
            slopes.append(sum(float((g * v).sum()) for g, v in zip(gradient, vector) if g is not None))
    tolerance = dict(rtol=1e-2, atol=1e-3 * np.abs(c).max())
    assert np.allclose(c, slopes, **tolerance) and not np.allclose(-c, slopes, **tolerance)


def test_gradient_norms(place):
    """Against a batch of one pair, made by the dataset itself."""
    data, path = place
    probe = signal.Probe(data, path("uniform"), ["misaligned"], 300)
    batches = probe.sample({}, data, 6, 1, 300)
    norms, expected = probe.gradient_norms(batches), []
    dataset = probe.task.dataset("train")
    for batch in batches:
        for i in batch.sample["id"].tolist():
            probe.model.zero_grad()
            probe.student.losses(dataset.collater([dataset[i]]))[0].sum().backward()
            expected.append(sum(float(p.grad.square().sum()) for p in probe.parameters) ** 0.5)
    assert np.allclose(norms, expected, rtol=1e-4) and len(norms) == 6 and norms.std() > 0


def test_the_mean_of_checkpoints(place, tmp_path):
    data, path = place
    paths = [path("uniform"), path("deep")]
    students = [torch.load(p, map_location="cpu", weights_only=False)["model"] for p in paths]
    averaged = signal.Probe(data, paths[0], ["misaligned"], 300, paths).model.state_dict()
    name = "encoder.layers.0.fc1.weight"
    assert torch.allclose(averaged[name], (students[0][name] + students[1][name]) / 2)
    assert not torch.equal(students[0][name], students[1][name])
    other = torch.load(paths[0], map_location="cpu", weights_only=False)
    other["model"][name] = other["model"][name][:, :-1]
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(L2RWError, match=r"--average .*other\.pt: another model than .*; give checkpoints of one training"):
        signal.Probe(data, paths[0], ["misaligned"], 300, [str(tmp_path / "other.pt")])


def test_a_regression_tells_what_the_features_hold():
    """A target that follows from the features is predicted for pairs that were left out; noise is not."""
    rng = np.random.default_rng(1)
    columns = rng.normal(size=(400, 5))
    targets = np.stack([3 + columns[:, 0] - columns[:, 1], rng.normal(size=400)], axis=1)
    predicted = signal.regress(columns, targets)
    assert np.corrcoef(predicted[:, 0], targets[:, 0])[0, 1] > 0.9 > 0.3 > abs(np.corrcoef(predicted[:, 1], targets[:, 1])[0, 1])


def test_objectives_from_terms():
    c = {"clean": np.array([-1.0, 2.0]), "a": np.array([4.0, 0.0]), "b": np.array([0.0, 10.0])}
    products = {("clean", "clean"): -3.0, ("clean", "a"): 1.0, ("a", "clean"): 1.0, ("a", "a"): -5.0,
                ("clean", "b"): 0.0, ("b", "clean"): 0.0, ("b", "b"): -1.0}  # fmt: skip
    found = Influences(c, {"a": 0.5, "b": 0.1}, products)
    detectors = found.detectors(np.array([2.0, 1.0]))
    assert detectors["loss"].tolist() == [-0.5, 2.0]
    assert detectors["contrastive, one sum"].tolist() == [(-1 - 2) / 2, 2 - 1]
    assert detectors["head a"].tolist() == [(-1 - 2) / 2, 2.0]
    # half the distance of -3 - 0.5 (an average clean pair) and 1 + 2.5 (an average spoilt one)
    assert found.dev_scale("a") == pytest.approx(3.5)
    assert found.detectors()["head b"].tolist() == [-1.0, 1.0]
    assert detectors["heads"].tolist() == [max(-3 / 3.5, -1 / found.dev_scale("b")) / 2, max(2 / 3.5, 1 / found.dev_scale("b"))]
    assert found.midpoint("a") == pytest.approx((-3 + 1) / (1 - 5))


def test_bad_input(tmp_path, place):
    data, path = place
    with pytest.raises(L2RWError, match="--path .*: no such file"):
        signal.main([data, "--path", str(tmp_path / "none.pt"), "--out", str(tmp_path)])
    with pytest.raises(L2RWError, match="--average .*none.pt: no such file"):
        signal.main([data, "--path", path("deep"), "--average", str(tmp_path / "none.pt"), "--out", str(tmp_path)])
    with pytest.raises(L2RWError, match="no labels; name the file"):
        signal.main([str(tmp_path), "--path", path("deep"), "--out", str(tmp_path)])


def test_a_benchmark_that_is_started_as_a_file_says_how(tmp_path):
    """Its folder would be first on the path, and ``import signal`` would find ours."""
    script = Path(signal.__file__).with_name("noisy_bitext.py")
    found = {**os.environ, "PYTHONPATH": str(script.parent.parent)}  # else Python says that there is no module benchmarks
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, cwd=tmp_path, env=found)
    assert done.returncode != 0 and "run them from the repository root, as python -m benchmarks.NAME" in done.stderr
