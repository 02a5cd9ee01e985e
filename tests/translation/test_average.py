"""The mean of checkpoints."""

import argparse
import json
import os

import pytest
import torch

from fairseq_l2rw.cli.main import main
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.average import TASK_STATE, average_checkpoints, last_checkpoints


def write_checkpoint(path, seed, updates=10, teacher=True, **tensors):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(7, 3, generator=generator) * 1e3
    model = {
        "encoder.embed": embedding, "decoder.embed": embedding,  # tied
        "half": torch.randn(5, generator=generator).half(), "version": torch.tensor([seed]), **tensors,
    }  # fmt: skip
    extra = {"epoch": seed, "train_iterator": {"epoch": seed}}
    if teacher:
        extra[TASK_STATE] = {"teacher": "deep", "meta": {}}
    state = {
        "args": None, "cfg": {"model": argparse.Namespace(arch="tiny")}, "model": model, "extra_state": extra,
        "last_optimizer_state": {"state": {}}, "optimizer_history": [{"num_updates": updates}],
    }  # fmt: skip
    torch.save(state, path)
    return model


def read(path):
    return torch.load(path, weights_only=True)


def test_the_mean_by_hand(tmp_path):
    """In float64, rounded once: the same to the last bit."""
    paths = [str(tmp_path / f"checkpoint{seed}.pt") for seed in (1, 2, 3)]
    models = [write_checkpoint(path, seed, 10 * seed) for seed, path in enumerate(paths, start=1)]
    out = str(tmp_path / "new" / "average.pt")
    result = average_checkpoints(paths, out)
    assert result == {"out": out, "checkpoints": paths, "updates": [10, 20, 30], "left_out": ["optimizer", "teacher"]}
    state = read(out)
    for name in ("encoder.embed", "decoder.embed", "half"):
        by_hand = sum(model[name].double() for model in models) / 3
        assert state["model"][name].dtype == models[0][name].dtype
        assert torch.equal(state["model"][name], by_hand.to(models[0][name].dtype)), name
        assert not torch.equal(state["model"][name], models[2][name])  # a copy of the last would not pass
    assert state["model"]["version"].tolist() == [3]
    assert state["model"]["encoder.embed"].data_ptr() == state["model"]["decoder.embed"].data_ptr()
    assert "last_optimizer_state" not in state and TASK_STATE not in state["extra_state"]
    assert state["cfg"]["model"].arch == "tiny" and os.listdir(tmp_path / "new") == ["average.pt"]


def test_the_sum_keeps_what_float32_would_lose(tmp_path):
    values = (1e8, 1.0, -1e8, 1.0)
    paths = [str(tmp_path / f"{row}.pt") for row in range(4)]
    for path, value in zip(paths, values):
        write_checkpoint(path, 1, single=torch.tensor([value]))
    average_checkpoints(paths, str(tmp_path / "out.pt"))
    assert read(tmp_path / "out.pt")["model"]["single"].item() == 0.5
    assert (
        sum((torch.tensor([value]) for value in values), torch.zeros(1)).item() / 4 != 0.5
    )  # which it is not in float32


def test_the_last_ones_of_a_folder(tmp_path, capsys):
    for updates in (5, 10, 100):
        write_checkpoint(tmp_path / f"checkpoint_1_{updates}.pt", updates, updates, teacher=False)
    for name in ("checkpoint_last.pt", "checkpoint_best.pt", "average.pt"):
        (tmp_path / name).write_bytes(b"")
    names = [os.path.basename(path) for path in last_checkpoints(str(tmp_path), 2)]
    assert names == ["checkpoint_1_10.pt", "checkpoint_1_100.pt"]  # by number, not by name
    assert main(["average", str(tmp_path), "--last", "2", "--out", str(tmp_path / "mean.pt")]) == 0
    assert json.loads(capsys.readouterr().out)["updates"] == [10, 100]
    with pytest.raises(L2RWError, match=r"--last 4: .* has 3 checkpoints of single updates"):
        last_checkpoints(str(tmp_path), 4)
    for epoch in (9, 10):
        (tmp_path / f"checkpoint{epoch}.pt").touch()
    with pytest.raises(L2RWError, match=r"checkpoints of epochs and of updates are there; choose with --by epoch"):
        last_checkpoints(str(tmp_path), 2)
    assert [os.path.basename(path) for path in last_checkpoints(str(tmp_path), 1, "epoch")] == ["checkpoint10.pt"]


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None, "list"])
def test_what_is_no_checkpoint_is_refused(tmp_path, damage):
    paths = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    write_checkpoint(paths[0], 1)
    if damage is None:
        write_checkpoint(paths[1], 2)
        data = open(paths[1], "rb").read()
        damage = data[: len(data) // 2]
    if damage == "list":
        torch.save([1], paths[1])
    else:
        open(paths[1], "wb").write(damage)
    with pytest.raises(L2RWError, match=r"b\.pt: cut short, or no checkpoint of fairseq-train \("):
        average_checkpoints(paths, str(tmp_path / "out.pt"))
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


def test_nothing_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"model": {}, "evil": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(L2RWError, match=r"evil\.pt: refused: it holds "):
        average_checkpoints([str(tmp_path / "evil.pt")], str(tmp_path / "out.pt"))
    assert os.listdir(tmp_path) == ["evil.pt"]


@pytest.mark.parametrize("tensors", [{"more": torch.zeros(1)}, {"half": torch.zeros(6)}])
def test_another_model_is_refused(tmp_path, tensors):
    paths = [str(tmp_path / name) for name in ("a.pt", "b.pt")]
    write_checkpoint(paths[0], 1)
    write_checkpoint(paths[1], 1, **tensors)
    with pytest.raises(L2RWError, match=rf"b\.pt: another model than .*a\.pt \({next(iter(tensors))} differs\)"):
        average_checkpoints(paths, str(tmp_path / "out.pt"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["none.pt"], "none.pt: no such file; give checkpoints"),
        (["a.pt", "--last", "2"], "--last: takes one save folder"),
        (["."], ".: a folder; say how many of its checkpoints with --last"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").touch()
    assert main(["average", *words, "--out", "out.pt"]) == 2
    assert capsys.readouterr().err.startswith(f"fairseq-l2rw: error: {message}")
