"""Completion by the shells themselves, as far as they are installed."""

import shutil
import subprocess

import pytest

from fairseq_l2rw.cli import main as cli

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    import contextlib
    import io

    def write(shell):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert cli.main(["completion", shell]) == 0
        path = tmp_path_factory.mktemp(shell) / "_fairseq-l2rw"
        path.write_text(out.getvalue())
        return path

    return write


def complete(script, cwd, *words):
    """What bash offers for the last of the words."""
    code = (
        'source "$0"; spec="$(complete -p fairseq-l2rw)"; function="${spec##*-F }"; function="${function%% *}"; '
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; '
        '"$function" fairseq-l2rw "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code, str(script), "fairseq-l2rw", *words], cwd=cwd, capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    return {line.strip() for line in done.stdout.splitlines()}


def test_bash(script, tmp_path):
    path = script("bash")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus.tsv").touch()
    assert set(cli.COMMANDS) <= complete(path, tmp_path, "") and "--version" in complete(path, tmp_path, "--v")
    assert complete(path, tmp_path, "av") == {"average"}
    assert {"--gen-subset"} == complete(path, tmp_path, "evaluate", "--gen")
    assert complete(path, tmp_path, "prepare", "--held-out", "") == {"drop", "keep"}
    assert complete(path, tmp_path, "prepare", "--train", "cor") == {"corpus", "corpus.tsv"}
    assert complete(path, tmp_path, "prepare", "--out", "cor") == {"corpus"}


def test_zsh_takes_the_script(script):
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    subprocess.run(["zsh", "-n", str(script("zsh"))], check=True)


def test_without_its_library(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert cli.main(["completion", "bash"]) == 2
    assert "completion needs the library shtab: pip install shtab" in capsys.readouterr().err
