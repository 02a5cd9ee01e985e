"""Bad input over all commands and options: exit status 2, one line that names the thing and what to do, nothing left behind.

In one process, so that many cases cost little; the same through fairseq's real commands is in ``integration/test_bad_input.py``.
"""

import argparse
import gzip
import json
import os
import shutil

import pytest
import torch
from fairseq.data import indexed_dataset

from fairseq_l2rw.cli.main import main
from fairseq_l2rw.corpus.prepare import FORMAT
from fairseq_l2rw.errors import L2RWError

ERROR = "fairseq-l2rw: error: "
SENTENCES = [f"ein Satz mit der Nummer {n}" for n in range(40)]


class Evil:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return os.system, ("touch trace",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Good and bad files that the commands below are given."""
    folder = tmp_path_factory.mktemp("bad input")
    for split in ("train", "valid", "test"):
        for lang in ("de", "en"):
            (folder / f"{split}.{lang}").write_text("".join(f"{split} {line}\n" for line in SENTENCES))
    (folder / "short.en").write_text("one\ntwo\n")
    (folder / "short.de").write_text("eins\nzwei\ndrei\n")
    for lang in ("de", "en"):
        (folder / f"empty.{lang}").write_text("")
        (folder / f"latin1.{lang}").write_bytes("gut\nschön\n".encode("latin1"))
    whole = gzip.compress("\n".join(SENTENCES).encode())
    (folder / "cut.de.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "nogzip.de.gz").write_text("not compressed\n")
    (folder / "a-file").write_text("")
    (folder / "scores").write_text("0.5\n" * len(SENTENCES))
    (folder / "no-columns.tsv").write_text("a\tb\n0\tclean\n")
    (folder / "bad-row.tsv").write_text("id\tkind\nfirst\tclean\n")

    (folder / "data" / "raw").mkdir(parents=True)  # as `prepare` leaves it, as far as these cases come
    for split in ("train", "test"):
        for lang in ("de", "en"):
            (folder / "data" / "raw" / f"{split}.{lang}").write_text("\n".join(SENTENCES) + "\n")
    for lang in ("de", "en"):
        prefix = str(folder / "data" / f"train.de-en.{lang}")
        builder = indexed_dataset.make_builder(indexed_dataset.data_file_path(prefix), "mmap", vocab_size=300)
        for _ in SENTENCES:
            builder.add_item(torch.tensor([4, 2]))
        builder.finalize(indexed_dataset.index_file_path(prefix))
    (folder / "data" / "prepare.json").write_text(json.dumps({"format": FORMAT, "settings": {"src": "de", "tgt": "en"}}))
    (folder / "damaged-data").mkdir()
    (folder / "damaged-data" / "prepare.json").write_text("{")
    (folder / "no-run").mkdir()

    good = {"model": {"w": torch.ones(2)}, "args": None, "cfg": {"model": {"_name": "transformer"}}, "last_optimizer_state": None,
            "optimizer_history": [{"num_updates": 3, "optimizer_name": "x", "lr_scheduler_state": {}}],
            "extra_state": {"train_iterator": {"epoch": 1}}}  # fmt: skip
    (folder / "models").mkdir()
    models = folder / "models"
    torch.save(good, models / "plain.pt")
    torch.save({**good, "extra_state": Evil()}, models / "evil.pt")
    torch.save({**good, "args": argparse.Namespace(task=Evil())}, models / "evil-inside.pt")
    torch.save({**good, "cfg": {"model": {"_name": "fconv", "encoder_layers": "print()"}}}, models / "evil-option.pt")
    whole = (models / "plain.pt").read_bytes()
    (models / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (models / "text.pt").write_text("no checkpoint")
    for name, source in (("evil-run", "evil.pt"), ("cut-run", "cut.pt")):
        (folder / name).mkdir()
        shutil.copy(models / source, folder / name / "checkpoint_last.pt")
    return folder


CORRUPT = "corrupt --src train.de --tgt train.en --out-src out.de --out-tgt out.en --labels out.tsv --noise misaligned:0.2"
PREPARE = "prepare --src de --tgt en --train train --valid valid --test test --out out"
WEIGHTS = "weights data --cpu --out out.tsv --path models/"
FILTER = "filter --weights scores --input train.de train.en --out out.de out.en --keep 0.5"
VISION = "vision --data digits --cpu --schedule 1"
EVALUATE = "evaluate data --cpu --path models/plain.pt"

#: a command line (of two values of one option the last one counts) and what its line must say
COMMANDS = [
    ("", "arguments are required: COMMAND"),
    ("trian", "invalid choice: 'trian'"),
    ("doctor --jason", "unrecognized arguments: --jason"),
    # toy
    ("toy", "arguments are required: OUT"),
    ("toy out --size 0", "--size: '0' is not a whole number of 1 or more"),
    ("toy out --size many", "--size: 'many' is not"),
    ("toy out --test-size -3", "--test-size"),
    ("toy out --seed x", "--seed: invalid int value: 'x'"),
    ("toy out --src fr", "fr"),
    ("toy out --src de --tgt de", "de"),
    ("toy out --noise gibberish:0.5", "gibberish"),
    ("toy out --noise misaligned", "misaligned"),
    ("toy out --noise misaligned:2", "--noise: the rate of misaligned is 2; give a number from 0 to 1"),
    ("toy out --noise misaligned:-0.1", "--noise: the rate of misaligned is -0.1; "),
    ("toy out --noise misaligned:nan", "--noise: the rate of misaligned is nan; "),
    ("toy out --noise misaligned:0.6,truncated:0.6", "1"),
    ("toy a-file --size 10", "a-file"),
    # corrupt
    ("corrupt --src train.de", "arguments are required: --tgt"),
    (f"{CORRUPT} --src nothing.de", "nothing.de"),
    (f"{CORRUPT} --src models", "models"),
    (f"{CORRUPT} --src short.de", "short.de has 3 lines, train.en has 40"),
    (f"{CORRUPT} --src latin1.de --tgt latin1.en", "latin1.de, line 2: not UTF-8"),
    (f"{CORRUPT} --src cut.de.gz", "cut.de.gz: damaged gzip file"),
    (f"{CORRUPT} --src nogzip.de.gz", "nogzip.de.gz: damaged gzip file"),
    (f"{CORRUPT} --noise gibberish:0.1", "gibberish"),
    (f"{CORRUPT} --out-src a-file/out.de", "a-file"),
    # prepare
    ("prepare --src de", "arguments are required: --tgt"),
    (f"{PREPARE} --train nothing", "nothing.de: no such file"),
    (f"{PREPARE} --train short", "short.de has 3 lines, short.en has 2"),
    (f"{PREPARE} --train empty", "empty.de"),
    (f"{PREPARE} --valid empty", "empty.de"),
    (f"{PREPARE} --train latin1", "latin1.de, line 2: not UTF-8"),
    (f"{PREPARE} --meta-size 1000", "meta-size"),
    (f"{PREPARE} --meta test --meta-size 3", "--meta-size: not allowed with argument --meta"),
    (f"{PREPARE} --joint --separate", "--separate: not allowed with argument --joint"),
    (f"{PREPARE} --normalization nfd", "--normalization: invalid choice: 'nfd'"),
    (f"{PREPARE} --vocab-size 0", "--vocab-size: '0' is not"),
    (f"{PREPARE} --vocab-size 7", "vocab-size"),
    (f"{PREPARE} --tgt de", "de"),
    (f"{PREPARE} --out a-file", "a-file"),
    # evaluate
    ("evaluate data", "arguments are required: --path"),
    (f"{EVALUATE} --path models/nothing.pt", "--path models/nothing.pt: no such file; give a checkpoint"),
    (f"{EVALUATE} --path models/plain.pt:models/nothing.pt", "--path models/nothing.pt: no such file"),
    (f"{EVALUATE} --gen-subset dev", "--gen-subset dev: no such split in data; choose from"),
    (f"{EVALUATE} --gen-subset train", "--gen-subset train: its raw text was cleaned"),
    (f"{EVALUATE} --beam 0", "--beam: '0' is not"),
    (f"{EVALUATE} --lenpen long", "--lenpen: invalid float value: 'long'"),
    ("evaluate models --path models/plain.pt", "models"),
    ("evaluate damaged-data --path models/plain.pt", "damaged-data"),
    # weights
    (f"{WEIGHTS}nothing.pt", "--path models/nothing.pt: no such file; give a checkpoint"),
    (f"{WEIGHTS}plain.pt", "--path models/plain.pt: there is no teacher in it"),
    (f"{WEIGHTS}plain.pt --gen-subset dev", "data: no binarised split 'dev'; give --gen-subset another"),
    (f"{WEIGHTS}evil.pt", "models/evil.pt: refused: it holds "),
    (f"{WEIGHTS}evil-inside.pt", "models/evil-inside.pt: refused: it holds "),
    (f"{WEIGHTS}evil-option.pt", "models/evil-option.pt: refused: its option encoder_layers is 'print()', which fairseq would run"),
    (f"{WEIGHTS}cut.pt", "models/cut.pt: cut short, or no checkpoint"),
    (f"{WEIGHTS}text.pt", "models/text.pt: cut short, or no checkpoint"),
    (f"{WEIGHTS}plain.pt --max-tokens 0", "--max-tokens: '0' is not"),
    # average
    ("average models/plain.pt", "arguments are required: --out"),
    ("average models/nothing.pt --out out.pt", "models/nothing.pt: no such file; give checkpoints"),
    ("average models --out out.pt", "models: a folder; say how many of its checkpoints with --last"),
    ("average models --last 3 --out out.pt", "models"),
    ("average models/plain.pt models/evil.pt --out out.pt", "models/evil.pt: refused: it holds "),
    ("average models/evil-option.pt --out out.pt", "models/evil-option.pt: refused: its option encoder_layers"),
    ("average models/cut.pt --out out.pt", "models/cut.pt: cut short, or no checkpoint"),
    # filter
    ("filter --weights scores", "arguments are required: --input"),
    (f"{FILTER} --weights nothing", "nothing: cannot be read (No such file or directory); check"),
    (f"{FILTER} --weights short.de", "short.de, line 1: no column weight or gain"),
    (f"{FILTER} --input short.de short.en", "short.de has 3 lines, short.en has 2"),
    (f"{FILTER} --input train.de", "--out: 2 files for the 1 of --input"),
    (f"{FILTER} --input train.de train.de train.de", "--input: give one TSV file"),
    (f"{FILTER} --input short.de short.de", "scores has the numbers of 40 lines, and short.de has 3"),
    (f"{FILTER} --keep 70", "--keep 70: a part of the corpus, from 0 to 1"),
    (f"{FILTER} --tokens 5", "--tokens: not allowed with argument --keep"),
    (f"{FILTER} --column loss", "--column loss: scores has no header"),
    (f"{FILTER} --labels short.de", "short.de"),
    (f"{FILTER} --labels nothing.tsv", "nothing.tsv"),
    (f"{FILTER} --labels no-columns.tsv", "no-columns.tsv, line 1: no columns 'id' and 'kind'"),
    (f"{FILTER} --labels bad-row.tsv", "bad-row.tsv, line 2: not 2 cells with a line number"),
    (f"{FILTER} --out train.de out.en", "--out train.de: a file that is read"),
    (f"{FILTER} --out a-file/out.de out.en", "a-file: a file, where a folder is wanted; move it away"),
    # vision
    ("vision --data mnist", "--data: invalid choice: 'mnist'"),
    (f"{VISION} --noise uniform:2", "--noise uniform:2: "),
    (f"{VISION} --noise gibberish:0.4", "--noise gibberish:0.4: "),
    (f"{VISION} --schedule soon", "--schedule soon: "),
    (f"{VISION} --teacher dep", "--teacher"),
    (f"{VISION} --batch-size 0", "--batch-size 0: "),
    (f"{VISION} --batch-size 100000", "--batch-size 100000"),
    (f"{VISION} --meta-size 0", "--meta-size"),
    (f"{VISION} --skip-power 0", "--skip-power 0.0: give a number above 0"),
    (f"{VISION} --lr x", "--lr: invalid float value: 'x'"),
    (f"{VISION} --save-dir a-file", "a-file: a file, where a folder is wanted"),
    (f"{VISION} --save-dir evil-run", "evil-run/checkpoint_last.pt: no checkpoint of this command, or damaged ("),
    (f"{VISION} --save-dir cut-run", "cut-run/checkpoint_last.pt: no checkpoint of this command, or damaged ("),
    ("vision --data cifar10 --root nothing --cpu", "nothing"),
    ("vision --data folder --root nothing --cpu", "nothing"),
    # completion
    ("completion fish", "invalid choice: 'fish'"),
    # report
    ("report", "arguments are required: RUN_DIR"),
    ("report nothing", "nothing"),
    ("report no-run", "no-run"),
    ("report evil-run", "evil-run"),  # it reads no checkpoint
    ("report no-run --pairs 0", "--pairs: '0' is not"),
]


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check_refused(words, folder, capsys, monkeypatch):
    """Runs the command in the folder; returns the one line after the prefix."""
    monkeypatch.chdir(folder)
    before = everything(folder)
    try:
        status = main(words)
    except SystemExit as left:  # argparse
        status = left.code
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert status == 2, output
    assert lines[-1].startswith(ERROR) and sum(ERROR in line for line in lines) == 1, output
    assert "Traceback" not in output.err and output.out == "", output
    assert everything(folder) == before
    return lines[-1].removeprefix(ERROR)


@pytest.mark.parametrize(("line", "message"), COMMANDS, ids=[line or "nothing" for line, _ in COMMANDS])
def test_command(line, message, folder, capsys, monkeypatch):
    assert message in check_refused(line.split(), folder, capsys, monkeypatch)


def test_the_control_is_not_refused(folder, tmp_path, capsys, monkeypatch):
    """Negative control: the command lines that the cases above spoil are good."""
    monkeypatch.chdir(folder)
    out = ["--out-src", str(tmp_path / "a"), "--out-tgt", str(tmp_path / "b"), "--labels", str(tmp_path / "c")]
    assert main([*CORRUPT.split(), *out]) == 0
    assert main([*FILTER.split(), "--out", str(tmp_path / "d"), str(tmp_path / "e")]) == 0
    assert main(["toy", str(tmp_path / "toy"), *"--size 10 --valid-size 2 --test-size 2".split()]) == 0


# ---- options of the task ----------------------------------------------------

#: option, value and what the line must say beside the option
OPTIONS = [
    ("teacher", "dep", "choose one of"),
    ("teacher_inputs", "inner", ""),
    ("teacher_layers", "last", ""),
    ("teacher_lr", 0.0, "above 0"),
    ("teacher_lr", float("nan"), "above 0"),
    ("teacher_hidden_dim", 0, "give 1 or more"),
    ("teacher_replay", -1, "give 0 or more"),
    ("teacher_replay_rows", 0, "give 1 or more"),
    ("teacher_prior", 1.0, "between 0 and 1"),
    ("teacher_prior", 0.0, "between 0 and 1"),
    ("teacher_prior_strength", -0.1, "give 0 or more"),
    ("meta_max_tokens", 0, "give 1 or more"),
    ("meta_objective", "bleu", "choose one of"),
    ("meta_contrast", "gibberish:0.5", "unknown kind 'gibberish' (known: "),
    ("meta_contrast", "misaligned:0.5,misaligned:0.2", "named twice"),
    ("meta_contrast", "misaligned:much", "not KIND:ALPHA"),
    ("meta_contrast", "misaligned:-1", "0 or more"),
    ("meta_contrast", "misaligned:inf", "0 or more"),
    ("meta_contrast", "", "name at least one"),
    ("meta_momentum", 1.0, "from 0 to below 1"),
    ("meta_momentum", -0.5, "from 0 to below 1"),
    ("weight_normalization", "words", "choose one of"),
    ("influence_normalization", "words", "choose one of none, error"),
    ("meta_interval", 0, "give 1 or more"),
    ("meta_start", -1, "give 0 or more"),
    ("meta_precision", "half", "choose one of full, bfloat16"),
    ("meta_dev_interval", 0, "give 1 or more"),
    ("meta_window", 0, "give 1 or more"),
    ("meta_gradient", "sideways", "choose one of"),
    ("meta_params", "(", ""),
    ("meta_scale", "both", "choose one of train, dev"),
    ("influence_log", "rows.tsv", ".gz"),
]


@pytest.mark.parametrize(("option", "value", "message"), OPTIONS, ids=[f"{name}={value}" for name, value, _ in OPTIONS])
def test_option_of_the_task(option, value, message):
    import fairseq  # noqa: F401

    from fairseq_l2rw.translation.config import L2RWTranslationConfig, meta_config

    good = dict(seed=1, max_update=0, train_max_tokens=100, train_batch_size=None, fp16=False, bf16=False, amp=False)
    meta_config(L2RWTranslationConfig(**good))  # negative control
    with pytest.raises(L2RWError) as caught:
        meta_config(L2RWTranslationConfig(**good, **{option: value}))
    line = str(caught.value)
    assert f"--{option.replace('_', '-')}" in line and message in line and len(line.splitlines()) == 1


def test_there_are_many():
    assert len(COMMANDS) + len(OPTIONS) >= 40
