"""SIGTERM and SIGUSR1 do what they do to fairseq, which has no handler for either: the process ends with the signal.

(That a training goes on from the last save afterwards is measured by ``benchmarks/kill_resume.py``.)
"""

import os
import signal
import subprocess
import sys

import pytest

from integration.commands import ROOT


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGUSR1], ids=lambda kind: kind.name)
def test_the_process_ends_with_the_signal(kind):
    code = f"import fairseq_l2rw.translation, os\nos.kill(os.getpid(), {int(kind)})\nprint('still there')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -kind and "still there" not in done.stdout
