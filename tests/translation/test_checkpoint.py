"""A checkpoint from a stranger cannot execute anything: not by its pickle, and not by the options that it brings along."""

import argparse
import builtins
import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import fairseq
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.distributed.utils import _TensorPlaceholder
from omegaconf import OmegaConf

import fairseq_l2rw.translation  # noqa: F401  guards the reader
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation import checkpoint

GOOD = {"model": {"w": torch.ones(2)}, "args": None, "cfg": {"model": {"_name": "fconv", "encoder_layers": "[(512, 3)] * 20"}},
        "optimizer_history": [{"num_updates": 3, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}],
        "last_optimizer_state": None, "extra_state": {"train_iterator": {"epoch": 1}}}  # fmt: skip


class Calls:
    """Unpickling it calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Builds(argparse.Namespace):
    """Pickles as a Namespace, which is allowed, whose state brings in what is not."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return argparse.Namespace, (), self.state


def save(path: Path, **parts) -> str:
    torch.save({**GOOD, **parts}, path)
    return str(path)


def read(path):
    return checkpoint_utils.load_checkpoint_to_cpu(path)


# ---- the allow-list ---------------------------------------------------------


def test_exactly_these_are_allowed():
    assert checkpoint.SAFE_GLOBALS == (argparse.Namespace, _TensorPlaceholder)
    checkpoint.allow_fairseq_globals()
    checkpoint.allow_fairseq_globals()
    allowed = torch.serialization.get_safe_globals()
    assert allowed.count(argparse.Namespace) == 1


def test_each_entry_says_why():
    source = Path(checkpoint.__file__).read_text(encoding="utf-8")
    entries = re.search(r"SAFE_GLOBALS = \(\n(.*?)\n\)", source, re.DOTALL).group(1).splitlines()
    assert len(entries) == len(checkpoint.SAFE_GLOBALS) == 2
    assert all(re.fullmatch(r"    [\w.]+,  # .{20,}", entry) for entry in entries)


# ---- pickles ----------------------------------------------------------------


def malicious(trace: Path) -> dict:
    """name -> an object that creates the file `trace` when a careless reader unpickles it."""
    command, code = f"touch {trace}", f"open({str(trace)!r}, 'w').close()"
    return {
        "system": Calls(os.system, command),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "popen": Calls(os.popen, command),
        "getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "open": Calls(builtins.open, str(trace), "w"),
        "in a namespace": argparse.Namespace(task=Calls(os.system, command)),
        "state of a namespace": Builds({"task": Calls(os.system, command)}),
        "slots of a namespace": Builds((None, {"__class__": Calls(eval, code)})),
    }


@pytest.mark.parametrize("place", ["args", "extra_state", "cfg", "model"])
@pytest.mark.parametrize("name", malicious(Path()))
def test_a_malicious_pickle_is_refused(tmp_path, name, place):
    trace = tmp_path / "trace"
    path = save(tmp_path / "checkpoint.pt", **{place: malicious(trace)[name]})
    with pytest.raises(L2RWError, match=rf"^{re.escape(path)}: refused: it holds \S+, which is no part of a checkpoint") as caught:
        read(path)
    assert not trace.exists() and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["system", "eval", "exec", "open", "in a namespace", "state of a namespace"])
def test_they_are_malicious(tmp_path, name):
    """Negative control: an unsafe reader executes them."""
    trace = tmp_path / "trace"
    path = save(tmp_path / "checkpoint.pt", extra_state=malicious(trace)[name])
    torch.load(path, weights_only=False)
    assert trace.exists()


