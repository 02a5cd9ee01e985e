"""The harness that kills trainings, on a trainer of twenty lines: it finds what is not restored."""

import json
import random
import signal
import sys

import pytest

from benchmarks import kill_resume

#: counts to 60 and saves every 20 steps; with `forgetful` it does not restore a part of its state
TRAINER = """
import json, os, sys, time
save, seed, forgetful = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "forgetful"
os.makedirs(save, exist_ok=True)
last = os.path.join(save, "checkpoint_last.pt")
state = json.load(open(last)) if os.path.exists(last) else {"step": 0, "value": seed, "teacher": seed}
if forgetful and state["step"]:
    state["teacher"] = seed
while state["step"] < 60:
    step = state["step"] + 1
    state = {"step": step, "value": (state["value"] * 31 + step) % 1000003, "teacher": (state["teacher"] * 37 + step) % 1000003}
    print("x | train_inner | {}", flush=True)
    time.sleep(0.01)
    if step % 20 == 0:
        for name in (f"checkpoint_1_{step}.pt", "checkpoint_last.pt"):
            with open(os.path.join(save, name + ".tmp"), "w") as file:
                json.dump(state, file)
                file.flush()
                time.sleep(0.1)
            os.replace(file.name, os.path.join(save, name))
"""


@pytest.fixture
def trainer(monkeypatch):
    """Puts the small trainer in; returns the list whose entry decides whether it is forgetful."""
    how = ["whole"]
    commands = lambda self: [[sys.executable, "-c", TRAINER, str(self.save), str(self.seed), how[0]]]  # noqa: E731
    monkeypatch.setattr(kill_resume.Training, "commands", commands)
    monkeypatch.setattr(kill_resume.Training, "result", lambda self: json.loads((self.save / "checkpoint_last.pt").read_text()))
    return how


def test_every_run_is_killed_and_ends_equal(trainer, tmp_path):
    rows = kill_resume.run("window-1", tmp_path, tmp_path, 8, random.Random(1))
    assert [row["what"] for row in rows] == ["control: another seed", *["SIGKILL"] * 8, "SIGTERM", "SIGUSR1"]
    assert not rows[0]["equal"] and rows[0]["first difference"] == "/value"
    assert all(row["equal"] for row in rows[1:]), rows
    assert [row["exit status"] for row in rows[1:]] == [-9] * 8 + [-signal.SIGTERM, -signal.SIGUSR1]
    assert "writing checkpoint_1_" in rows[4]["at"] and "writing checkpoint_last.pt.tmp" in rows[8]["at"]
    assert len({row["at"] for row in rows}) > 5


def test_a_trainer_that_forgets_is_found_out(trainer, tmp_path):
    """Negative control."""
    trainer[0] = "forgetful"
    rows = kill_resume.run("window-2", tmp_path, tmp_path, 8, random.Random(1))
    late = [row for row in rows[1:] if int(row["at"].split()[0]) > 20]  # killed after a save
    assert late and not any(row["equal"] for row in late)
    assert {row["first difference"] for row in late} == {"/teacher"}


def test_differences():
    import torch

    a = {"model": {"w": torch.tensor([1.0, float("nan")])}, "list": [1, (2.0, None)], "nan": float("nan")}
    same = {"model": {"w": torch.tensor([1.0, float("nan")])}, "list": [1, (2.0, None)], "nan": float("nan")}
    assert kill_resume.differences(a, same) == []
    assert kill_resume.differences(a, {**same, "list": [1, (2.0, 0)]}) == ["/list/1/1"]
    assert kill_resume.differences(a, {**same, "model": {"w": torch.tensor([1.0, 2.0])}}) == ["/model/w"]
    assert kill_resume.differences(1, 1.0) == [""] and kill_resume.differences({"a": 1}, {"b": 1}) == [""]
    assert kill_resume.without({"a": {"seconds": 1, "b": 2}, "seconds": 3}, {"seconds"}) == {"a": {"b": 2}}
