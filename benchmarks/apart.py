"""A measurement in a process of its own, where nothing else has taken memory or warmed anything up."""

from __future__ import annotations

import json
import os
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
