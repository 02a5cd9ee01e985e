"""``--skip-below``: from its second turn on, a pair with a low weight is left out; a resumed training leaves out the same."""

import shutil

from integration.commands import SMOOTHED, TEACHER, TRANSFORMER, differences, train, training_state

EPOCH = 14  # updates
# the product of four heads at their prior is 0.81, so nearly every pair is settled at once
OPTIONS = [*TRANSFORMER, *SMOOTHED, *TEACHER, "--meta-start", 0, "--skip-below", 0.99]
OPTIONS += ["--max-update", 22, "--disable-validation", "--meta-gradient", "forward"]


def test_pairs_are_left_out_and_a_resume_in_the_second_epoch_leaves_out_the_same(data, tmp_path):
    save, again = tmp_path / "save", tmp_path / "again"
    whole = train(data, save, *OPTIONS, "--save-interval-updates", 18).progress()
    assert [entry["skipped"] for entry in whole[:EPOCH]] == [0] * EPOCH
    second = whole[EPOCH:]
    assert 0.5 < sum(entry["skipped"] for entry in second) / len(second) < 1
    assert max(entry["bsz"] for entry in second) < min(entry["bsz"] for entry in whole[: EPOCH - 1])
    again.mkdir()
    shutil.copy(save / "checkpoint_2_18.pt", again / "checkpoint_last.pt")
    rest = train(data, again, *OPTIONS).progress()
    assert [entry["skipped"] for entry in rest] == [entry["skipped"] for entry in whole[18:]]
    assert differences(training_state(save / "checkpoint_last.pt"), training_state(again / "checkpoint_last.pt")) == []
