"""A queue of jobs, some side by side, that goes on where it stopped.

A job is a folder and a function that runs commands in it. Each command that has ended well leaves a marker, a job that
is done leaves ``done.json`` with its settings; a queue that is started again skips both. A job that fails takes along
those that need it, no others.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable

from fairseq_l2rw.corpus.bitext import write_lines
from fairseq_l2rw.errors import L2RWError

DONE = "done.json"


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: its folder in the queue's folder; may have slashes.
        settings: what decides its result, as JSON takes it.
        work: runs the commands of the job.
        needs: names of jobs that have to be done before.
    """

    name: str
    settings: dict
    work: Callable[["Workshop"], None]
    needs: tuple[str, ...] = ()


class Workshop:
    """The folder of a job, and the commands that run there, with one thread each.

    Attributes:
        folder: where results go.
        root: folder of the queue.
    """

    def __init__(self, root: Path, name: str, stopping: threading.Event, lock: int):
        self.root, self.folder, self._stopping, self._lock = root, root / name, stopping, lock
        self.folder.mkdir(parents=True, exist_ok=True)

    def once(
        self,
        name: str,
        command: list[object],
        until: Callable[[], bool] | None = None,
    ) -> None:
        """Runs a command of Python's (``-m MODULE ...``) unless it has ended well before.

        Its standard output is ``NAME.out``, its standard error ``NAME.log``.

        Args:
            until: looked at twice a second; once it is true, the command is ended and counts as done.

        Raises:
            JobFailed: it ended with another status than 0.
        """
        marker = self.folder / f".{name}.done"
        if marker.exists():
            return
        words = [sys.executable, *map(str, command)]
        environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUTF8": "1", **os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        log = self.folder / f"{name}.log"
        start = time.time()
        with open(self.folder / f"{name}.out", "w", encoding="utf-8") as out, open(log, "a", encoding="utf-8") as err:
            # with the lock, so that a queue that was killed leaves the folder locked while its commands still run
            with subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, pass_fds=[self._lock]
            ) as process:
                try:
                    status = self._wait(process, until)
                finally:  # where `until` fails, nobody else would end it
                    process.terminate()
        if status != 0:
            raise JobFailed(f"{' '.join(words[1:4])} ... ended with status {status}; see {log} and {name}.out beside it")
        with open(self.folder / "times.tsv", "a", encoding="utf-8") as times:
            times.write(f"{name}\t{time.time() - start:.1f}\n")
        marker.touch()

    def _wait(self, process, until):
        while process.poll() is None:
            if self._stopping.is_set() or (until is not None and until()):
                process.terminate()
                process.wait()
                if self._stopping.is_set():
                    raise JobFailed("interrupted")
                return 0
            time.sleep(0.5)
        return 0 if until is not None and until() else process.returncode


class JobFailed(Exception):
    """A job did not come to its end; the message says why."""


def add_queue_arguments(parser: argparse.ArgumentParser, command: str, seeds: str = "1") -> None:
    """The options that every queue has.

    Args:
        command: what the trainings are runs of; all that follows ``--`` is passed on to it.
        seeds: what the help calls the default, for a parser that sets another than ``[1]``.
    """
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the queue and of its results")
    parser.add_argument("--seeds", type=numbers, default=[1], metavar="N,...", help=f"one training each (default: {seeds})")
    parser.add_argument("--slots", type=int, default=2, metavar="N", help="trainings side by side, one thread each (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="list the jobs, done or not, and run none")
    parser.add_argument("--report-only", action="store_true", help="run nothing; sum up what is done")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help=f"options of {command} for all trainings, after --")


def numbers(text: str) -> list[int]:
    """An option's list of whole numbers, as ``1,2,3``."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, as 1,2,3") from None


def work(jobs: Iterable[Job], root: Path, args: argparse.Namespace) -> list[str]:
    """Runs or lists the jobs, as told by :func:`add_queue_arguments`; returns what is not done."""
    if args.dry_run:
        for job in jobs:
            print("done" if is_done(job, root) else "    ", job.name)
        return []
    return [] if args.report_only else run_queue(jobs, root, args.slots)


def run_queue(jobs: Iterable[Job], root: Path, slots: int = 2) -> list[str]:
    """Runs the jobs that are not done, up to `slots` at a time, in the order given.

    Returns:
        Names of the jobs that are not done, because they failed or needed one that did.

    Raises:
        L2RWError: a job was done with other settings, or another queue works in this folder.
    """
    jobs = list(jobs)
    for job in jobs:
        _check_settings(job, root)
    states = {job.name: "done" if is_done(job, root) else "waiting" for job in jobs}
    by_name = {job.name: job for job in jobs}
    stopping = threading.Event()
    with _alone(root) as lock, _ended_in_order(), concurrent.futures.ThreadPoolExecutor(slots) as pool:
        running: dict[concurrent.futures.Future, str] = {}
        try:
            while True:
                _give_up(jobs, states)
                ready = (j for j in jobs if states[j.name] == "waiting" and all(states.get(n, "done") == "done" for n in j.needs))
                for job in list(ready)[: slots - len(running)]:
                    states[job.name] = "running"
                    running[pool.submit(_work, by_name[job.name], root, stopping, lock)] = job.name
                if not running:
                    break
                for future in concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done:
                    name = running.pop(future)
                    states[name] = "done" if future.result() else "failed"
                    left = sum(state in ("waiting", "running") for state in states.values())
                    print(f"{time.strftime('%H:%M:%S')} {states[name]}: {name} ({left} left)", file=sys.stderr, flush=True)
        except BaseException:
            stopping.set()
            raise
    return [name for name, state in states.items() if state != "done"]


def is_done(job: Job, root: Path) -> bool:
    """Has the job come to its end?"""
    return (root / job.name / DONE).exists()


def _work(job: Job, root: Path, stopping: threading.Event, lock: int) -> bool:
    print(f"{time.strftime('%H:%M:%S')} begins: {job.name}", file=sys.stderr, flush=True)
    workshop = Workshop(root, job.name, stopping, lock)
    settings = workshop.folder / "settings.json"
    write_lines(str(settings), [json.dumps(job.settings)])
    try:
        job.work(workshop)
    except (JobFailed, L2RWError, OSError) as error:
        if not stopping.is_set():
            print(f"failed: {job.name}: {error}", file=sys.stderr, flush=True)
        return False
    os.replace(settings, workshop.folder / DONE)
    return True


def _check_settings(job: Job, root: Path) -> None:
    for name in (DONE, "settings.json"):
        path = root / job.name / name
        if not path.exists():
            continue
        before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(job.settings))
        if before != now:
            changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            raise L2RWError(f"{path.parent}: made with other settings ({', '.join(changed)}); remove it or give another --out")


def _give_up(jobs, states):
    for job in jobs:
        if states[job.name] == "waiting" and any(states.get(n) in ("failed", "given up") for n in job.needs):
            states[job.name] = "given up"
            print(f"given up: {job.name} needs one that failed", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _alone(root: Path):
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise L2RWError(f"--out {root}: another queue works in this folder; wait for it, or give another folder") from None
        yield lock.fileno()


@contextlib.contextmanager
def _ended_in_order():
    """SIGTERM ends the commands too, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
