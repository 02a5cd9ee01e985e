"""The queue: order, side by side, failures, and going on where it stopped."""

import json
import time

import pytest

from benchmarks.jobs import Job, run_queue
from fairseq_l2rw.errors import L2RWError


def job(name, code="pass", needs=(), settings=None, **options):
    return Job(name, settings or {"code": code}, lambda shop: shop.once("step", ["-c", code], **options), needs)


def write(path, text="x"):
    return f"open({str(path)!r}, 'a').write({text!r})"


def test_jobs_run_once_and_in_the_order_of_their_needs(tmp_path):
    log = tmp_path / "log"
    jobs = [job("second", write(log, "2"), needs=("first",)), job("first", write(log, "1"))]
    assert run_queue(jobs, tmp_path / "out") == [] == run_queue(jobs, tmp_path / "out")
    assert log.read_text() == "12"


def test_two_run_side_by_side(tmp_path):
    """Each waits for the other's file: one at a time they would fail."""
    code = "import os, time, sys; open({own!r}, 'w'); [time.sleep(0.05) for _ in range(400) if not os.path.exists({other!r})]; sys.exit(not os.path.exists({other!r}))"
    a, b = (str(tmp_path / name) for name in "ab")
    jobs = [job("a", code.format(own=a, other=b)), job("b", code.format(own=b, other=a))]
    assert run_queue(jobs, tmp_path / "out", slots=2) == []


def test_a_failure_takes_along_what_needs_it_and_nothing_else(tmp_path, capsys):
    jobs = [job("bad", "raise SystemExit(3)"), job("child", needs=("bad",)), job("grandchild", needs=("child",)), job("good")]
    assert run_queue(jobs, tmp_path) == ["bad", "child", "grandchild"]
    assert "failed: bad: -c raise SystemExit(3) ... ended with status 3; see " in capsys.readouterr().err
    assert (tmp_path / "good" / "done.json").exists() and not (tmp_path / "child").exists()


def test_a_failed_job_goes_on_after_its_last_step(tmp_path):
    log, cure = tmp_path / "log", tmp_path / "cure"
    code = f"import os, sys; sys.exit(not os.path.exists({str(cure)!r}))"

    def work(shop):
        shop.once("first", ["-c", write(log)])
        shop.once("second", ["-c", code])

    jobs = [Job("two", {}, work)]
    assert run_queue(jobs, tmp_path / "out") == ["two"]
    cure.touch()
    assert run_queue(jobs, tmp_path / "out") == []
    assert log.read_text() == "x"


def test_a_command_is_ended_when_it_has_done_enough(tmp_path):
    path = tmp_path / "enough"
    code = f"import time; {write(path)}; time.sleep(600)"
    start = time.time()
    assert run_queue([job("long", code, until=path.exists)], tmp_path / "out") == []
    assert time.time() - start < 300


def test_other_settings_are_refused(tmp_path):
    run_queue([job("a", settings={"seed": 1, "data": "x"})], tmp_path)
    with pytest.raises(L2RWError, match=r"a: made with other settings \(seed\); remove it or give another --out"):
        run_queue([job("a", settings={"seed": 2, "data": "x"})], tmp_path)
    assert json.loads((tmp_path / "a" / "done.json").read_text()) == {"seed": 1, "data": "x"}


def test_two_queues_in_one_folder(tmp_path):
    def work(shop):
        with pytest.raises(L2RWError, match="another queue works in this folder"):
            run_queue([job("inner")], tmp_path)

    assert run_queue([Job("outer", {}, work)], tmp_path) == []


def test_a_command_is_ended_where_nobody_can_say_whether_it_has_done_enough(tmp_path):
    def fail():
        raise ValueError("unreadable")

    start = time.time()
    with pytest.raises(ValueError, match="unreadable"):
        run_queue([job("long", "import time; time.sleep(600)", until=fail)], tmp_path / "out")
    assert time.time() - start < 300
