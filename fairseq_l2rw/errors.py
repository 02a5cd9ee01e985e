"""The one error family, and the one place where it is printed.

What a user can mend (an option, a file, an installation) is raised as :class:`L2RWError` where the fact is known, with
a message that names the option, the file or the line and says what to do. Nothing catches it on the way: it stays an
exception in a program that uses the library, and ends a command with one line on stderr and exit status 2.

* ``fairseq-l2rw`` catches it in ``cli/main.py``;
* fairseq's own commands know nothing of it, so :func:`install_exit_hook` teaches ``sys.excepthook`` to print it.

A full disk is told in the same way: it is nobody's bad input, but mended as easily.
"""

import atexit
import contextlib
import errno
import os
import re
import sys
from typing import Callable, List, Optional

PREFIX = "fairseq-l2rw: error: "
EXIT_STATUS = 2

Explanation = Callable[[BaseException], Optional[str]]
_explanations: List[Explanation] = []
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class L2RWError(RuntimeError):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    A RuntimeError, because fairseq's trainer raises those again as they are; before every other exception of a training
    step it saves ``crash.pt``, and bad input must leave nothing behind.
    """


def printable(text: str, limit: Optional[int] = None) -> str:
    """`text` for a terminal: one line, and what would steer the terminal or turn the direction of writing as an escape.

    Args:
        text: of a corpus, a file's name, anything that a stranger may have written.
        limit: characters after which it is cut.
    """
    cut = text if limit is None or len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in cut)


def print_error(message: object) -> None:
    """Writes `message` to stderr as one line, whatever line breaks and control characters it has."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()  # so that the line comes last where both streams go to one place
    print(PREFIX + printable(" ".join(str(message).splitlines())), file=sys.stderr, flush=True)


def install_exit_hook(explain: Optional[Explanation] = None) -> None:
    """Makes an :class:`L2RWError` that nobody catches end the process with one line and exit status 2.

    So does a full disk, and an exception of others for which `explain` has a line. Every other exception goes to the
    hook that was there before. Calling it again changes nothing.
    """
    if explain is not None and explain not in _explanations:
        _explanations.append(explain)
    # Hydra prints the exceptions of its job itself, with a traceback and exit status 1, unless it is asked for the full
    # error; then it raises them like any program. It asks at the time of the error, so it is not too late.
    hydra_config = sys.modules.get("hydra.core.hydra_config")
    if hydra_config is not None and hydra_config.HydraConfig.initialized():
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")

    previous = sys.excepthook
    if getattr(previous, "_prints_l2rw_errors", False):
        return

    def hook(kind, value, traceback):
        message = _message(kind, value)
        if message is None:
            previous(kind, value, traceback)
        else:
            print_error(message)
            _leave()

    hook._prints_l2rw_errors = True
    sys.excepthook = hook


def _leave() -> None:
    """Ends the process after its exit handlers have run.

    It does not take the interpreter down in good order: fairseq's threads still prepare batches then, and a thread that
    is stopped within torch takes the process along with SIGABRT, a line of its own after ours, and another status.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(EXIT_STATUS)


def explain_full_disk(error: Optional[BaseException]) -> Optional[str]:
    """What to print if `error` comes from a write for which there was no room, at whatever depth; else None."""
    seen: List[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in _FULL:
            return _full_disk(error.strerror, error.filename)
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def _full_disk(reason: Optional[str], name: object = None) -> str:
    where = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes, os.PathLike)) else ""
    return (
        f"{where}{reason}; make room and give the same command again (files and checkpoints that were whole before "
        "are as they were, and a training goes on from the last of them)"
    )


def _message(kind: type, value: BaseException) -> Optional[str]:
    """What to print of an exception, raised here or in a worker that torch.multiprocessing started; None: its traceback."""
    if issubclass(kind, L2RWError):
        return str(value)
    if kind.__name__ == "ProcessRaisedException":  # named, not imported: this module must load without torch
        text = str(value).rstrip()
        found = re.search(rf"^{re.escape(__name__)}\.L2RWError: (.*)\Z", text, re.MULTILINE | re.DOTALL)
        if found:
            return found.group(1)
        full = re.search(rf"^OSError: \[Errno (?:{'|'.join(map(str, _FULL))})\] (.*)$", text, re.MULTILINE)
        return _full_disk(full.group(1)) if full else None
    known = (explain(value) for explain in (explain_full_disk, *_explanations))
    return next((line for line in known if line is not None), None)
