"""A training that is cut off and goes on in a second process ends where one at one go does, to the bit."""

import ast
import shutil

import pytest
import torch

from integration.commands import PACKAGE, TASK_STATE, checkpoint, differences, train, training_state


def test_resumed_is_equal_to_the_bit(deep, resumed, last):
    assert "teacher and dev batches are restored" in resumed[0].stdout
    a, b = training_state(last), training_state(resumed[1] / "checkpoint_last.pt")
    assert differences(a, b) == []
    assert a["history"]["num_updates"] == 18


def test_all_of_the_teacher_is_in_the_checkpoint(half_way, last):
    """What the equality above stands on: every part has something to lose at the cut, and has moved since."""
    before, after = (training_state(path)[TASK_STATE] for path in (half_way, last))
    for part in ("teacher", "teacher_optimizer", "objective", "replay", "running"):
        assert differences(before["meta"][part], after["meta"][part]), part
    assert differences(before["dev_batches"], after["dev_batches"])
    meta = before["meta"]
    assert meta["teacher_optimizer"]["state"] and meta["objective"]["averages"] and meta["objective"]["products"]
    assert any(len(rows["targets"]) for rows in meta["replay"]) and meta["objective"]["turn"] % len(meta["heads"])
    assert None not in meta["running"].values() and meta["mean_tokens"]
    assert before["dev_batches"]["position"] > 0


def test_both_ends_lie_within_an_epoch(half_way, last):
    first, second = (checkpoint(path)["extra_state"]["train_iterator"] for path in (half_way, last))
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["iterations_in_epoch"] > 0 and second["iterations_in_epoch"] > 0


def test_a_resume_without_the_teacher_is_not_equal(data, runs, deep_options, half_way, last):
    """Negative control: were the teacher's state not restored, the comparison would show it."""
    save = runs / "forgotten"
    save.mkdir()
    state = checkpoint(half_way)
    del state["extra_state"][TASK_STATE]
    torch.save(state, save / "checkpoint_last.pt")
    run = train(data, save, *deep_options)
    assert "the teacher begins anew" in run.stdout, run
    changed = differences(training_state(last), training_state(save / "checkpoint_last.pt"))
    assert any(place.startswith("/model/") for place in changed)
    assert any(place.startswith(f"/{TASK_STATE}/meta/teacher/") for place in changed)
    shutil.rmtree(save)


# ---- within a window of two steps -------------------------------------------

# teacher updates after updates 5, 7, ...: the checkpoint after 10 holds the first step of a window; of one kind, because a
# head learns nothing in its first turn
WINDOW = ["--meta-contrast", "misaligned:0.5", "--meta-window", 2, "--meta-interval", 2, "--meta-start", 4, "--max-update", 13]


@pytest.fixture(scope="module")
def windowed(data, runs, deep_options):
    """Save folder of a training at one go."""
    train(data, runs / "windowed", *deep_options, *WINDOW)
    return runs / "windowed"


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "forgotten"])
def test_resumed_within_a_window(data, runs, deep_options, half_way, windowed, kept):
    """Equal to the bit; and not where the window's first step is left out of the checkpoint (the negative control)."""
    state = checkpoint(windowed / half_way.name)
    window = state["extra_state"][TASK_STATE]["meta"]["window"]
    assert len(window) == 1 and len(window[0]["records"]) == 1
    if not kept:
        window.clear()
    save = runs / f"windowed-{kept}"
    save.mkdir()
    torch.save(state, save / "checkpoint_last.pt")
    train(data, save, *deep_options, *WINDOW)
    changed = differences(training_state(windowed / "checkpoint_last.pt"), training_state(save / "checkpoint_last.pt"))
    assert (changed == []) == kept
    if not kept:
        assert any(place.startswith(f"/{TASK_STATE}/meta/teacher/") for place in changed)
    shutil.rmtree(save)


def test_the_safe_loader_is_never_switched_off():
    """Nowhere is the keyword or the attribute set, or torch's environment variable for it."""
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 30
    for path in files:
        code = path.read_text(encoding="utf-8")
        keywords = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.keyword)]
        assert all(node.value.value is True for node in keywords if node.arg == "weights_only"), path
        assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in code, path
