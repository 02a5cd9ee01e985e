"""The console command: discovery of sub-commands, help, exit statuses."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fairseq_l2rw.cli import main as cli
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.version import __version__

ROOT = Path(__file__).parents[2]


def command(run, name="probe"):
    """A sub-command module whose work is `run`."""
    module = types.ModuleType(name)
    module.NAME, module.HELP, module.EXAMPLE = name, "try half of it", f"fairseq-l2rw {name} --number 3"
    module.run = run
    module.add_arguments = lambda parser: parser.add_argument("--number", type=int, default=0)
    return module


@pytest.fixture
def main(monkeypatch):
    """Runs the command with one sub-command, `probe`, that does what it is given."""

    def run(work, *argv):
        monkeypatch.setattr(cli, "command_modules", lambda: [command(work)])
        return cli.main(["probe", *argv])

    return run


def shell(*argv: str, **kwargs) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command_line = [sys.executable, "-m", "fairseq_l2rw.cli.main", *argv]
    return subprocess.run(command_line, capture_output=True, text=True, env=environment, **kwargs)


def test_status_of_the_sub_command(main):
    assert main(lambda args: None) == 0
    assert main(lambda args: args.number, "--number", "7") == 7


def test_bad_input_is_one_line_and_status_2(main, capsys):
    def work(args):
        raise L2RWError("train.de has 3 lines, train.en 4: cut them to the same length")

    assert main(work) == 2
    captured = capsys.readouterr()
    assert captured.err == "fairseq-l2rw: error: train.de has 3 lines, train.en 4: cut them to the same length\n"
    assert captured.out == ""


def test_missing_file_is_one_line_and_status_2(main, capsys, tmp_path):
    assert main(lambda args: open(tmp_path / "none")) == 2
    assert capsys.readouterr().err == f"fairseq-l2rw: error: {tmp_path / 'none'}: No such file or directory\n"


def test_other_errors_keep_their_traceback(main):
    with pytest.raises(ZeroDivisionError):
        main(lambda args: 1 / 0)


def test_interrupt(main, capsys):
    def work(args):
        raise KeyboardInterrupt

    assert main(work) == 130
    assert capsys.readouterr().err == "fairseq-l2rw: interrupted\n"


def test_reader_that_goes_away_is_no_error(tmp_path):
    code = (
        "import sys, types; from fairseq_l2rw.cli import main as cli\n"
        "def run(args):\n    [print('x' * 100) for _ in range(100000)]\n"
        "probe = types.SimpleNamespace(NAME='probe', HELP='h', EXAMPLE='e', add_arguments=lambda p: None, run=run)\n"
        "cli.command_modules = lambda: [probe]\nsys.exit(cli.main(['probe']))"
    )
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    os.close(writer)
    os.read(reader, 10)
    os.close(reader)
    _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "argv, message", [(["--number", "x"], "argument --number: invalid int value: 'x'"), (["--absent"], "unrecognized")]
)
def test_bad_option_is_one_line_and_status_2(main, capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main(lambda args: 0, *argv)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"fairseq-l2rw: error: {message}")
    assert "--help" in lines[0]


def test_unknown_sub_command_lists_those_there_are(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["dctor"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "dctor" in error and "doctor" in error


def test_help_of_a_sub_command_ends_with_its_example(main, capsys):
    with pytest.raises(SystemExit):
        main(lambda args: 0, "--help")
    assert capsys.readouterr().out.endswith("example:\n  fairseq-l2rw probe --number 3\n")


@pytest.mark.parametrize("module", cli.command_modules(), ids=lambda module: module.NAME)
def test_every_sub_command_has_help_with_an_example(module, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([module.NAME, "--help"])
    assert ended.value.code == 0
    assert f"  fairseq-l2rw {module.NAME}" in capsys.readouterr().out.split("example:\n")[-1]


def test_module_without_a_file_is_left_out(tmp_path, monkeypatch):
    package = tmp_path / "probe_commands"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "there.py").write_text("NAME = 'there'")
    (package / "broken.py").write_text("import surely_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    modules = cli.command_modules(["absent", "there"], package="probe_commands")
    assert [module.NAME for module in modules] == ["there"]
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed"):
        cli.command_modules(["broken"], package="probe_commands")


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"fairseq-l2rw {__version__}\n"


def test_help_imports_neither_torch_nor_fairseq():
    """That is what keeps `fairseq-l2rw --help` under a second, and `doctor` alive where they are broken."""
    code = (
        "import sys\nfrom fairseq_l2rw.cli import main as cli\ncli.build_parser(cli.command_modules())\n"
        "print([name for name in ('torch', 'fairseq', 'numpy', 'sacrebleu') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_results_on_stdout_and_logs_on_stderr():
    done = shell("doctor", "--json")
    assert done.stdout.startswith("{")
