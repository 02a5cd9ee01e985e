"""The package installed elsewhere, used from an empty folder; the same from the root of the repository."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from integration.commands import PACKAGE, ROOT, TRANSFORMER, UNCHECKED, run, train

FEW = [*TRANSFORMER, "--teacher-replay", 2, "--meta-start", 1, "--max-update", 3, *UNCHECKED]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site-packages folder with the installed package and fairseq side by side, as a true one has them.

    fairseq looks for a relative ``--user-dir`` beside its own folder, so that folder is a real one, with links in it.
    """
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml"):  # a copy: a build leaves its traces in the source folder
        shutil.copy(ROOT / name, source / name)
    options = "--quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check".split()
    run("-m", "pip", "install", *options, "--target", site, source, cwd=source)
    fairseq = Path(importlib.util.find_spec("fairseq").origin).parent
    (site / "fairseq").mkdir()
    for entry in fairseq.iterdir():
        (site / "fairseq" / entry.name).symlink_to(entry)
    return site


def test_installed_and_from_an_empty_folder(data, runs, site):
    run_ = train(data, runs / "installed", *FEW, user_dir="fairseq_l2rw", PYTHONPATH=str(site))
    assert "meta_loss" in run_.progress()[-1], run_
    assert sorted(p.name for p in (runs / "installed.cwd").iterdir()) == []


def test_the_console_command_and_the_example_are_installed(site, tmp_path):
    result = run(site / "bin" / "fairseq-l2rw", "--version", cwd=tmp_path, PYTHONPATH=str(site))
    assert result.stdout.startswith("fairseq-l2rw ")
    assert (site / "fairseq_l2rw" / "config" / "toy_de_en.yaml").is_file()
    assert (site / "fairseq_l2rw" / "report" / "page.html").is_file()


def test_from_the_root_of_the_repository(data, runs):
    """Here with nothing chosen: the default criterion is replaced, and the log says so."""
    run_ = train(data, runs / "root", *FEW, user_dir="fairseq_l2rw", cwd=ROOT)
    assert "criterion cross_entropy is replaced by l2rw_cross_entropy" in run_.stdout
    assert "meta_loss" in run_.progress()[-1], run_
