"""``fairseq-l2rw``: one console command, one module per sub-command.

A sub-command is a module ``fairseq_l2rw/cli/NAME.py``, listed in :data:`COMMANDS`, with

* ``NAME``, ``HELP`` (a few words), ``EXAMPLE`` (one or more command lines, shown at the end of its --help);
* ``add_arguments(parser)``;
* ``run(args)``, which returns the exit status, or None for 0, prints results (JSON) on stdout and logs on stderr.

All of them are imported for ``fairseq-l2rw --help``, so they import torch, fairseq and the like inside ``run``.
"""

import argparse
import importlib
import logging
import os
import signal
import sys
from types import ModuleType
from typing import List, NoReturn, Optional, Sequence

from fairseq_l2rw.errors import EXIT_STATUS, L2RWError, explain_full_disk, print_error
from fairseq_l2rw.version import __version__

PROGRAM = "fairseq-l2rw"
COMMANDS = ("toy", "corrupt", "prepare", "weights", "filter", "average", "evaluate", "report", "vision", "doctor", "completion")


class _Parser(argparse.ArgumentParser):
    """Bad options get one line, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        print_error(f"{message} (see {self.prog} --help)")
        raise SystemExit(EXIT_STATUS)


def command_modules(names: Sequence[str] = COMMANDS, package: str = "fairseq_l2rw.cli") -> List[ModuleType]:
    """Imports the modules of the sub-commands; one that has no file is left out."""
    modules = []
    for name in names:
        path = f"{package}.{name}"
        try:
            modules.append(importlib.import_module(path))
        except ModuleNotFoundError as error:
            if error.name != path:  # the module is there, what it imports is not
                raise
    return modules


def build_parser(modules: Sequence[ModuleType]) -> argparse.ArgumentParser:
    """The parser of the command, with a sub-parser for each module."""
    parser = _Parser(
        prog=PROGRAM,
        description="Learning to reweight training data with fairseq: data, weights and scores around the training.",
        epilog=f"'{PROGRAM} COMMAND --help' describes a command and ends with an example.",
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True, parser_class=_Parser)
    for module in modules:
        example = "\n".join("  " + line for line in module.EXAMPLE.strip().splitlines())
        sub = commands.add_parser(
            module.NAME,
            help=module.HELP,
            description=module.HELP[:1].upper() + module.HELP[1:],
            epilog="example:\n" + example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the command line `argv` (default: the process's) and returns the exit status."""
    parser = build_parser(command_modules())
    args = parser.parse_args(argv)
    # Before anything of fairseq is imported: its commands would send the log to stdout, where the results go.
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("LOGLEVEL", "INFO").upper(),
        format="%(asctime)s | %(levelname)s | %(name)s | %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
    )
    try:
        status = args.run(args)
        sys.stdout.flush()  # a reader that has gone shows here, not at the interpreter's exit
        return status or 0
    except L2RWError as error:
        print_error(error)
        return EXIT_STATUS
    except BrokenPipeError:
        # The reader (`head`, say) has had enough: end as a program killed by SIGPIPE would. What is left in the
        # buffer goes nowhere, or the interpreter would complain about it at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except FileExistsError as error:
        if error.filename is None:
            raise
        print_error(f"{os.fsdecode(error.filename)}: a file, where a folder is wanted; move it away, or give another name")
        return EXIT_STATUS
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        if error.filename is None:
            raise
        print_error(f"{os.fsdecode(error.filename)}: {error.strerror}")
        return EXIT_STATUS
    except (OSError, RuntimeError) as error:
        message = explain_full_disk(error)
        if message is None:
            raise
        print_error(message)
        return EXIT_STATUS
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
