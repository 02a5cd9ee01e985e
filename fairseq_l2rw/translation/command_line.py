"""What can be refused on fairseq's command line before fairseq's own parser prints its whole usage above the error.

fairseq imports the user dir before it makes its parser, and finds ``--user-dir`` by a small parse of its own beforehand.
This module does the same for the names that are looked up in a registry: under ``--task l2rw_translation`` a name that
nobody has registered is told in one line. What else the parser refuses (a value that is no number, an option that there is not) it tells
in one line as well, and ``--help`` tells of the task's options too.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import sys
from typing import Any, Callable, Iterable, NoReturn, Sequence

from fairseq import options
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.registry import REGISTRIES

from fairseq_l2rw.errors import EXIT_STATUS, L2RWError, print_error

TASK = "l2rw_translation"
HELP = {"-h", "--help"}


def check_command_line(words: Sequence[str], check_criterion: Callable[[str], None]) -> None:
    """Looks at the names in a command line of ``--task l2rw_translation``; any other command line is left alone.

    Args:
        words: the command line without the program's name.
        check_criterion: raises for a criterion that the task does not take.

    Raises:
        L2RWError: a name that is not registered.
    """
    choices = {name: list(entry["registry"]) for name, entry in REGISTRIES.items()}
    choices["arch"] = [*ARCH_MODEL_REGISTRY, *MODEL_REGISTRY]
    given = _given(words, choices)
    if given.get("task") != TASK:
        return
    if given["criterion"] is not None:
        check_criterion(given["criterion"])
    for name, known in choices.items():
        value = given[name]
        if value is not None and value not in known:
            few = difflib.get_close_matches(value, known, n=5, cutoff=0.3) if len(known) > 20 else sorted(known)
            raise L2RWError(f"--{name.replace('_', '-')} {value}: unknown; choose one of {', '.join(few) or 'those in --help'}")


def guard_parsing() -> None:
    """Makes fairseq's parser brief in its errors and complete in its help under ``--task l2rw_translation``; calling it again
    changes nothing."""
    parse = options.parse_args_and_arch
    if getattr(parse, "_is_brief", False):
        return

    @functools.wraps(parse)
    def brief(parser: argparse.ArgumentParser, input_args: Sequence[str] | None = None, *args: Any, **kwargs: Any):
        if _given(sys.argv[1:] if input_args is None else input_args).get("task") == TASK:
            tell_errors_in_one_line(parser)
            prepare_first_parse(parser)
        return parse(parser, input_args, *args, **kwargs)

    brief._is_brief = True  # type: ignore[attr-defined]
    options.parse_args_and_arch = brief


def _given(words: Sequence[str], names: Iterable[str] = ()) -> dict[str, str | None]:
    """What a command line gives with ``--task`` and with other options; nothing where one of them is without its value, of
    which fairseq's parser tells."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--task")
    for name in names:
        parser.add_argument("--" + name.replace("_", "-"), *(["-a"] if name == "arch" else []), dest=name)
    try:
        return vars(parser.parse_known_args([str(word) for word in words])[0])
    except argparse.ArgumentError:
        return {}


def tell_errors_in_one_line(parser: argparse.ArgumentParser) -> None:
    """Makes `parser` tell a bad option in one line, as ``fairseq-l2rw`` does; the exit status is 2 as before."""

    def error(message: str) -> NoReturn:
        print_error(f"{message} (see {parser.prog} --help)")
        raise SystemExit(EXIT_STATUS)

    parser.error = error  # type: ignore[method-assign]


def prepare_first_parse(parser: argparse.ArgumentParser) -> None:
    """Makes the next parse of `parser` overlook ``--help``, and tell in one line that ``--arch`` is missing.

    fairseq parses twice: to learn which task, model and optimizer are asked for, then with the options that these add. Its
    help would come with the first parse, and have none of them; where no model is named it has but a traceback.
    """
    parse = parser.parse_known_args

    def first(args: Sequence[str] | None = None, namespace: Any = None):
        parser.parse_known_args = parse  # type: ignore[method-assign]
        words = list(sys.argv[1:] if args is None else args)
        found, rest = parse([word for word in words if word not in HELP], namespace)
        if getattr(found, "arch", "") is None:
            if not HELP.intersection(words):
                parser.error("--arch: no model is named; give one, as --arch transformer")
            del found.arch  # the help is that of no model
        return found, rest

    parser.parse_known_args = first  # type: ignore[method-assign, assignment]
