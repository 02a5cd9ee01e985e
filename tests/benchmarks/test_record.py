"""What every result carries."""

import json
import subprocess

import numpy as np
import pytest
import torch

from benchmarks.record import ROOT, commit, environment, table, write_json


def test_environment_names_machine_versions_and_date():
    found = environment()
    assert found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"] == torch.__version__
    assert found["cores"] >= 1 and found["threads"] == torch.get_num_threads() and found["processor"]
    assert found["date"][:2] == "20" and found["date"].endswith("Z")


def test_commit(tmp_path):
    """None of a folder that is no checkout, be it within one."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    inside = tmp_path / "inside"
    inside.mkdir()
    assert commit(tmp_path) is None
    subprocess.run([*git, "init", "-q"], check=True)
    assert commit(tmp_path) is None  # nothing is committed
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert head.startswith(commit(tmp_path)) and commit(inside) is None
    (inside / "new").write_text("")
    assert commit(tmp_path).endswith("+")
    assert environment()["commit"] == commit(ROOT)


def test_json(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_json(path, {"seed": 3, "data": tmp_path}, [{"auc": np.float64(0.5), "n": torch.tensor(4)}])
    content = json.loads(path.read_text())
    assert content["configuration"] == {"seed": 3, "data": str(tmp_path)}
    assert content["results"] == [{"auc": 0.5, "n": 4}]
    assert set(content) == {"environment", "command", "configuration", "results"}


def test_json_appears_whole_or_not_at_all(tmp_path):
    circular = []
    circular.append(circular)
    with pytest.raises(ValueError):
        write_json(tmp_path / "result.json", {}, circular)
    assert list(tmp_path.iterdir()) == []


def test_table():
    rows = [{"teacher": "deep", "BLEU": 35.04}, {"teacher": "uniform", "BLEU": None, "seeds": 3}]
    assert table(rows, digits=1).splitlines() == [
        "| teacher | BLEU | seeds |",
        "| ------- | ---- | ----- |",
        "| deep    | 35.0 |       |",
        "| uniform |      | 3     |",
    ]
    assert table(rows, ["seeds"]).splitlines()[0] == "| seeds |"
