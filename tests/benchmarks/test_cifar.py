"""The grid of image trainings: what is trained, and how it is summed up."""

import json

import pytest

from benchmarks import cifar
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.config import VisionConfig


def options_of(job) -> VisionConfig:
    """The options of a job, as the command takes them: unknown ones fail."""
    words = job.settings["options"]
    given = {a.removeprefix("--").replace("-", "_"): b for a, b in zip(words[::2], words[1::2])}
    kinds = {f.name: {"int": int, "float": float}.get(f.type.split(" ")[0], str) for f in VisionConfig.__dataclass_fields__.values()}
    return VisionConfig(**{name: kinds[name](value) for name, value in given.items()})


def test_the_published_grid():
    args = cifar.parse(["--grid", "paper", "--root", "data", "--out", "out"])
    configs = [options_of(job) for job in cifar.jobs(args)]
    tasks = {(c.data, c.model, c.noise, c.epochs, c.steps) for c in configs}
    assert len(tasks) == 12 and len(configs) == 12 * 3 * 5
    assert ("cifar10", "resnet32", "flip2:0.4", 60, (40, 50)) in tasks
    assert ("cifar100", "wrn-28-10", "uniform:0.6", 40, (36, 38)) in tasks
    assert {c.teacher for c in configs} == {"uniform", "mwn", "l2r", "loss", "deep"}
    assert {(c.meta_size, c.valid_size, c.batch_size, c.momentum, c.weight_decay) for c in configs} == {(1000, 500, 100, 0.9, 5e-4)}


def test_methods_share_all_but_their_name():
    args = cifar.parse(["--grid", "people", "--root", "d", "--labels", "l.tsv", "--out", "out", "--seeds", "4"])
    shared = {tuple(w for w in job.settings["options"] if w not in args.teachers) for job in cifar.jobs(args)}
    assert len(shared) == 1
    (job, *_) = cifar.jobs(args)
    config = options_of(job)
    assert (config.train_size, config.epochs, config.label_column, config.seed) == (10_000, 30, "human_worst", 4)
    assert config.warmup_updates == 200  # of plain training too, which has a bad start without


@pytest.mark.parametrize(("words", "message"), [(["--grid", "flip2"], "give --root"), (["--grid", "people", "--root", "d"], "give --labels")])
def test_missing_options(words, message):
    with pytest.raises(L2RWError, match=message):
        cifar.jobs(cifar.parse([*words, "--out", "out"]))


def test_table_of_what_is_done(tmp_path, capsys):
    args = ["--grid", "paper", "--root", "d", "--out", str(tmp_path), "--seeds", "1,2,3", "--report-only"]
    for teacher, seed, accuracy in (("mwn", 1, 0.80), ("mwn", 2, 0.84), ("uniform", 1, 0.795), ("uniform", 2, 0.83), ("uniform", 3, 0.5)):
        run = tmp_path / "cifar10-resnet32-flip20.4" / f"{teacher}-s{seed}" / "run"
        run.mkdir(parents=True)
        result = {"accuracy": accuracy, "auc": 0.9, "seconds": 60, "chosen_epoch": 3, "chosen_accuracy": accuracy + 0.02}
        (run / "result.json").write_text(json.dumps(result))
    assert cifar.main(args) == 0
    shown = capsys.readouterr().out
    assert "82.00 ± 2.83" in shown and "84.00 ± 2.83" in shown and "87.54 ± 0.23" in shown and "their paper, %" in shown
    uniform, mwn = json.loads((tmp_path / "results.json").read_text())["results"]
    assert mwn["seeds"] == 2 and mwn["minutes"] == 1 and uniform["seeds"] == 3
    # 0.5 and 1.0 in the seeds that both have; the third of uniform weights has no partner
    assert mwn["above uniform"] == "0.75 ± 0.35" and uniform["above uniform"] is None


def test_a_dry_run_lists_what_is_done_and_what_is_not(tmp_path, capsys):
    words = ["--grid", "digits", "--out", str(tmp_path / "out"), "--seeds", "2", "--teachers", "uniform,deep", "--dry-run"]
    assert cifar.main(words) == 0
    assert not (tmp_path / "out").exists()
    done = tmp_path / "out" / "digits-cnn-uniform0.4" / "deep-s2"
    done.mkdir(parents=True)
    (done / "done.json").touch()
    capsys.readouterr()
    assert cifar.main(words) == 0
    assert capsys.readouterr().out.split() == ["digits-cnn-uniform0.4/uniform-s2", "done", "digits-cnn-uniform0.4/deep-s2"]


def test_seeds_are_whole_numbers(capsys):
    with pytest.raises(SystemExit):
        cifar.parse(["--out", "out", "--seeds", "1,x"])
    assert "argument --seeds: '1,x' is not a list of whole numbers, as 1,2,3" in capsys.readouterr().err


def test_a_training_that_is_done_is_left_alone_and_others_run(tmp_path, capfd):
    quick = ["--grid", "digits", "--out", str(tmp_path), "--seeds", "1", "--teachers", "uniform"]
    short = ["--", "--schedule", "1", "--train-size", "200"]
    assert cifar.main([*quick, *short]) == 0
    file = tmp_path / "digits-cnn-uniform0.4" / "uniform-s1" / "run" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "accuracy": 0.123}))
    assert cifar.main([*quick, *short]) == 0
    assert "12.30" in capfd.readouterr().out
    assert cifar.main([*quick[:-1], "uniform,boss", *short]) == 1
    assert "unknown teacher" in (tmp_path / "digits-cnn-uniform0.4" / "boss-s1" / "train.log").read_text()


def test_the_true_labels_as_weights(tmp_path, capfd):
    quick = ["--grid", "digits", "--out", str(tmp_path), "--seeds", "1", "--teachers", "true"]
    assert cifar.main([*quick, "--", "--schedule", "3", "--meta-start", "20"]) == 0
    assert "1.000" in capfd.readouterr().out  # their AUC
