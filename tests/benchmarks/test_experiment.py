"""What the experiments read of the trainings that they run."""

import argparse
import subprocess
import sys

import torch

from integration.commands import ROOT

READ = """
import sys
from pathlib import Path
from benchmarks.experiment import _checkpoint_at
print([_checkpoint_at(Path(sys.argv[1]), updates) is not None for updates in (6, 7)])
"""


def test_the_checkpoint_of_an_update_where_an_epoch_ends(tmp_path):
    """In a process of its own: here, an import of fairseq's may have put the options' class on the safe loader's list."""
    state = {"cfg": {"task": argparse.Namespace(seed=1)}, "optimizer_history": [{"num_updates": 7}]}
    torch.save(state, tmp_path / "checkpoint_last.pt")
    command = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[False, True]"
