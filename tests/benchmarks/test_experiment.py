"""What the experiments read of the trainings that they run."""

import subprocess
import sys

from integration.commands import ROOT

WRITE = """
import argparse, sys, torch
torch.save({"cfg": {"task": argparse.Namespace(seed=1)}, "optimizer_history": [{"num_updates": 7}]}, sys.argv[1] + "/checkpoint_last.pt")
"""
READ = """
import sys
from pathlib import Path
from benchmarks.experiment import _checkpoint_at
print([_checkpoint_at(Path(sys.argv[1]), updates) is not None for updates in (6, 7)])
"""


def test_the_checkpoint_of_an_update_where_an_epoch_ends(tmp_path):
    """In processes of their own: here, an import of fairseq's may have put the options' class on the safe loader's list."""
    outputs = [subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
               for code in (WRITE, READ)]  # fmt: skip
    assert outputs[1].split() == ["[False,", "True]"]
