"""Bad input: one line that names the option or the file and the remedy, exit status 2, nothing left behind."""

import os
import shutil

import pytest
import torch
from fairseq.data import indexed_dataset

from integration.commands import (
    ERROR,
    PACKAGE,
    SMOOTHED,
    TRAINING,
    TRANSFORMER,
    checkpoint,
    differences,
    l2rw,
    run,
    train,
    training_state,
)

STUDENT = [*TRANSFORMER, *SMOOTHED, "--max-update", 4, "--meta-start", 0, "--teacher-replay", 2]

#: name -> (options, what the line must say)
WRONG_OPTIONS = {
    "teacher": (["--teacher", "dep"], "--teacher dep: unknown teacher; choose one of deep, l2r, loss, self_paced, surface, uniform"),
    "criterion": (["--criterion", "adaptive_loss"], "--criterion adaptive_loss: l2rw_translation weights the loss of"),
    "meta-interval": (["--meta-interval", 0], "--meta-interval 0: give 1 or more"),
    "meta-subset": (["--meta-subset", "trusted"], "--meta-subset trusted: no such split in "),
    "optimizer": (["--optimizer", "adagrad"], "--optimizer: no linearisation rule for torch.optim.adagrad.Adagrad; use one of"),
    "cpu-offload": (["--cpu-offload"], "--cpu-offload: fairseq has it with --ddp-backend fully_sharded only, which a teacher cannot"),
    "fully-sharded": (
        ["--ddp-backend", "fully_sharded", "--cpu-offload"],
        "--ddp-backend fully_sharded: a teacher needs the whole student and its whole optimizer on every worker; give c10d or",
    ),
    "zero-sharding": (["--zero-sharding", "os"], "--zero-sharding os: a teacher needs the whole student and its whole optimizer"),
    "language-model": (["--arch", "transformer_lm"], "--arch transformer_lm: TransformerLanguageModel has no encoder; "),
    "legacy-language-model": (["--arch", "lstm_lm"], "--arch lstm_lm: LSTMLanguageModel has no encoder; l2rw_translation"),
}


def check_error(run, message, log=False):
    """The last line is ours, one line, and nothing of Python's shows (but in `log`: fairseq logs a failed save with its traceback)."""
    lines = run.stderr.splitlines()
    assert lines[-1].startswith(ERROR + message), run
    assert sum(line.startswith(ERROR) for line in lines) == 1, run
    assert log or "Traceback" not in run.stdout + run.stderr, run


def check_nothing_left(save):
    """fairseq itself makes an empty save folder first."""
    assert not save.exists() or not list(save.iterdir())
    assert list((save.parent / f"{save.name}.cwd").iterdir()) == []


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_wrong_option(data, tmp_path, name):
    options, message = WRONG_OPTIONS[name]
    save = tmp_path / "save"
    student = STUDENT[len(TRANSFORMER) :] if "--arch" in options else STUDENT
    if "--criterion" in options:
        student = TRANSFORMER
    check_error(train(data, save, *student, *options, status=2), message)
    check_nothing_left(save)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--criterion", "l2rw"], "--criterion l2rw: l2rw_translation weights the loss of l2rw_cross_entropy; leave"),
        (["--meta-interval", "often"], "argument --meta-interval: invalid int value: 'often' (see "),
        (["--max-update", "x"], "argument --max-update: invalid int value: 'x' (see "),
        (["--teachr", "deep"], "unrecognized arguments: --teachr deep (see "),
    ],
    ids=["criterion", "value", "value-of-fairseq", "option"],
)
def test_what_a_parser_refuses(data, tmp_path, options, message):
    """One line, without the usage of 600 lines that fairseq's parser prints above its own."""
    save = tmp_path / "save"
    run = train(data, save, *TRANSFORMER, *options, status=2)
    check_error(run, message)
    assert "usage:" not in run.stdout + run.stderr, run
    check_nothing_left(save)


# ---- the dev split ----------------------------------------------------------


@pytest.mark.parametrize("split", ["meta", "valid"])
def test_training_with_an_empty_split(data, tmp_path, split):
    folder, save = tmp_path / "data", tmp_path / "save"
    shutil.copytree(data, folder)
    for lang in ("de", "en"):
        prefix = str(folder / f"{split}.de-en.{lang}")
        builder = indexed_dataset.make_builder(indexed_dataset.data_file_path(prefix), "mmap", vocab_size=300)
        builder.finalize(indexed_dataset.index_file_path(prefix))
    message = f"{folder}/{split}.de-en.de.bin: the split '{split}' is empty; binarise it anew"
    check_error(train(folder, save, *STUDENT, status=2), message)
    check_nothing_left(save)


