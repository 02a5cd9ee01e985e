"""``fairseq-train --task l2rw_translation``: uniform weights are plain training, the deep teacher learns and is reported."""

import struct

import pytest

from integration.commands import SMOOTHED, TRANSFORMER, UNCHECKED, checkpoint, differences, teacher_state, train

tensorboard = pytest.importorskip("tensorboardX.proto.event_pb2")
METRICS = ("meta_loss", "w_mean", "w_std", "ess", "teacher_gnorm")
SAVED_AT = ("checkpoint_1_6.pt", "checkpoint_2_18.pt", "checkpoint_last.pt")  # the last after 20 updates


# ---- uniform weights --------------------------------------------------------


def uniform(data, save, *options):
    return train(data, save, *TRANSFORMER, *SMOOTHED, "--teacher", "uniform", "--save-interval-updates", 6, *options)


def student(save, name):
    state = checkpoint(save / name)
    return {"model": state["model"], "optimizer": state["last_optimizer_state"]}


def test_uniform_weights_are_fairseqs_translation(data, runs, plain):
    run = uniform(data, runs / "uniform", "--max-update", 20)
    assert "criterion label_smoothed_cross_entropy is replaced by l2rw_cross_entropy" in run.stdout
    for name in SAVED_AT:
        assert differences(student(plain, name), student(runs / "uniform", name)) == [], name
    moved = differences(student(plain, SAVED_AT[0]), student(plain, SAVED_AT[1]))
    assert moved, "nothing was learnt between two checkpoints: the comparison says nothing"


def test_uniform_weights_with_another_seed_are_not(data, runs, plain):
    uniform(data, runs / "uniform-seed", "--max-update", 6, "--seed", 8)
    first = student(runs / "uniform-seed", "checkpoint_last.pt")
    assert "/model/decoder.embed_tokens.weight" in differences(student(plain, SAVED_AT[0]), first)


# ---- the deep teacher -------------------------------------------------------


def test_metrics_in_json(deep):
    entries = deep[0].progress()
    assert [entry["num_updates"] for entry in entries] == list(range(1, 19))
    before, after = entries[:3], entries[3:]
    for entry in before:  # until --meta-start the weights are 1 and there is no teacher update
        assert (entry["w_mean"], entry["w_std"], entry["ess"]) == (1, 0, 1)
        assert "meta_loss" not in entry and "teacher_gnorm" not in entry
    for entry in after:
        assert all(isinstance(entry[name], float) for name in METRICS), entry
        assert 0 < entry["w_mean"] < 1 and 0 < entry["ess"] <= 1 and entry["meta_loss"] > 1
    assert max(entry["teacher_gnorm"] for entry in after) > 0
    assert max(entry["w_std"] for entry in after) > 0, "all pairs have the same weight to the end"
    assert after[0]["w_mean"] != after[-1]["w_mean"]
    scales = {name: value for entry in after for name, value in entry.items() if name.startswith("scale_")}
    assert scales.keys() == {f"scale_{kind}" for kind in ("misaligned", "untranslated", "misordered", "truncated")}
    assert all(0 < value <= 1 for value in scales.values())


def test_validation_has_weight_one(deep):
    (entry, *_) = deep[0].progress("valid")
    assert "valid_loss" in entry and not any("w_mean" in name for name in entry)


def test_metrics_in_the_simple_progress(resumed):
    lines = [line for line in resumed[0].stdout.splitlines() if "| train_inner |" in line]
    assert lines
    assert all(f" {name}=" in lines[-1] for name in METRICS), lines[-1]


def test_metrics_in_tensorboard(deep, runs):
    tags = {tag for path in (runs / "tensorboard").glob("*/events*") for tag in event_tags(path)}
    assert set(METRICS) <= tags


def event_tags(path):
    """Tags of the scalars in an event file, a sequence of (length, its checksum, event, its checksum)."""
    content, position = path.read_bytes(), 0
    while position < len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        event = tensorboard.Event.FromString(content[position + 12 : position + 12 + length])
        yield from (value.tag for value in event.summary.value)
        position += 12 + length + 4


def test_the_teacher_learns(deep, half_way, last):
    before, after = teacher_state(half_way), teacher_state(last)
    changed = differences(before, after)
    for head in range(4):  # every kind had its turn
        assert f"/nets.{head}.bias" in changed
        assert f"/nets.{head}.f.0.weight" in changed
        assert f"/probe.nets.{head}.0.weight" in changed
    assert "/standardizer.mean" in changed


# ---- other students ---------------------------------------------------------

# One kind has its turn at every teacher update, and learns from its second turn on.
ONE_HEAD = "--meta-contrast misaligned:0.5 --meta-interval 1 --teacher-replay 2 --meta-start 1".split()
STUDENTS = {
    "transformer_align": TRANSFORMER[2:],
    "lstm": "--encoder-embed-dim 32 --encoder-hidden-size 32 --decoder-embed-dim 32 --decoder-hidden-size 32 "
    "--decoder-out-embed-dim 32 --dropout 0.1".split(),
}


@pytest.mark.parametrize("arch", STUDENTS)
def test_other_students(data, runs, arch):
    options = ["--arch", arch, *STUDENTS[arch], *ONE_HEAD, "--disable-validation"]
    save = runs / arch
    run = train(data, save, *options, "--save-interval-updates", 3, "--max-update", 6)
    entries = run.progress()
    assert all("meta_loss" in entry for entry in entries[1:]) and len(entries) == 6, run
    changed = differences(teacher_state(save / "checkpoint_1_3.pt"), teacher_state(save / "checkpoint_last.pt"))
    assert {"/nets.0.bias", "/nets.0.f.0.weight"} <= set(changed)
    replaced = "--meta-gradient finite-difference takes its place" in run.stdout
    assert replaced == (arch == "lstm"), run


def test_the_influence_from_the_students_own_backward_pass(data, runs):
    """``backward`` trains the teacher that ``forward`` trains; ``ghost`` another one, from its second teacher update on."""
    gnorms = {}
    for mode in ("forward", "backward", "ghost"):
        options = [*TRANSFORMER, *SMOOTHED, *ONE_HEAD, *UNCHECKED, "--meta-gradient", mode, "--max-update", 5]
        run = train(data, runs / f"gradient-{mode}", *options)
        assert "does not cover" not in run.stdout and "takes its place" not in run.stdout, run
        gnorms[mode] = [entry.get("teacher_gnorm") for entry in run.progress()]
    assert gnorms["backward"][1:] == pytest.approx(gnorms["forward"][1:], rel=0.02) and gnorms["forward"][2] > 0
    assert gnorms["ghost"][:2] == [None, None] and all(g > 0 for g in gnorms["ghost"][3:])
    assert gnorms["ghost"][3:] != pytest.approx(gnorms["forward"][3:], rel=0.02)
