"""scripts/setup.sh: what it says is missing, and what it asks pip for. Python and pip are stubs: nothing is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = "bash cat cksum dirname grep mkdir rm tail touch".split()

# Answers what setup.sh asks of a Python from STUB_* variables, notes what it asks of pip, and does nothing else.
STUB = r"""#!{bash}
case "$*" in
  "-c import sys; print("*) echo "${{STUB_VERSION:-3.11}}" ;;
  "-c import venv, ensurepip") exit "${{STUB_NO_VENV:-0}}" ;;
  "-V") echo "Python ${{STUB_VERSION:-3.11}}" ;;
  "-m venv"*) for folder; do :; done; mkdir -p "$folder/bin"; cat "$0" >"$folder/bin/python"; {chmod} +x "$folder/bin/python"; touch "$folder/bin/activate" ;;
  "-m pip --version") ;;
  "-m pip download"*) echo "$*" >>"$STUB_LOG"; exit "${{STUB_NO_WHEEL:-1}}" ;;
  "-m pip"*) echo "$*" >>"$STUB_LOG"; echo "Successfully installed"; exit "${{STUB_PIP_STATUS:-0}}" ;;
  "-I -"*)
    script="$(cat)"
    case "$script" in
      *get_paths*) echo "${{STUB_INCLUDE:-}}" ;;
      *mkdir*) ;;
      *direct_url*) exit "${{STUB_NOT_READY:-0}}" ;;
      *"metadata.version"*) case "$3" in torch) echo "${{STUB_TORCH:-}}" ;; fairseq) echo "${{STUB_FAIRSEQ:-}}" ;; esac ;;
      *) shift 2; {python} -I -S - "$@" <<<"$script" ;;
    esac ;;
