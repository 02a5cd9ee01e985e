"""Trainings whose contrast has the student's own translations, in real ``fairseq-train`` processes."""

import shutil

import pytest
import torch

from integration.commands import (
    PACKAGE,
    TASK_STATE,
    checkpoint,
    differences,
    l2rw,
    train,
    train_with_workers,
    training_state,
)

GENERATED = ["--meta-contrast", "misaligned:0.5,generated:0.45", "--disable-validation"]


def worst(path) -> dict:
    return checkpoint(path)["extra_state"][TASK_STATE]["own_translations"]["worst"]


@pytest.fixture(scope="module")
def whole(data, runs, deep_options):
    """Save folder of a training at one go."""
    train(data, runs / "generated", *deep_options, *GENERATED)
    return runs / "generated"


def test_all_dev_pairs_have_been_translated(whole, half_way):
    first, last = worst(whole / half_way.name), worst(whole / "checkpoint_last.pt")
    assert sorted(first) == sorted(last) == list(range(30))
    assert all(last[i][0] <= first[i][0] <= 1 for i in first)  # never a better one
    assert any(tokens for _, tokens in last.values())


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "forgotten"])
def test_resumed(data, runs, deep_options, half_way, whole, kept):
    """Equal to the bit; and not where the translations are left out of the checkpoint (the negative control)."""
    state = checkpoint(whole / half_way.name)
    if not kept:
        # as good as if none had been bad
        state["extra_state"][TASK_STATE]["own_translations"]["worst"] = {}
    save = runs / f"generated-{kept}"
    save.mkdir()
    torch.save(state, save / "checkpoint_last.pt")
    train(data, save, *deep_options, *GENERATED)
    changed = differences(*(training_state(folder / "checkpoint_last.pt") for folder in (whole, save)))
    assert (changed == []) == kept
    shutil.rmtree(save)


def test_weights_of_each_head(data, whole, tmp_path):
    l2rw("weights", data, "--path", whole / "checkpoint_last.pt", "--out", tmp_path / "weights.tsv", cwd=tmp_path)
    header = (tmp_path / "weights.tsv").read_text(encoding="utf-8").splitlines()[0].split("\t")
    assert {"weight_misaligned", "weight_generated"} <= set(header)


def test_two_workers_share_the_translating(data, tmp_path, deep_options):
    """They have the same translations as one."""
    options = [*deep_options, *GENERATED, "--dropout", 0, "--max-update", 8, "--batch-size", 48, "--adam-eps", 1e-4]
    train(data, tmp_path / "one", *options, "--update-freq", 2)
    train_with_workers(data, tmp_path / "two", PACKAGE, *options)
    one, two = (worst(tmp_path / name / "checkpoint_last.pt") for name in ("one", "two"))
    assert {i: tokens for i, (_, tokens) in one.items()} == {i: tokens for i, (_, tokens) in two.items()}
