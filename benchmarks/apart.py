"""A measurement in a process of its own, where nothing else has taken memory or warmed anything up."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from typing import Any

from benchmarks.record import ROOT


def measured_apart(module: str, words: list[str], environment: dict[str, str] | None = None) -> Any:
    """What ``python -m module words`` prints, as JSON, in its last line.

    Args:
        environment: variables beside those of this process.

    Raises:
        SystemExit: it failed; with what it said.
    """
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def most_resident() -> float:
    """MiB that this process had in memory at most.

    By Linux's own count (VmHWM): what getrusage says begins, in a new program, with the peak of the process that started it.
    """
    try:
        return of_status("VmHWM")
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def of_status(field: str) -> float:
    """MiB that Linux names so in the process's status."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{field}:")) / 1024
