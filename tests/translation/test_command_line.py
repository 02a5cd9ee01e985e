"""Names that nobody registered are refused before fairseq's parser prints its usage."""

import argparse

import pytest
from fairseq import options

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.command_line import check_command_line, guard_parsing, tell_errors_in_one_line
from fairseq_l2rw.translation.criterion import check_name

OURS = ["data", "--task", "l2rw_translation"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--criterion", "l2rw"], "--criterion l2rw: .* one of cross_entropy, label_smoothed_cross_entropy, which it replaces"),
        (["--criterion=l2rw"], "--criterion l2rw: "),
        (["--criterion", "cross_entropy", "--criterion", "l2rw"], "--criterion l2rw: "),  # the last one counts
        (["--criterion", "adaptive_loss"], "--criterion adaptive_loss: "),
        (["--optimizer", "adamm"], "--optimizer adamm: unknown; choose one of .*adam.*sgd"),
        (["--lr-scheduler", "warmup"], "--lr-scheduler warmup: unknown; choose one of .*inverse_sqrt"),
        (["--arch", "transformer_iwslt_de_eng"], "--arch transformer_iwslt_de_eng: .* one of transformer_iwslt_de_en,"),
        (["-a", "transformr"], "--arch transformr: unknown; choose one of .*transformer"),
        (["--arch", "###"], "--arch ###: unknown; choose one of those in --help"),
    ],
)
def test_unknown_names(words, message):
    with pytest.raises(L2RWError, match=message):
        check_command_line([*OURS, *words], check_name)


@pytest.mark.parametrize(
    "words",
    [
        [*OURS, "--criterion", "l2rw_cross_entropy", "--optimizer", "adam", "--arch", "lstm", "--no-such-option"],
        [*OURS, "--criterion", "label_smoothed_cross_entropy"],
        [*OURS, "--criterion"],  # fairseq's parser says that the value is missing
        ["data", "--task", "translation", "--criterion", "l2rw"],
        ["data", "--criterion", "l2rw"],
        ["-q", "tests"],
        [],
    ],
)
def test_all_else_is_left_to_fairseq(words):
    check_command_line(words, check_name)


def test_a_parser_that_tells_errors_in_one_line(capsys):
    parser = argparse.ArgumentParser(prog="fairseq-train")
    parser.add_argument("--meta-interval", type=int)
    with pytest.raises(SystemExit):
        parser.parse_args(["--meta-interval", "x"])
    assert len(capsys.readouterr().err.splitlines()) == 2  # negative control: usage and error
    tell_errors_in_one_line(parser)
    with pytest.raises(SystemExit) as left:
        parser.parse_args(["--meta-interval", "x"])
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "fairseq-l2rw: error: argument --meta-interval: invalid int value: 'x' (see fairseq-train --help)\n"
    )


@pytest.mark.parametrize("task, lines", [("l2rw_translation", 1), ("translation", 100)])
def test_a_value_that_fairseqs_parser_refuses(capsys, task, lines):
    """In one line under our task; under fairseq's own with its usage, as ever (negative control)."""
    with pytest.raises(SystemExit) as left:
        options.parse_args_and_arch(options.get_training_parser(), ["data", "--task", task, "--max-update", "x"])
    errors = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and "argument --max-update: invalid int value: 'x'" in errors[-1]
    assert len(errors) == 1 if lines == 1 else len(errors) > lines


def test_guarding_twice_changes_nothing():
    parse = options.parse_args_and_arch
    guard_parsing()
    assert options.parse_args_and_arch is parse


@pytest.mark.parametrize("words, there", [([], False), (["--arch", "transformer", "--optimizer", "adam"], True)])
@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_tells_of_the_tasks_options(capsys, word, words, there):
    """Those of the model and the optimizer with it, where they are named."""
    with pytest.raises(SystemExit) as left:
        options.parse_args_and_arch(options.get_training_parser(), [*OURS, *words, word])
    text = capsys.readouterr().out
    assert left.value.code == 0 and "--teacher-prior-strength" in text and "--meta-contrast" in text and "--max-update" in text
    assert ("--encoder-layers" in text) == ("--adam-betas" in text) == there


def test_help_of_another_task_is_fairseqs(capsys):
    with pytest.raises(SystemExit):
        options.parse_args_and_arch(options.get_training_parser(), ["data", "--task", "translation", "--help"])
    assert "--teacher-prior-strength" not in capsys.readouterr().out


def test_a_training_without_a_model_is_told_in_one_line(capsys):
    parser = options.get_training_parser()
    with pytest.raises(SystemExit) as left:
        options.parse_args_and_arch(parser, OURS)
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        f"fairseq-l2rw: error: --arch: no model is named; give one, as --arch transformer (see {parser.prog} --help)\n"
    )


def test_generation_needs_no_model():
    args = options.parse_args_and_arch(options.get_generation_parser(), [*OURS, "--path", "checkpoint.pt"])
    assert args.path == "checkpoint.pt" and not hasattr(args, "arch")
