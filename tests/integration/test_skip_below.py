"""``--skip-below``: from its second turn on, a pair with a low weight is left out; a resumed training leaves out the same."""

import shutil

from integration.commands import SMOOTHED, TEACHER, TRANSFORMER, differences, train, training_state

EPOCH = 14  # updates
# the product of four heads at their prior is 0.81, and moves little in so few updates: this lies in the middle of the weights
OPTIONS = [*TRANSFORMER, *SMOOTHED, *TEACHER, "--meta-start", 0, "--skip-below", 0.815]
OPTIONS += ["--max-update", 26, "--disable-validation", "--meta-gradient", "forward"]


def test_pairs_are_left_out_and_a_resume_in_the_second_epoch_leaves_out_the_same(data, tmp_path):
    save, again = tmp_path / "save", tmp_path / "again"
    whole = train(data, save, *OPTIONS, "--save-interval-updates", 18).progress()
    assert [entry["skipped"] for entry in whole[:EPOCH]] == [0] * EPOCH
    second = [entry for entry in whole if entry["epoch"] == 2]
    skipped = second[0]["skipped"]
    assert 0.2 < skipped < 0.8 and {entry["skipped"] for entry in second} == {skipped}
    assert abs(len(second) / EPOCH - (1 - skipped)) < 0.15, "fewer updates, as full as before"
    assert whole[-1]["epoch"] == 3
    again.mkdir()
    shutil.copy(save / "checkpoint_2_18.pt", again / "checkpoint_last.pt")
    rest = train(data, again, *OPTIONS).progress()
    assert [entry["skipped"] for entry in rest] == [entry["skipped"] for entry in whole[18:]]
    assert differences(training_state(save / "checkpoint_last.pt"), training_state(again / "checkpoint_last.pt")) == []