def test_training_without_the_validation_split(data, tmp_path):
    save = tmp_path / "save"
    run = train(data, save, *STUDENT, "--valid-subset", "dev", status=2)
    check_error(run, f"{data}: no binarised split 'dev' for de and en; binarise one under that name")
    check_nothing_left(save)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_prepare_with_an_empty_split(corpus, tmp_path, split):
    shutil.copytree(corpus, tmp_path / "corpus")
    for lang in ("de", "en"):
        (tmp_path / "corpus" / f"{split}.{lang}").write_text("")
    check_error(prepare(tmp_path), f"corpus/{split}.de, corpus/{split}.en: the {split} split is empty")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_prepare_with_unequal_line_counts(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    with open(tmp_path / "corpus" / "train.en", "a") as target:
        target.write("one more\n")
    run = prepare(tmp_path)
    check_error(run, "unequal line counts: corpus/train.de has 600 lines, corpus/train.en has 601; ")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def prepare(cwd):
    splits = [word for split in ("train", "valid", "test") for word in (f"--{split}", f"corpus/{split}")]
    return l2rw("prepare", "--src", "de", "--tgt", "en", *splits, "--out", "data", cwd=cwd, status=2)


# ---- the checkpoint ---------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher-hidden-dim", 17], "the teacher in the checkpoint does not fit these options (--teacher-inputs, "),
        (["--teacher", "loss"], "--teacher loss: the checkpoint was trained with --teacher deep; give that one, or"),
        (
            ["--meta-contrast", "truncated:0.3,untranslated:0.45,misordered:0.12,misaligned:0.5"],
            "the teacher in the checkpoint does not fit these options (",
        ),
    ],
    ids=["width", "teacher", "heads"],
)
def test_checkpoint_of_another_teacher(data, deep_options, half_way, tmp_path, options, message):
    save = tmp_path / "save"
    save.mkdir()
    shutil.copy(half_way, save / "checkpoint_last.pt")
    check_error(train(data, save, *deep_options, *options, status=2), message)
    assert [path.name for path in save.iterdir()] == ["checkpoint_last.pt"]


@pytest.mark.parametrize("damage", ["evil", "pickle", "cut"])
def test_resume_from_a_bad_checkpoint(data, deep_options, half_way, last, tmp_path, damage):
    """Refused in one line; the checkpoint before it lies there as it was, and the line names it."""
    save = tmp_path / "save"
    save.mkdir()
    whole, earlier, last = last, save / "checkpoint_1_10.pt", save / "checkpoint_last.pt"
    shutil.copy(half_way, earlier)
    spoil(half_way, last, damage)
    message = {
        "evil": f"{last}: refused: its option encoder_layers is \"open('trace', 'w')\", which fairseq would run",
        "pickle": f"{last}: refused: it holds posix.system, which is no part of a checkpoint",
        "cut": f"{last}: cut short, or no checkpoint of fairseq-train (",
    }[damage]
    run = train(data, save, *deep_options, status=2)
    check_error(run, message)
    assert damage != "cut" or f"give an earlier one: {earlier} lies beside it" in run.stderr
    assert sorted(path.name for path in save.iterdir()) == ["checkpoint_1_10.pt", "checkpoint_last.pt"]
    assert earlier.read_bytes() == half_way.read_bytes() and list((tmp_path / "save.cwd").iterdir()) == []
    if damage == "cut":  # the remedy, word for word
        train(data, save, *deep_options, "--restore-file", earlier)
        assert differences(training_state(last), training_state(whole)) == []


@pytest.mark.parametrize("damage", ["evil", "pickle"])
def test_generate_from_a_bad_checkpoint(data, half_way, tmp_path, damage):
    path = tmp_path / "checkpoint.pt"
    spoil(half_way, path, damage)
    options = ["--user-dir", PACKAGE, "--task", "translation", "--path", path, "--gen-subset", "test", "--cpu"]
    check_error(run("-m", "fairseq_cli.generate", data, *options, cwd=tmp_path, status=2), f"{path}: refused: it")
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


class Calls:
    """Unpickling it runs a command."""

    def __reduce__(self):
        return os.system, ("touch trace",)


def spoil(good, path, damage):
    """Writes a copy of a checkpoint that is cut short, with a call in it, or an option of its model that fairseq evaluates as Python."""
    if damage == "cut":
        path.write_bytes(good.read_bytes()[:-1000])
        return
    state = checkpoint(good)
    if damage == "pickle":
        torch.save({**state, "extra_state": Calls()}, path)
        return
    model = {**(vars(state["cfg"]["model"]) if hasattr(state["cfg"]["model"], "__dict__") else state["cfg"]["model"])}
    state["cfg"]["model"] = {**model, "_name": "fconv", "encoder_layers": "open('trace', 'w')"}
    torch.save(state, path)


# ---- a full disk ------------------------------------------------------------


def test_full_disk(data, deep_options, half_way, last, tmp_path):
    """The second save finds no room: one line; the first one is whole, and the training that goes on from it ends as ever."""
    save = tmp_path / "save"
    limit = half_way.stat().st_size + 1000
    assert limit < last.stat().st_size
    with_limit = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        "runpy.run_module('fairseq_cli.train', run_name='__main__', alter_sys=True)"
    )
    options = ["--user-dir", PACKAGE, "--task", "l2rw_translation", "--save-dir", save, *TRAINING, *deep_options]
    check_error(run("-c", with_limit, data, *options, cwd=tmp_path, status=2), "File too large; make room and give the same", log=True)
    assert (save / "checkpoint_last.pt").stat().st_size <= limit
    train(data, save, *deep_options)
    assert differences(training_state(save / "checkpoint_last.pt"), training_state(last)) == []
