"""fairseq's log, in the forms that its options choose, whole, cut short and resumed."""

import pytest

from fairseq_l2rw.report.training_log import curve, parse_log, read_log
from report.folders import CLOCK, CONFIG, entry_text, make_log


@pytest.mark.parametrize("form", ["simple", "json"])
def test_both_forms_say_the_same(tmp_path, form):
    make_log(tmp_path / "train.log", form=form)
    log = read_log(str(tmp_path / "train.log"))
    assert [row["update"] for row in log.train] == list(range(20, 401, 20))
    assert [row["update"] for row in log.valid] == [100, 200, 300, 400]
    assert (log.train[0]["nll_loss"], log.train[0]["loss"]) == (7.8, 8.8)
    assert (log.valid[0]["nll_loss"], log.valid[0]["loss"]) == (6, 7)
    assert "meta_loss" not in log.train[4] and log.train[5]["meta_loss"] == 5.4
    assert (log.update, log.done, log.time) == (400, True, "2026-11-24 07:59:00")


def test_options(tmp_path):
    make_log(tmp_path / "train.log", data="/some/where", seed=3)
    log = read_log(str(tmp_path / "train.log"))
    assert log.option("task.data") == "/some/where" and log.option("common.seed") == 3
    assert log.option("optimization.lr") == [0.002] and log.option("optimization.stop_min_lr") == -1.0
    assert log.option("model.arch") == "tiny" and log.option("criterion._name") == "cross_entropy"
    assert log.option("criterion.kind") == "Kind.plain" and log.option("task.absent") is None


def test_options_are_read_and_not_run(tmp_path):
    config = "{'task': {'data': __import__('os').mkdir('%s')}}" % (tmp_path / "made")
    log = parse_log([CLOCK % 0 + f"fairseq_cli.train | {config}\n"])
    assert not (tmp_path / "made").exists() and log.options.keys() == {"task.data"}
    assert parse_log([CLOCK % 0 + "fairseq_cli.train | {'task': {\n"]).options == {}
    assert parse_log([CLOCK % 0 + "fairseq_cli.train | {" + "[" * 100_000 + "\n"]).options == {}


def test_a_run_in_progress(tmp_path):
    make_log(tmp_path / "train.log", last=240, done=False)
    whole = (tmp_path / "train.log").read_text()
    (tmp_path / "train.log").write_text(whole[:-9])  # the last line is just being written
    assert "num_updates=24" in whole[-200:] and whole[:-9][-1] != "\n"
    log = read_log(str(tmp_path / "train.log"))
    assert (log.update, log.done) == (220, False)


def test_a_resumed_run_replaces_what_it_repeats():
    lines = [CLOCK % 1 + f"train_inner | {entry_text({'nll_loss': loss, 'num_updates': n}, 'simple')}\n"
             for loss, n in ((9, 10), (8, 20), (7, 30), (1, 20), (2, 30), (3, 40))]  # fmt: skip
    assert curve(parse_log(lines).train, "nll_loss") == ([10, 20, 30, 40], [9, 1, 2, 3])


def test_a_second_start_is_not_done():
    start = CLOCK % 0 + f"fairseq_cli.train | {CONFIG % dict(seed=1, save_dir='', data='', teacher='deep')}\n"
    end = CLOCK % 1 + "fairseq_cli.train | done training in 1 seconds\n"
    assert parse_log([start, end]).done and not parse_log([start, end, start]).done


def test_ends_of_epochs_where_there_is_nothing_finer():
    line = CLOCK % 1 + "train | epoch 001 | loss 12.1 | nll_loss 11.9 | num_updates 50 | w_mean 1\n"
    assert parse_log([line]).train == [{"epoch": 1, "loss": 12.1, "nll_loss": 11.9, "w_mean": 1, "update": 50}]


def test_hydra_writes_lines_of_its_own():
    line = f"[2026-11-24 07:01:02,345][train_inner][INFO] - {entry_text({'nll_loss': 4, 'num_updates': 7}, 'json')}\n"
    log = parse_log([line])
    assert log.time == "2026-11-24 07:01:02" and log.train[0]["nll_loss"] == 4


def test_curves_are_thinned_and_leave_out_what_is_no_number():
    rows = [{"update": n, "gnorm": float(n)} for n in range(1, 1_001)] + [{"update": 1_001, "gnorm": float("nan")}]
    assert curve(rows, "gnorm", points=10) == (list(range(100, 1_001, 100)), [n + 50.5 for n in range(0, 1_000, 100)])
