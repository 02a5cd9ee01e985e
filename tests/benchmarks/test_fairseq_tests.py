"""What the runner makes of the command lines in fairseq's tests."""

import pytest

from benchmarks.fairseq_tests import CRITERION, TASK, TEACHER, Seen, Suite, run


@pytest.fixture
def suite():
    suite = object.__new__(Suite)  # without its substitutions in fairseq
    suite.ours, suite.rows, suite.seen = True, [], Seen()
    return suite


def last(words, option):
    return [after for word, after in zip(words, words[1:]) if word == option][-1]


def test_a_training_gets_our_task_criterion_and_teacher(suite):
    given = ["--task", "translation", "data", "--arch", "lstm", "--criterion", "label_smoothed_cross_entropy"]
    words = suite.words(None, given)
    assert words[: len(given)] == given and words[-len(TEACHER) :] == TEACHER
    assert last(words, "--task") == TASK and last(words, "--criterion") == CRITERION and suite.seen.trainings == 1


def test_generation_and_validation_get_the_task_alone(suite):
    assert suite.words(None, ["data", "--path", "x.pt"]) == ["data", "--path", "x.pt", "--task", TASK]
    assert TEACHER[0] not in suite.words(None, ["data", "--path", "x.pt", "--valid-subset", "valid"])
    assert suite.seen.trainings == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--task", "translation", "--task", "translation_moe"], "another task: translation_moe"),
        (["--arch", "x", "--criterion", "nat_loss"], "another criterion: nat_loss"),
    ],
)
def test_what_is_not_ours_is_skipped_with_its_reason(suite, words, reason):
    with pytest.raises(pytest.skip.Exception, match=reason):
        suite.words(None, words)


def test_a_training_without_a_teacher_update_does_not_count(suite):
    def call(trainings, updates):
        suite.seen = Seen(trainings=trainings, teacher_updates=updates)
        hook = Suite.pytest_runtest_call(suite, None)
        next(hook)
        try:
            hook.send(None)
        except StopIteration:
            return True

    assert call(1, 3) and call(0, 0)
    with pytest.raises(AssertionError, match="no teacher update ran in it"):
        call(1, 0)


def test_a_folder_without_fairseqs_tests(tmp_path):
    with pytest.raises(SystemExit, match="no tests/test_binaries.py there; give a folder with fairseq's source"):
        run(tmp_path, True, None)
