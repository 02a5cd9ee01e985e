"""Every block of commands in docs/ is run as it stands there, in a copy of the repository, with small sizes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_l2rw.corpus.toy import write_toy
from scripts import official

ROOT = Path(__file__).parents[2]
COPIED = ("fairseq_l2rw", "scripts", "tests", "examples", "docs", "setup.py", "pyproject.toml", "README.md")
COMMANDS = {"fairseq-l2rw": "fairseq_l2rw.cli.main", "fairseq-train": "fairseq_cli.train"}


def blocks(page):
    """The commands of a page: its ```bash blocks, in order. Others (```console) are not run: they need a cluster, say."""
    return re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository that the commands may change."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (tmp_path / "bin").mkdir()
    for name, module in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        command.chmod(0o755)
    return folder


def run_page(page, copy, **environment):
    """Runs the blocks of a page in one shell, as somebody would who pastes them."""
    script = "set -euo pipefail\nset -x\n" + "\n".join(blocks(copy / "docs" / page))
    path = os.pathsep.join([str(copy.parent / "bin"), os.path.dirname(sys.executable), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script], cwd=copy, capture_output=True, encoding="utf-8", errors="replace", timeout=580, check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
             "L2RW_SKIP_SETUP": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_extend(copy):
    out = run_page("extend.md", copy, SIZE="600")
    assert (copy / "try" / "lengths" / "report.html").is_file()
    assert "Kept though spoilt" in (copy / "try" / "lengths" / "report.html").read_text(encoding="utf-8")
    summaries = re.findall(r"^(\d+) passed", out, re.MULTILINE)
    assert len(summaries) == 2 and all(int(count) >= 10 for count in summaries), out[-3000:]
    assert "num_updates=8" in out and "meta_loss=" in out


TINY = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 32 --decoder-embed-dim 32 "
    "--encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 64 --encoder-attention-heads 2 --decoder-attention-heads 2 "
    "--share-all-embeddings --max-tokens 1000 --meta-max-tokens 300 --num-workers 0 --log-interval 2"
)


def test_clean_corpus(copy):
    write_toy(str(copy / "crawl"), "de", "en", {"train": 500, "valid": 100, "test": 20}, seed=1)
    run_page("clean_corpus.md", copy, CORPUS="crawl", VOCAB="300", META="50", UPDATES="20", START="8", MODEL=TINY)
    page = (copy / "clean" / "run" / "report.html").read_text(encoding="utf-8")
    for part in ("Scores", "Weights over time", "Lowest weights", "Weight against loss"):
        assert part in page, part
    assert "Not there yet" not in page
    best = (copy / "clean" / "best.en").read_text(encoding="utf-8").splitlines()
    kept = iter((copy / "crawl" / "train.en").read_text(encoding="utf-8").splitlines())
    assert len(best) == 350 and all(line in kept for line in best), "not lines of the corpus in their order"
    assert len((copy / "clean" / "run" / "weights.txt").read_text().splitlines()) == 500
    gains = (copy / "clean" / "run" / "gains.tsv").read_text(encoding="utf-8").splitlines()
    assert len(gains) == 501 and "gain" in gains[0]


def test_reproduce(copy):
    pytest.importorskip("sacremoses")
    official.iwslt14(copy / "raw", train=460, test=2)
    small = f"{TINY.replace('--share-all-embeddings', '')} --meta-start 1"
    settings = {"SEEDS": "1", "TEACHERS": "deep", "UPDATES": "2", "META": "8"}
    settings["IMAGES"] = "--noise uniform:0.4 --schedule 2 --train-size 300"
    out = run_page("reproduce.md", copy, RAW="raw", EXTRA=small, **settings)
    page = (copy / "runs" / "report.html").read_text(encoding="utf-8")
    assert "2 runs" in page and "task.meta_objective" in page
    assert "+ curl " in out and "newstest2014" in out, "the dry run of WMT14"
    assert not (copy / "runs" / "wmt14").exists()
    page = (copy / "runs" / "digits.html").read_text(encoding="utf-8")
    assert "4 runs" in page and "Accuracy on the test images" in page and "Weights over time" in page


PAGES = sorted((ROOT / "docs").rglob("*.md"))


def test_readme_links_the_pages():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        assert f"({name})" in readme, f"README.md does not link {name}"
        assert page.parent.name == "measurements" or blocks(page), f"{name} has no commands"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_in_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links {target}"
