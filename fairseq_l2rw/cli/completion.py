"""``fairseq-l2rw completion``: what makes a shell complete commands, options, choices and file names."""

import argparse
from typing import Iterator

NAME = "completion"
HELP = "print a script that makes your shell complete this command"
EXAMPLE = (
    "fairseq-l2rw completion bash > ~/.local/share/bash-completion/completions/fairseq-l2rw\n"
    "fairseq-l2rw completion zsh > ~/.zfunc/_fairseq-l2rw        # with ~/.zfunc in fpath"
)
SHELLS = ("bash", "zsh", "tcsh")
FOLDERS = {"DATA", "DIR", "OUT", "RUN_DIR"}  # by metavar
FILES = {"CHECKPOINT", "FILE", "INPUT", "OTHER", "PREFIX", "TSV"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="your shell")


def run(args: argparse.Namespace) -> None:
    from fairseq_l2rw.cli.main import build_parser, command_modules
    from fairseq_l2rw.errors import L2RWError

    try:
        import shtab
    except ImportError as error:
        raise L2RWError("completion needs the library shtab: pip install shtab") from error
    parser = build_parser(command_modules())
    for action in _actions(parser):
        if action.metavar in FOLDERS:
            action.complete = shtab.DIRECTORY
        elif action.metavar in FILES:
            action.complete = shtab.FILE
    print(shtab.complete(parser, args.shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)
