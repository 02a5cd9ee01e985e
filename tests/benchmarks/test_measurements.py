"""Each measurement runs on a tiny setting, prints its table and writes its JSON; what it measures is another matter."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("fairseq")
from benchmarks import memory, scaling, speed, staleness, versus, workload  # noqa: E402
from benchmarks.record import ROOT  # noqa: E402

TINY = "--width 8 --layers 1 --vocabulary 30 --max-tokens 100 --dev-share 0.5 --threads 1 --cpu".split()


@pytest.fixture(autouse=True)
def fresh_log():
    """The benchmarks silence the log."""
    import logging

    yield
    logging.disable(logging.NOTSET)


def run(module, path, *options):
    module.main([*TINY, *options, *([] if path.parent.name == "runs" else ["--json", str(path)])])
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {"environment", "command", "configuration", "results"} == content.keys()
    assert content["configuration"]["seed"] == 1 and content["environment"]["packages"]["torch"]
    return content["results"]


@pytest.mark.parametrize("module", [memory, scaling, speed, staleness, versus])
def test_where_the_result_goes(module, monkeypatch):
    """To runs/, which git ignores, unless told otherwise."""
    taken = []
    monkeypatch.setattr(workload, "prepare", lambda arguments: taken.append(arguments.json) or sys.exit())
    name = module.__name__.rpartition(".")[2]
    for words in ([], ["--json", ""]):
        with pytest.raises(SystemExit):
            module.main(words)
    assert taken == [f"runs/{name}.json", ""]
    assert "/runs/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_speed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = run(speed, tmp_path / "runs" / "speed.json", "--rounds", "1", "--block", "1", "--settle", "1", "--also")
    assert list(results) == ["plain translation", *speed.BARS, speed.BEFORE]
    assert all(result["words_per_second"]["median"] > 0 for result in results.values())
    assert results["plain translation"]["ratio"]["median"] == 1 and "| holds |" in capsys.readouterr().out


def test_the_bars_follow_the_defaults():
    """The first contender has no option but the start, and the last a late one; the others an update every step."""
    from types import SimpleNamespace

    wanted = speed.contenders(SimpleNamespace(dev_share=0.25, max_tokens=4000, exact="forward", also=[]))
    assert wanted["defaults"] == (0.8, ["--meta-start", 0])
    assert wanted.pop(speed.BEFORE)[0] is None
    for name, (bar, options) in list(wanted.items())[1:]:
        assert bar == 0.4 and options[:6] == ["--meta-start", 0, "--meta-interval", 1, "--meta-max-tokens", 1000]


def test_memory(tmp_path):
    results = run(memory, tmp_path / "memory.json", "--rounds", "1", "--only", "ghost")
    assert list(results) == ["plain translation", "ghost"] and results["ghost"]["ratio"] > 0


def test_the_task_is_registered_whatever_is_imported_first():
    """The core, as SAMA's update does, before fairseq."""
    check = "from benchmarks import sama, workload; assert 'l2rw_translation' in workload.tasks.TASK_REGISTRY"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_versus(tmp_path):
    pytest.importorskip("higher")
    results = run(versus, tmp_path / "versus.json", "--rounds", "1", "--start", "2")
    for exact in ("forward", "backward", "higher"):
        assert results[exact]["relative_error"] < 1e-2, exact
    assert results["finite-difference"]["relative_error"] < 0.1
    # approximate, and SAMA only by its difference and Adam's bias correction
    assert results["ghost"]["relative_error"] > 1e-2 and results["SAMA"]["cosine"] > 0.5


def test_staleness(tmp_path):
    results = run(staleness, tmp_path / "staleness.json", "--start", "1", "--updates", "3")["medians"]
    assert {row["reading"] for row in results} >= {"ghost", "older dev gradient"}
    assert all(0 <= row["same_sign"] <= 1 and row["relative_error"] > 0 for row in results)


def test_scaling(tmp_path):
    words = "--rounds 1 --tokens 50 --widths 8 --windows 2 --workers 2".split()
    results = run(scaling, tmp_path / "scaling.json", *words)
    assert [row["changed"] for row in results] == ["tokens", "width", "window", "workers"]
    assert all(row["ratio"] > 0 and row["mebibytes"]["ratio"] > 0 and row["mebibytes"]["plain"] > 0 for row in results)
