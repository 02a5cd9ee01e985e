"""A folder that is made in stages, and exists whole or not at all.

It is built beside its place and renamed when complete. What is done is noted stage by stage, so that after a kill the same call goes on
from there.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
from typing import Callable, Iterator, List

from fairseq_l2rw.corpus.bitext import remove_partial, write_lines
from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)


class BuildFolder:
    """The folder. A stage that is done has its result in work/STAGE.done, written last."""

    def __init__(self, folder: str):
        self.folder = folder

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def once(self, stage: str, work: Callable[[], object]):
        """The result of `work`, now or in the run before this one."""
        mark = self.path("work", f"{stage}.done")
        if os.path.exists(mark):
            logger.info("%s: done before", stage)
            with open(mark, encoding="utf-8") as handle:
                return json.load(handle)
        result = work()
        self.mark(stage, result)
        return result

    def mark(self, stage: str, result: object) -> None:
        write_lines(self.path("work", f"{stage}.done"), [json.dumps(result)])

    def is_done(self, stage: str) -> bool:
        return os.path.exists(self.path("work", f"{stage}.done"))

    def files(self) -> List[str]:
        """Everything but what the work left, relative to the folder."""
        found = [
            os.path.relpath(os.path.join(folder, name), self.folder)
            for folder, _, names in os.walk(self.folder)
            for name in names
        ]
        return sorted(name for name in found if name.split(os.sep)[0] != "work")


@contextlib.contextmanager
def building(out: str, plan: object, there: bool, worth_keeping: str) -> Iterator[BuildFolder]:
    """A folder beside `out` that takes its name if the block ends well.

    It goes if the text or the settings are bad. It stays when the block is interrupted, or when a stage fails for want of disk or memory, and
    the next call with the same plan goes on with it.

    Args:
        out: the folder to make.
        plan: what decides the result, as JSON gives it back; half work of another plan is thrown away.
        there: `out` exists and lacks some of its files: its others are kept.
        worth_keeping: the stage after which an error no longer says that the input was bad.

    Raises:
        L2RWError: another process is making `out`.
    """
    out = os.path.abspath(out)
    build = BuildFolder(os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.partial"))
    os.makedirs(build.folder, exist_ok=True)
    with locked(build.folder, out):
        if there:
            shutil.rmtree(build.folder)
            os.rename(out, build.folder)
        elif _read_json(build.path("work", "plan.json")) != plan:
            _empty(build.folder)
        remove_partial(build.folder)
        os.makedirs(build.path("work"), exist_ok=True)
        write_lines(build.path("work", "plan.json"), [json.dumps(plan)])
        try:
            yield build
        except L2RWError:
            if not there and not build.is_done(worth_keeping):
                shutil.rmtree(build.folder)
            raise
        os.rename(build.folder, out)


@contextlib.contextmanager
def locked(folder: str, out: str) -> Iterator[None]:
    """Keeps a second process out of `folder`; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise L2RWError(f"--out {out}: another prepare is making it; wait for its end") from error
        yield
    finally:
        os.close(handle)


def _empty(folder: str) -> None:
    for entry in os.scandir(folder):
        shutil.rmtree(entry.path) if entry.is_dir() else os.remove(entry.path)


def _read_json(path: str):
    with contextlib.suppress(FileNotFoundError, ValueError):
        with open(path, encoding="utf-8") as handle:
            return json.load(handle)
