"""doctor: finds what will not work in installations made of a few fake files."""

import argparse
import json
import sys
import sysconfig

import pytest

from fairseq_l2rw import doctor
from fairseq_l2rw.cli import doctor as command

HOOKS = "state = trainer.task.get_checkpoint_dict()\n"
STANDARD_LIBRARY = [sysconfig.get_paths()["stdlib"], sysconfig.get_config_var("DESTSHARED") or ""]


class Site:
    """A folder of packages that are only metadata and a line of code."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, name, version="1.0", files=None):
        """Installs distribution `name` with `files` ({path: text})."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in files or {}))
        for file, text in (files or {}).items():
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / file).write_text(text)

    def add_torch(self, version="2.13.0", text=None):
        cuda = "class cuda:\n    device_count = staticmethod(lambda: 3)\nclass version:\n    cuda = '13.0'\n"
        self.add("torch", version, {"torch/__init__.py": cuda if text is None else text})

    def add_fairseq(self, name="fairseq-fixed", version="0.12.3.1", checkpoint_utils=HOOKS, init=""):
        files = {
            "fairseq/__init__.py": init,
            "fairseq/tasks/__init__.py": "",
            "fairseq/checkpoint_utils.py": checkpoint_utils,
            "fairseq/data/data_utils_fast.cpython-311.so": "",
            "fairseq/data/token_block_utils_fast.cpython-311.so": "",
        }
        self.add(name, version, files)

    def examine(self, **environment):
        path = [str(self.folder), *STANDARD_LIBRARY]
        return {finding.name: finding for finding in doctor.examine(path, {"PATH": "", **environment})}

    def problems(self, **environment):
        return {name: one.problem for name, one in self.examine(**environment).items() if one.problem}


@pytest.fixture
def site(tmp_path):
    """An installation in which all is well but for torch and fairseq, which are not there yet."""
    site = Site(tmp_path / "site")
    for name in doctor.NEEDED:
        site.add(name)
    return site


@pytest.fixture
def well(site):
    site.add_torch()
    site.add_fairseq()
    return site


def test_all_is_well(well):
    findings = well.examine()
    assert {name: one.problem for name, one in findings.items() if one.problem} == {}
    assert findings["torch"].value == "2.13.0 (CUDA 13.0)"
    assert findings["GPUs"].value == "3"
    assert findings["fairseq"].value == f"fairseq-fixed 0.12.3.1, imported from {well.folder / 'fairseq'}"
    assert findings["sacrebleu"].value == "1.0"


def test_nothing_is_installed(tmp_path):
    problems = Site(tmp_path).problems()
    assert set(problems) >= {"torch", "fairseq", *doctor.NEEDED}


def test_missing_requirement(well):
    next(well.folder.glob("num2words-*")).rename(well.folder / "gone")
    assert well.problems() == {"num2words": "num2words is needed"}


@pytest.mark.parametrize("version, old", [("2.5.1+cpu", True), ("1.13", True), ("2.6.0", False), ("2.13.0+cpu", False)])
def test_old_torch(site, version, old):
    site.add_torch(version)
    site.add_fairseq()
    problems = site.problems()
    assert ("torch" in problems) == old
    assert not old or "allow-list" in problems["torch"]


def test_broken_torch(site):
    site.add_torch(text="raise OSError('libcudart.so.13: no such file')")
    site.add_fairseq()
    findings = site.examine()
    assert "libcudart.so.13" in findings["torch"].problem
    assert findings["torch"].remedy
    assert findings["GPUs"].value.startswith("unknown")


def test_stock_fairseq_alone(site):
    site.add_torch()
    site.add_fairseq("fairseq", "0.12.2", checkpoint_utils="")
    finding = site.examine()["fairseq"]
    assert "fairseq 0.12.2 is installed instead of fairseq-fixed" in finding.problem
    assert "cannot restore the teacher" in finding.problem
    assert "pip uninstall -y fairseq fairseq-fixed" in finding.remedy


def test_stock_fairseq_beside_ours(well):
    well.add("fairseq", "0.12.2", {"fairseq/__init__.py": "", "fairseq/checkpoint_utils.py": ""})
    problem = well.problems()["fairseq"]
    assert "fairseq 0.12.2 is installed beside fairseq-fixed" in problem
    assert "cannot restore the teacher" in problem


def test_upstream_that_switches_the_safe_loader_off(site):
    site.add_torch()
    site.add_fairseq("fairseq", "0.12.3", checkpoint_utils=HOOKS + "torch.load(f, weights_only=False)")
    problem = site.problems()["fairseq"]
    assert "weights_only=False" in problem
    assert "cannot restore" not in problem


def test_another_copy_before_ours(well, tmp_path):
    """A source tree on PYTHONPATH."""
    (tmp_path / "tree" / "fairseq" / "tasks").mkdir(parents=True)
    (tmp_path / "tree" / "fairseq" / "__init__.py").touch()
    findings = doctor.examine([str(tmp_path / "tree"), str(well.folder), *STANDARD_LIBRARY], {"PATH": ""})
    problem = next(one.problem for one in findings if one.name == "fairseq")
    assert "not the one of fairseq-fixed" in problem


def test_fairseq_that_does_not_import(site):
    site.add_torch()
    site.add_fairseq(init="raise ValueError('mutable default')")
    assert "ValueError: mutable default" in site.problems()["fairseq"]


def test_extensions_not_compiled(well):
    (well.folder / "fairseq/data/data_utils_fast.cpython-311.so").unlink()
    assert "data_utils_fast" in well.problems()["compiled extensions"]


def test_compiler_matters_only_where_fairseq_is_to_be_built(site, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    site.add_torch()
    assert "C++ compiler" in site.problems()
    compiler = tmp_path / "bin" / "g++"
    compiler.parent.mkdir()
    compiler.touch(mode=0o755)
    assert site.examine(PATH=str(compiler.parent))["C++ compiler"].value == str(compiler)
    site.add_fairseq()
    assert site.problems() == {}


@pytest.mark.parametrize("as_json", [False, True])
def test_command_prints_findings_and_says_by_its_status(monkeypatch, capsys, as_json):
    good = doctor.Finding("torch", "2.13.0")
    bad = doctor.Finding("fairseq", "missing", "nothing works", "install it")
    for findings, status in (([good], 0), ([good, bad], 1)):
        monkeypatch.setattr(doctor, "examine", lambda: findings)
        assert command.run(argparse.Namespace(json=as_json)) == status
        out = capsys.readouterr().out
        if as_json:
            report = json.loads(out)
            assert report["ok"] == (status == 0)
            assert [one["name"] for one in report["findings"]] == [one.name for one in findings]
        else:
            assert "torch" in out and "2.13.0" in out
            assert ("nothing works" in out and "install it" in out) == (status == 1)
            assert ("All is well." in out) == (status == 0)