def test_a_malicious_pickle_without_torchs_container(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "checkpoint.pt"
    path.write_bytes(pickle.dumps(Calls(os.system, f"touch {trace}"), protocol=2))
    with pytest.raises(L2RWError):
        read(str(path))
    assert not trace.exists()


# ---- options that fairseq evaluates -----------------------------------------


@pytest.mark.parametrize(
    "value",
    ["__import__('os').system('touch trace')", b"print()", "[x for x in ()]", "(lambda: 0)()", "${task.code}", "a.b", "f'{print()}'",
     " print()", "encoder_layers"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["mapping", "namespace", "args"])
def test_an_option_that_would_be_evaluated_is_refused(tmp_path, kind, value):
    model = {"_name": "fconv", "arch": "fconv", "encoder_layers": value}
    parts = {
        "mapping": {"cfg": {"model": model, "task": {"code": "print()"}}},
        "namespace": {"cfg": {"model": argparse.Namespace(**model), "task": {"code": "print()"}}},
        "args": {"args": argparse.Namespace(**model, task="translation"), "cfg": None},
    }[kind]
    path = save(tmp_path / "checkpoint.pt", **parts)
    with pytest.raises(L2RWError, match=rf"^{re.escape(path)}: ") as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["[(512, 3)] * 20", "[(256, 3)] * 4 + [(512, -3)]", "(0.9, 0.98)", "True", " False ", "'x'", "6"])
def test_plain_values(text):
    assert checkpoint.is_plain(text)
    eval(text.strip())  # they are what fairseq makes of them


def test_all_that_fairseq_evaluates_is_known():
    """fairseq's models, tasks, criterions and optimizers, read as text: each option that goes into ``eval`` is on the list."""
    found = set()
    for folder in ("models", "tasks", "criterions", "optim", "modules"):
        for path in (Path(fairseq.__file__).parent / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found |= set(re.findall(r"(?<![\w.])eval\(\s*(?:self\.)?(?:args|cfg)\.(\w+)", text))
            assert len(re.findall(r"(?<![\w.])eval\(", text)) == len(
                re.findall(r"(?<![\w.])eval\(\s*(?:self\.)?(?:args|cfg)\.(\w+)", text)
            ), f"{path}: an eval of something else"
    assert len(found) > 10 and found == checkpoint.EVALUATED


# ---- damaged files, and good ones -------------------------------------------


@pytest.mark.parametrize("part", [0, 1, 3, 50, 0.5, 0.98, -1])
def test_cut_short(tmp_path, part):
    path = tmp_path / "checkpoint_last.pt"
    save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole)) if isinstance(part, float) else part])
    earlier = save(tmp_path / "checkpoint_1_20.pt")
    with pytest.raises(L2RWError) as caught:
        read(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: cut short, or no checkpoint") and len(message.splitlines()) == 1
    assert f"give an earlier one: {earlier} lies beside it" in message
    assert read(earlier)["optimizer_history"][-1]["num_updates"] == 3


def test_not_a_checkpoint_at_all(tmp_path):
    text, archive, plain = tmp_path / "a.txt", tmp_path / "a.zip", tmp_path / "plain.bin"
    text.write_text("hello")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x", "y")
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer)  # a state dict of torch's, but not fairseq's
    plain.write_bytes(buffer.getvalue())
    for path in (text, archive, plain):
        with pytest.raises(L2RWError, match=rf"^{re.escape(str(path))}: cut short, or no checkpoint of fairseq-train.*write it again$"):
            read(str(path))


def test_a_missing_file_stays_fairseqs_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(str(tmp_path / "nothing.pt"))


def test_what_fairseq_writes_can_be_read(tmp_path):
    model = argparse.Namespace(arch="fconv", encoder_layers="[(512, 3)] * 20", lr=[0.1])
    state = read(save(tmp_path / "checkpoint.pt", cfg={"model": model}))
    assert state["cfg"]["model"].encoder_layers == "[(512, 3)] * 20" and OmegaConf.is_config(state["cfg"])
    assert read(save(tmp_path / "plain.pt"))["model"]["w"].tolist() == [1, 1]


def test_guarding_twice_changes_nothing():
    guarded = checkpoint_utils.load_checkpoint_to_cpu
    checkpoint.guard_reading()
    assert checkpoint_utils.load_checkpoint_to_cpu is guarded
