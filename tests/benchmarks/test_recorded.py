"""The table of recorded trainings: what is made of it, what is wrong with one, and that the README says what it says."""

import pytest

pytest.importorskip("fairseq")
from benchmarks import recorded  # noqa: E402
from benchmarks.record import ROOT  # noqa: E402
from fairseq_l2rw.errors import L2RWError  # noqa: E402

RUNS = ROOT / "docs" / "measurements" / "runs.tsv"
HEADER = "\t".join(recorded.COLUMNS) + "\n"


def line(training, seed, score, experiment="mixed"):
    return f"{experiment}\t{training}\t{seed}\tBLEU\t{score}\tabc1234\t2026-11-30\n"


@pytest.fixture
def runs(tmp_path):
    """A table of four trainings."""
    path = tmp_path / "runs.tsv"
    path.write_text(
        HEADER + line("uniform", 1, 2) + line("clean-only", 1, 12) + line("deep", 1, 11) + line("deep", 2, 15), encoding="utf-8"
    )
    return path


def test_summary(runs):
    (experiment,) = recorded.read(str(runs)).values()
    plain, clean, deep = recorded.summary(experiment.trainings)
    assert (deep["seeds"], deep["mean"]) == ("1, 2", 13) and deep["±"] == pytest.approx(8**0.5)
    assert deep["won back"] == pytest.approx(0.9)  # of seed 1, which alone has both controls
    assert (plain["deep is above it by"], clean["deep is above it by"]) == (9, -1)
    assert plain["won back"] is clean["won back"] is deep["deep is above it by"] is None


def test_command(runs, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[benchmarks]'")
    recorded.main([str(runs), "--experiment", "mixed", "--figure", str(tmp_path / "figure")])
    assert "| deep       | 1, 2  | 13.00 | 2.83 |" in capsys.readouterr().out
    assert all((tmp_path / f"figure.{ending}").stat().st_size for ending in ("png", "svg"))


@pytest.mark.parametrize(
    "content, message",
    [
        (HEADER.replace("score\t", ""), "no column score"),
        (HEADER + line("deep", 1, "high"), "line 2: seed and score must be numbers"),
        (HEADER + "mixed\tdeep\n", "line 2: seed and score must be numbers"),
        (HEADER + line("deep", 1, 2) + line("deep", 1, 3), "line 3: mixed, deep, seed 1 stands there already"),
    ],
)
def test_bad_tables(tmp_path, content, message):
    path = tmp_path / "runs.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(L2RWError, match=message):
        recorded.read(str(path))


def test_missing_table(tmp_path):
    with pytest.raises(L2RWError, match="none.tsv: no such file"):
        recorded.read(str(tmp_path / "none.tsv"))


def test_unknown_experiment(runs):
    with pytest.raises(L2RWError, match="no experiment four; there are mixed"):
        recorded.main([str(runs), "--experiment", "four"])


def test_figure_of_everything(runs, capsys):
    with pytest.raises(SystemExit):
        recorded.main([str(runs), "--figure", "figure"])
    assert "name it with --experiment" in capsys.readouterr().err


@pytest.mark.parametrize("experiment", recorded.read(str(RUNS)))
def test_readme(experiment):
    """Where there are three seeds, the README's mean and deviation are those of the table."""
    words = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in recorded.summary(recorded.read(str(RUNS))[experiment].trainings):
        if row["seeds"] == "1, 2, 3":
            assert f"{row['mean']:.2f} ± {row['±']:.2f}" in words, row
