"""The one error family, and the one place where it is printed.

What a user can mend (an option, a file, an installation) is raised as :class:`L2RWError` where the fact is known, with
a message that names the option, the file or the line and says what to do. Nothing catches it on the way: it stays an
exception in a program that uses the library, and ends a command with one line on stderr and exit status 2.

* ``fairseq-l2rw`` catches it in ``cli/main.py``;
* fairseq's own commands know nothing of it, so :func:`install_exit_hook` teaches ``sys.excepthook`` to print it.
"""

import atexit
import contextlib
import os
import re
import sys
from typing import Optional

PREFIX = "fairseq-l2rw: error: "
EXIT_STATUS = 2


class L2RWError(RuntimeError):
    """Bad input, told in one line: what is wrong, where, and what to do about it.

    A RuntimeError, because fairseq's trainer raises those again as they are; before every other exception of a training
    step it saves ``crash.pt``, and bad input must leave nothing behind.
    """


def print_error(message: object) -> None:
    """Writes `message` to stderr as one line, whatever line breaks it has."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()  # so that the line comes last where both streams go to one place
    print(PREFIX + " ".join(str(message).splitlines()), file=sys.stderr, flush=True)


def install_exit_hook() -> None:
    """Makes an :class:`L2RWError` that nobody catches end the process with one line and exit status 2.

    Every other exception goes to the hook that was there before. Calling it again changes nothing.
    """
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


def _message(kind: type, value: BaseException) -> Optional[str]:
    """The message of an L2RWError, raised here or in a worker that torch.multiprocessing started; else None."""
    if issubclass(kind, L2RWError):
        return str(value)
    if kind.__name__ == "ProcessRaisedException":  # named, not imported: this module must load without torch
        found = re.search(rf"^{re.escape(__name__)}\.L2RWError: (.*)\Z", str(value).rstrip(), re.MULTILINE | re.DOTALL)
        if found:
            return found.group(1)
    return None
