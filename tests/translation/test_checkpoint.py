"""The safe loader stays on: a checkpoint cannot execute anything."""

import argparse
import os

import pytest
import torch

from fairseq_l2rw.translation import checkpoint


class Malicious:
    """Unpickling it would run a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_exactly_these_are_allowed():
    assert checkpoint.SAFE_GLOBALS == (argparse.Namespace,)
    checkpoint.allow_fairseq_globals()
    checkpoint.allow_fairseq_globals()
    allowed = torch.serialization.get_safe_globals()
    assert allowed.count(argparse.Namespace) == 1


@pytest.mark.parametrize("place", ["args", "extra_state"])
def test_a_malicious_checkpoint_is_refused(tmp_path, place):
    checkpoint.allow_fairseq_globals()
    path, trace = tmp_path / "checkpoint.pt", tmp_path / "trace"
    state = {"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}
    state[place] = argparse.Namespace(task=Malicious(trace)) if place == "args" else [Malicious(trace)]
    torch.save(state, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)  # negative control: it is malicious
    assert trace.exists()


def test_fairseqs_own_reader_refuses_it_too(tmp_path):
    from fairseq import checkpoint_utils

    path, trace = tmp_path / "checkpoint.pt", tmp_path / "trace"
    torch.save({"args": argparse.Namespace(task=Malicious(trace)), "model": {}}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not trace.exists()


def test_what_fairseq_writes_can_be_read(tmp_path):
    checkpoint.allow_fairseq_globals()
    path = tmp_path / "checkpoint.pt"
    torch.save({"args": argparse.Namespace(lr=[0.1]), "cfg": {"model": argparse.Namespace(arch="lstm")}}, path)
    assert torch.load(path)["cfg"]["model"].arch == "lstm"
