"""errors: one line and exit status 2, whoever lets the error through."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_l2rw import errors

ROOT = Path(__file__).parents[1]


def run_script(code: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess:
    """Runs `code` in a fresh interpreter that knows only errors.py (neither torch nor fairseq is imported)."""
    prelude = f"import sys; sys.path.insert(0, {str(ROOT / 'fairseq_l2rw')!r})\nimport errors\n"
    command = [sys.executable, "-c", prelude + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})


def test_hook_prints_one_line_and_ends_with_status_2():
    done = run_script("errors.install_exit_hook()\nraise errors.L2RWError('no such\\nfile')")
    assert done.returncode == 2
    assert done.stderr == "fairseq-l2rw: error: no such file\n"
    assert done.stdout == ""


def test_without_hook_there_is_a_traceback():  # negative control
    done = run_script("raise errors.L2RWError('no such file')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_hook_runs_exit_handlers():
    done = run_script(
        "import atexit\natexit.register(print, 'last')\nerrors.install_exit_hook()\nraise errors.L2RWError('x')"
    )
    assert (done.returncode, done.stdout) == (2, "last\n")


def test_hook_takes_subclasses_and_leaves_others_alone():
    done = run_script("errors.install_exit_hook()\nclass E(errors.L2RWError): pass\nraise E('mine')")
    assert (done.returncode, done.stderr) == (2, "fairseq-l2rw: error: mine\n")
    done = run_script("errors.install_exit_hook()\nraise ValueError('other')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: other" in done.stderr


def test_hook_chains_and_is_installed_once(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: seen.append(args))
    errors.install_exit_hook()
    hook = sys.excepthook
    errors.install_exit_hook()
    assert sys.excepthook is hook
    error = ValueError("other")
    hook(ValueError, error, None)
    assert seen == [(ValueError, error, None)]
    left = []
    monkeypatch.setattr(errors, "_leave", lambda: left.append(True))
    hook(errors.L2RWError, errors.L2RWError("mine"), None)
    assert left == [True] and len(seen) == 1


def test_hook_ends_a_process_with_threads():
    """Also with threads that would keep the interpreter from its end, or take it down."""
    done = run_script(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        "errors.install_exit_hook()\nprint('before')\nraise errors.L2RWError('x')",
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "before\n", "fairseq-l2rw: error: x\n")


def test_hook_finds_the_error_of_a_worker():
    """What torch.multiprocessing raises in the parent: the worker's traceback as a text."""
    module = errors.__name__
    text = (
        "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  File\n"
        f"{module}.L2RWError: no rule for 'adagrad'\n"
    )
    kind = type("ProcessRaisedException", (Exception,), {})
    assert errors._message(kind, kind(text)) == "no rule for 'adagrad'"
    assert errors._message(kind, kind(text.replace("L2RWError", "OtherError"))) is None
    assert errors._message(Exception, Exception(text)) is None


def test_hook_asks_hydra_for_the_error(monkeypatch):
    """Only inside a hydra job: there the exception would not reach the hook."""
    hydra_config = pytest.importorskip("hydra.core.hydra_config")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "kept")
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    errors.install_exit_hook()
    assert "HYDRA_FULL_ERROR" not in os.environ
    monkeypatch.setattr(hydra_config.HydraConfig, "initialized", staticmethod(lambda: True))
    errors.install_exit_hook()
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ein schöner Satz, 文, 😀", "ein schöner Satz, 文, 😀"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\u202ecba", "a\\u202ecba"),
        ("\x07\x00", "\\x07\\x00"),
        ("a\tb\u2028c\nd", "a b c d"),
        ("lone \ud800", "lone \\ud800"),
    ],
)
def test_text_of_strangers_does_not_steer_the_terminal(text, shown):
    assert errors.printable(text) == shown


def test_long_text_is_cut():
    assert errors.printable("x" * 100_000, 10) == "x" * 10 + "…" and errors.printable("x" * 10, 10) == "x" * 10


def test_full_disk_is_told_at_any_depth():
    error = OSError(28, "No space left on device", "out/checkpoint.pt")
    try:
        try:
            raise error
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None
    except RuntimeError as outer:
        assert errors.explain_full_disk(outer).startswith("out/checkpoint.pt: No space left on device; make room")
        assert errors._message(RuntimeError, outer) == errors.explain_full_disk(outer)
    assert errors.explain_full_disk(OSError(13, "Permission denied")) is None
    kind = type("ProcessRaisedException", (Exception,), {})
    text = "-- Process 0 terminated:\nOSError: [Errno 28] No space left on device\n"
    assert errors._message(kind, kind(text)).startswith("No space left on device; make room")


def test_print_error_makes_one_line(capsys):
    errors.print_error("data/train.de:\nline 3")
    assert capsys.readouterr().err == "fairseq-l2rw: error: data/train.de: line 3\n"