esac
"""


class Machine:
    """A checkout with nothing but the set-up, and a PATH with nothing but what is put there."""

    def __init__(self, folder):
        self.root, self.bin, self.log = folder / "checkout", folder / "bin", folder / "pip.log"
        (self.root / "scripts").mkdir(parents=True)
        self.bin.mkdir()
        for name in ("setup.py", "pyproject.toml", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.root / name)
        for name in TOOLS:
            (self.bin / name).symlink_to(shutil.which(name))
        self.include = folder / "include"
        self.include.mkdir()
        self.variables = {"STUB_LOG": str(self.log), "STUB_INCLUDE": str(self.include)}

    def add_python(self, path="bin/python3.11"):
        """Puts the stub at `path`."""
        file = self.bin.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(STUB.format(bash=shutil.which("bash"), chmod=shutil.which("chmod"), python=sys.executable))
        file.chmod(0o755)
        return file

    def add_compiler(self):
        (self.bin / "g++").touch(mode=0o755)

    def add_headers(self):
        (self.include / "Python.h").touch()

    def setup(self, **variables):
        """Runs setup.sh; returns its exit status and what it says."""
        done = subprocess.run(
            [shutil.which("bash"), str(self.root / "scripts" / "setup.sh")],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": str(self.bin), "HOME": str(self.root), **self.variables, **variables},
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    def pip_calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path):
    """A machine on which everything is there."""
    machine = Machine(tmp_path)
    machine.add_python()
    machine.add_compiler()
    machine.add_headers()
    return machine


def assert_refused(machine, message, **variables):
    """setup.sh ends with status 2 and `message` as its last line, and has installed nothing."""
    status, said = machine.setup(**variables)
    assert status == 2
    assert message in said.splitlines()[-1]
    assert not [call for call in machine.pip_calls() if "pip install" in call]


def test_all_is_there(machine):
    status, said = machine.setup()
    assert status == 0, said
    assert "setup: done" in said.splitlines()[-1]
    assert (machine.root / ".venv" / "bin" / "activate").exists()


def test_no_python(machine):
    (machine.bin / "python3.11").unlink()
    assert_refused(machine, "no Python found: 3.10 to 3.12 are needed")


@pytest.mark.parametrize("version, message", [("3.9", "too old"), ("2.7", "too old"), ("3.13", "newer than what works")])
def test_wrong_python(machine, version, message):
    assert_refused(machine, message, STUB_VERSION=version)
    assert not (machine.root / ".venv").exists()


def test_wrong_python_in_the_active_environment(machine):
    machine.add_python("active/bin/python")
    assert_refused(machine, "too old", STUB_VERSION="3.9", VIRTUAL_ENV=str(machine.bin.parent / "active"))


def test_python_that_does_not_run_is_passed_over(machine):
    """A shim of a version manager: it exists, and fails."""
    (machine.bin / "python3.11").unlink()
    (machine.bin / "python3.11").write_text(f"#!{shutil.which('bash')}\nexit 127\n")
    (machine.bin / "python3.11").chmod(0o755)
    machine.add_python("bin/python3.12")
    status, said = machine.setup(STUB_VERSION="3.12")
    assert status == 0, said
    assert f"with {machine.bin / 'python3.12'}" in said


def test_named_python_goes_first(machine):
    named = machine.add_python("elsewhere/python")
    status, said = machine.setup(PYTHON=str(named))
    assert status == 0, said
    assert f"with {named}" in said
    shutil.rmtree(machine.root / ".venv")
    machine.log.unlink()
    assert_refused(machine, "PYTHON=/none does not run", PYTHON="/none")


def test_no_venv_module(machine):
    assert_refused(machine, "apt install python3.11-venv", STUB_NO_VENV="1")


def test_no_compiler(machine):
    (machine.bin / "g++").unlink()
    assert_refused(machine, "no C++ compiler")


def test_no_headers(machine):
    (machine.include / "Python.h").unlink()
    assert_refused(machine, f"no Python headers ({machine.include}/Python.h)")


def test_neither_is_needed_where_there_is_a_wheel(machine):
    (machine.bin / "g++").unlink()
    (machine.include / "Python.h").unlink()
    status, said = machine.setup(STUB_NO_WHEEL="0", STUB_VERSION="3.12")
    assert status == 0, said


def test_old_torch_is_refused_and_left_alone(machine):
    assert_refused(machine, "torch 2.5.1+cu121", STUB_TORCH="2.5.1+cu121")


def test_another_fairseq_is_refused(machine):
    assert_refused(machine, "another fairseq (0.12.2)", STUB_FAIRSEQ="0.12.2")


def test_torch_first_then_fairseq_without_isolation(machine):
    """An isolated build would fetch a second torch."""
    status, said = machine.setup()
    assert status == 0
    calls = [call for call in machine.pip_calls() if "pip install" in call]
    torch = next(n for n, call in enumerate(calls) if " torch==2.13.0" in call)
    fairseq = next(n for n, call in enumerate(calls) if " fairseq-fixed" in call)
    assert torch < fairseq < len(calls) - 1
    assert "--no-build-isolation" in calls[fairseq] and "--no-build-isolation" in calls[-1]
    assert f"-e {machine.root}[test]" in calls[-1]
    assert not [call for call in calls if "index" in call or "find-links" in call or "--upgrade" in call]
    assert said.index("0.2 GB") < said.index("Successfully installed")


def test_torch_that_is_there_stays(machine):
    active = machine.add_python("active/bin/python").parents[1]
    status, said = machine.setup(STUB_TORCH="2.7.1+cu126", VIRTUAL_ENV=str(active))
    assert status == 0, said
    calls = [call for call in machine.pip_calls() if "pip install" in call]
    assert calls and not [call for call in calls if " torch" in call]
    assert all(f"-c {active}/.fairseq_l2rw-constraints.txt" in call for call in calls)
    assert (active / ".fairseq_l2rw-constraints.txt").read_text() == "torch==2.7.1+cu126\n"
    assert not (machine.root / ".venv").exists()


def test_pip_that_fails_is_told(machine):
    status, said = machine.setup(STUB_TORCH="2.13.0", STUB_PIP_STATUS="1")
    assert status == 2
    assert "pip could not install" in said.splitlines()[-1]
    assert machine.setup(STUB_TORCH="2.13.0")[0] == 0  # nothing was stamped: it starts again
    assert "-e" in machine.pip_calls()[-1]


def test_second_run_asks_pip_for_nothing(machine):
    machine.setup()
    first = machine.pip_calls()
    assert first
    status, said = machine.setup()
    assert (status, said, machine.pip_calls()) == (0, "", first)


@pytest.mark.parametrize("change", ["setup.py", "scripts/setup.sh", "package removed"])
def test_second_run_notices_a_change(machine, change):
    machine.setup()
    first = machine.pip_calls()
    variables = {"STUB_NOT_READY": "1"} if change == "package removed" else {}
    if not variables:
        with (machine.root / change).open("a") as file:
            file.write("\n# changed\n")
    status, said = machine.setup(**variables)
    assert status == 0, said
    assert len(machine.pip_calls()) > len(first)


def test_interrupted_environment_is_made_again(machine):
    machine.setup()
    (machine.root / ".venv" / "bin" / "activate").unlink()
    status, said = machine.setup()
    assert status == 0 and f"making {machine.root / '.venv'}" in said


def test_script_that_sources_it_runs_in_the_environment(machine):
    script = machine.root / "scripts" / "probe.sh"
    script.write_text('set -euo pipefail\nsource scripts/setup.sh\ntype -P python\necho "$VIRTUAL_ENV"\n')
    done = subprocess.run(
        [shutil.which("bash"), str(script)],
        capture_output=True,
        text=True,
        cwd=machine.root,
        env={"PATH": str(machine.bin), "HOME": str(machine.root), **machine.variables},
    )
    assert done.stdout.splitlines() == [str(machine.root / ".venv/bin/python"), str(machine.root / ".venv")]


def test_scripts_name_no_host_and_no_private_path():
    for name in ("setup.py", "pyproject.toml", "scripts/setup.sh", "scripts/test.sh", ".ci/run"):
        text = (ROOT / name).read_text()
        assert "--index" not in text and "--extra-index" not in text and "https://" not in text, name


def test_shell_scripts_parse():
    for script in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run([shutil.which("bash"), "-n", str(script)], check=True)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
