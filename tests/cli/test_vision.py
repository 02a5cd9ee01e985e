"""``fairseq-l2rw vision``: JSON on stdout, logs on stderr, one line for bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_l2rw.cli import main as cli

ROOT = Path(__file__).parents[2]
QUICK = ["--data", "digits", "--noise", "uniform:0.4", "--schedule", "1", "--train-size", "200", "--meta-start", "0", "--cpu"]

# fairseq is not there: any import of it ends the command
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "omegaconf", "hydra"):
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
from fairseq_l2rw.cli.main import main
sys.exit(main(["vision", *sys.argv[1:]]))
"""


def test_compares_without_fairseq(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *QUICK, "--compare", "--save-dir", str(tmp_path / "run")],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert set(results) == {"results"} and set(results["results"]) == {"deep", "uniform", "loss", "mwn"}
    for teacher, figures in results["results"].items():
        assert set(figures) == {"accuracy", "auc", "seconds"}
        assert 0 <= figures["accuracy"] <= 1 and figures["seconds"] > 0
        assert (figures["auc"] is None) == (teacher == "uniform")
        assert json.loads((tmp_path / "run" / teacher / "result.json").read_text()) == figures
    assert "200 training images" in done.stderr and "deep: epoch 1" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "mnist"], "--data"),
        (["--data", "cifar10"], "--root"),
        (["--data", "cifar10", "--root", "nowhere"], "cifar-10-python.tar.gz is not in nowhere"),
        (["--data", "folder", "--root", "nowhere"], "nowhere/train"),
        (["--noise", "uniform:2"], "--noise uniform:2"),
        (["--teacher", "boss"], "--teacher boss: unknown teacher; choose one of deep, "),
        (["--model", "vgg"], "--model vgg"),
        (["--schedule", "ten"], "--schedule ten"),
        (["--schedule", "0"], "--schedule 0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--batch-size", "5000"], "--batch-size 5000"),
        (["--meta-size", "0"], "--meta-size 0"),
        (["--meta-size", "1300"], "--meta-size 1300"),
        (["--train-size", "9999"], "--train-size 9999"),
        (["--valid-size", "-1"], "--valid-size -1"),
        (["--lr", "0"], "--lr 0"),
        (["--momentum", "1"], "--momentum 1"),
        (["--dropout", "1.5"], "--dropout 1.5"),
        (["--meta-contrast", "blurred:1"], "unknown kind 'blurred'"),
        (["--meta-interval", "0"], "--meta-interval 0"),
        (["--teacher-inputs", "all"], "--teacher-inputs all"),
        (["--skip-below", "1"], "--skip-below 1"),
        (["--skip-below", "0.5", "--teacher", "uniform"], "--skip-below: with --teacher uniform no image is left out; give one of deep, surface, loss"),
        (["--teacher-prior", "1"], "--teacher-prior 1"),
        (["--labels", "none.tsv", "--label-column", "x"], "--labels none.tsv"),
        (["--labels", "none.tsv", "--noise", "flip:0.1"], "--labels and --noise"),
        (["--amp", "int8"], "--amp"),
        (["--image-size", "x"], "--image-size"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(["vision", "--save-dir", "run", *options])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    told = [line for line in captured.err.splitlines() if line.startswith("fairseq-l2rw: error: ")]
    assert status == 2 and captured.out == ""
    assert len(told) == 1 and words in told[0] and "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())
