"""``--influence-log``: a row for every teacher update and pair, whole after a kill and a resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from fairseq_l2rw.corpus.influence_log import read_log
from integration.commands import ERROR, PACKAGE, SMOOTHED, TEACHER, TRAINING, TRANSFORMER, train

OPTIONS = [*TRANSFORMER, *SMOOTHED, *TEACHER, "--save-interval-updates", 4, "--max-update", 14, "--disable-validation"]
START = 3  # of the teacher, in TEACHER


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """``(Run, path of its log)`` of a training at one go."""
    save = tmp_path_factory.mktemp("influence log") / "save"
    path = save.parent / "influence.tsv.gz"
    return train(data, save, *OPTIONS, "--influence-log", path), path


def test_a_row_for_every_teacher_update_and_pair(data, whole):
    rows = list(read_log(str(whole[1])))
    updates = sorted({row.update for row in rows})
    assert updates == list(range(START + 1, 15))
    heads = ["misaligned", "untranslated", "misordered", "truncated"]
    assert [next(row.head for row in rows if row.update == update) for update in updates] == (heads * 3)[: len(updates)]
    first_epoch = [row.id for row in rows if row.update <= 9]
    assert max(Counter(first_epoch).values()) == 1, "a pair has two rows within one epoch"
    assert set(first_epoch) <= set(np.load(data / "train.lines.npy").tolist()) and 5 not in first_epoch  # raw lines
    assert all(0 < row.weight < 1 for row in rows)
    assert any(a.influence < 0 < b.influence and a.update == b.update for a in rows for b in rows)


def test_log_agrees_with_what_training_reports(whole):
    rows = list(read_log(str(whole[1])))
    for entry in whole[0].progress()[START:]:
        weights = [row.weight for row in rows if row.update == entry["num_updates"]]
        assert np.mean(weights) == pytest.approx(entry["w_mean"], abs=6e-4)


def test_killed_and_resumed_is_the_same_to_the_byte(data, whole, tmp_path):
    save, path = tmp_path / "save", tmp_path / "influence.tsv.gz"
    options = [*OPTIONS, "--influence-log", path]
    command = ["-m", "fairseq_cli.train", data, "--user-dir", PACKAGE, "--task", "l2rw_translation", "--save-dir", save]
    words = [sys.executable, *(str(word) for word in [*command, *TRAINING, *options])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            if b"| train_inner |" in line and float(json.loads(line[line.index(b"{") :])["num_updates"]) >= 13:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    # the newest checkpoint is lost as well: the log is ahead of the one that is left
    shutil.copy(save / "checkpoint_1_8.pt", save / "checkpoint_last.pt")
    assert max(row.update for row in read_log(str(path))) == 12
    run = train(data, save, *options)
    assert "teacher and dev batches are restored" in run.stdout
    assert list(read_log(str(path))) == list(read_log(str(whole[1])))


def test_name_without_gz(data, tmp_path):
    run = train(data, tmp_path / "save", *OPTIONS, "--influence-log", "log.tsv", status=2)
    assert run.stderr.splitlines()[-1].startswith(f"{ERROR}--influence-log log.tsv: the log is compressed"), run
