"""``fairseq-l2rw weights`` and ``filter`` on a real checkpoint: every raw line, whatever the format, the shards and the kills."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.cli.main import main
from fairseq_l2rw.corpus.bitext import read_lines, write_lines
from fairseq_l2rw.corpus.filter import Rule, Text, filter_bitext
from fairseq_l2rw.corpus.score_files import Layout, read_scores
from fairseq_l2rw.corpus.score_summary import ScoreSummary
from fairseq_l2rw.corpus.scoring import score_corpus
from fairseq_l2rw.corpus.shards import Shard
from fairseq_l2rw.translation.corpora import RawCorpus
from fairseq_l2rw.translation.weights import Weigher, WeightScorer
from integration.commands import ERROR, ROOT, l2rw

LINES, DROPPED = 600, 5
HEADS = ["misaligned", "untranslated", "misordered", "truncated"]
SETTINGS = ["--max-tokens", "1000", "--chunk", "70", "--cpu"]


def read_raw(folder, split="train"):
    return [(folder / f"{split}.{lang}").read_bytes().decode().split("\n")[:-1] for lang in ("de", "en")]


@pytest.fixture(scope="module")
def whole(data, last, tmp_path_factory):
    """``(summary, path)`` of the weights of the training split, made by the real command."""
    folder = tmp_path_factory.mktemp("weights")
    labels = data / "raw" / "train.labels.tsv"
    done = l2rw("weights", data, "--path", last, "--out", "weights.tsv", "--labels", labels, *SETTINGS, cwd=folder)
    assert [path.name for path in folder.iterdir()] == ["weights.tsv"]
    return json.loads(done.stdout), folder / "weights.tsv"


def weigh(data, last, out, *options):
    """The same in this process."""
    assert main(["weights", str(data), "--path", str(last), "--out", str(out), *SETTINGS, *map(str, options)]) == 0
    return Path(out).read_bytes()


def test_a_row_for_every_raw_line(whole, data, corpus):
    summary, path = whole
    header, *rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert header == ["id", "weight", *(f"weight_{head}" for head in HEADS), "loss", "reason", "source", "target"]
    assert [row[0] for row in rows] == [str(number) for number in range(LINES)]
    assert [[row[-2] for row in rows], [row[-1] for row in rows]] == read_raw(corpus)
    reasons = {int(row[0]): row[-3] for row in rows if row[-3]}
    kept = set(np.load(data / "train.lines.npy").tolist())
    assert set(reasons) == set(range(LINES)) - kept and reasons[DROPPED] == "empty"
    assert all(rows[number][1:7] == ["0", "", "", "", "", ""] for number in reasons)
    weights = [float(row[1]) for row in rows if not row[-3]]
    assert len(set(weights)) > len(weights) / 2 and 0 < min(weights) and max(weights) < 1
    for row in rows:
        if not row[-3]:
            assert float(row[1]) == pytest.approx(np.prod([float(head) for head in row[2:6]]), rel=1e-4)
            assert float(row[6]) > 0
    assert summary["mean"] == pytest.approx(np.mean(weights), rel=1e-4)
    assert summary["pairs"] == len(weights) and sum(summary["dropped"].values()) == len(reasons)
    assert set(summary["kinds"]) == {"clean", "misaligned", "untranslated"} and 0 <= summary["auc"] <= 1


def test_weights_are_those_of_the_pair_alone(whole, data, last):
    """Whatever stands beside it in a batch: to rounding."""
    weigher = Weigher(str(data), str(last), "cpu")
    corpus = RawCorpus(*raw_arguments(data, weigher))
    lines = corpus.read(0, 20)
    for line, score in zip(lines, read_scores(str(whole[1]))):
        if line.reason is None:
            assert weigher.weigh([line.tokens])[0].weight == pytest.approx(score.value, rel=1e-4)


def test_the_data_folder_is_the_one_that_was_named(whole, data, last, tmp_path):
    """Not the one that the checkpoint was trained on."""
    shutil.copytree(data, tmp_path / "elsewhere")
    assert Weigher(str(tmp_path / "elsewhere"), str(last), "cpu").task.cfg.data == str(tmp_path / "elsewhere")


def raw_arguments(data, weigher, folder=None):
    folder = folder or data / "raw"
    return [str(folder / f"train.{lang}") for lang in ("de", "en")], (1, 2), [str(data / "spm.model")] * 2, weigher.dictionaries


def test_several_checkpoints_weigh_by_their_mean(whole, data, last, other, tmp_path):
    one, two = (_numbers(path) for path in (whole[1].read_bytes(), weigh(data, other, tmp_path / "other.tsv")))
    both = _numbers(weigh(data, f"{last}{os.pathsep}{other}", tmp_path / "both.tsv"))
    rounding = np.array([2e-6] * 5 + [1e-4])
    assert (np.abs(one - two).max(0) > 100 * rounding).all()  # else a mean proves nothing: in every column they differ
    assert (np.abs(both - (one + two) / 2) <= rounding).all()


def _numbers(content):
    """Weight, weights of the heads, loss of the lines that have them."""
    rows = [line.split("\t") for line in content.decode().split("\n")[1:-1]]
    return np.array([[float(cell) for cell in row[1:7]] for row in rows if not row[7]])


@pytest.fixture(scope="module")
def other(last, tmp_path_factory):
    """A checkpoint of another student, with the same teacher."""
    state = torch.load(last, map_location="cpu", weights_only=True)
    generator = torch.Generator().manual_seed(1)
    for tensor in state["model"].values():
        if tensor.dim() == 2:
            tensor.add_(tensor.std() * torch.randn(tensor.shape, generator=generator) * 0.5)
    path = tmp_path_factory.mktemp("other") / "checkpoint.pt"
    torch.save(state, path)
    return path


@pytest.mark.parametrize("format", ["tsv", "scores"])
def test_shards_concatenate_to_the_same_bytes(data, last, tmp_path, format):
    one = weigh(data, last, tmp_path / "whole", "--format", format)
    for number in range(2):
        main_arguments = ["--format", format, "--num-shards", 2, "--shard-id", number]
        main(["weights", str(data), "--path", str(last), "--out", str(tmp_path / "w"), *SETTINGS, *map(str, main_arguments)])
    assert b"".join(part.read_bytes() for part in sorted(tmp_path.glob("w.*"))) == one


def test_shard_of_the_scheduler(data, last, tmp_path, monkeypatch, whole):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "5")
    main(["weights", str(data), "--path", str(last), "--out", str(tmp_path / "w"), *SETTINGS])
    (part,) = tmp_path.iterdir()
    assert part.name == "w.00001-of-00005" and part.read_bytes() in whole[1].read_bytes()


def test_columns_and_formats(whole, data, last, tmp_path, corpus):
    table = [line.split("\t") for line in whole[1].read_text(encoding="utf-8").split("\n")[1:-1]]
    some = weigh(data, last, tmp_path / "a", "--columns", "weight_truncated,id").decode().split("\n")
    assert some[0] == "weight_truncated\tid" and some[1:-1] == [f"{row[5]}\t{row[0]}" for row in table]
    assert weigh(data, last, tmp_path / "b", "--format", "scores").decode().split() == [row[1] for row in table]
    append = weigh(data, last, tmp_path / "c", "--format", "append").decode().split("\n")[:-1]
    assert append == [f"{source}\t{target}\t{row[1]}" for source, target, row in zip(*read_raw(corpus), table)]


def test_raw_text_has_the_weights_of_its_binarised_pairs(whole, data, last, tmp_path, corpus):
    """The same text, cut anew: the same tokens, so the same weights, but for lines that cleaning alone drops."""
    table = tmp_path / "pairs with spaces.tsv"
    source, target = read_raw(corpus)
    write_lines(str(table), (f"http://x\t{t}\t{s}" for s, t in zip(source, target)))
    given = weigh(data, last, tmp_path / "w", "--input", table, "--scol", 3, "--tcol", 2, "--format", "append").decode()
    rows = [line.rpartition("\t") for line in given.split("\n")[:-1]]
    assert [row[0] for row in rows] == list(read_lines(str(table)))
    for row, score in zip(rows, read_scores(str(whole[1])), strict=True):
        assert float(row[2]) == pytest.approx(score.value, rel=1e-4) or score.reason not in ("", "empty")
    two = weigh(data, last, tmp_path / "v", "--input", corpus / "train.de", corpus / "train.en", "--format", "scores").decode()
    assert two.split() == [row[2] for row in rows]


def test_killed_and_gone_on_with(whole, data, last, tmp_path):
    labels = data / "raw" / "train.labels.tsv"
    words = ["weights", data, "--path", last, "--out", tmp_path / "weights.tsv", "--labels", labels, *SETTINGS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "fairseq_l2rw.cli.main", *map(str, words)]
    record = tmp_path / ".weights.tsv.partial.json"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (record.exists() and json.loads(record.read_text())["chunks"] >= 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "weights.tsv").exists()
    done = l2rw(*words, cwd=tmp_path)
    assert "lines are there from an earlier run; going on after them" in done.stderr
    assert (tmp_path / "weights.tsv").read_bytes() == whole[1].read_bytes()
    assert {**json.loads(done.stdout), "weights": ""} == {**whole[0], "weights": ""}
    assert [path.name for path in tmp_path.iterdir()] == ["weights.tsv"]


# ---- the log of a training --------------------------------------------------


def test_from_log(data, tmp_path):
    from fairseq_l2rw.corpus.influence_log import InfluenceLog

    log = InfluenceLog(str(tmp_path / "log.gz"))
    log.write(1, "misaligned", [0, 7], [0.5, 1.0], [-2.0, 4.0], [-0.25, 0.125])
    log.flush()
    out = tmp_path / "gains.tsv"
    assert main(["weights", str(data), "--from-log", log.path, "--out", str(out), "--chunk", "100"]) == 0
    header, *rows = [line.split("\t") for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert header == ["id", "gain", "gain_misaligned", "updates", "mean_weight", "reason", "source", "target"]
    assert len(rows) == LINES and rows[0][1:5] == ["0.25", "0.25", "1", "0.5"] and rows[7][1] == "-0.125"
    assert rows[1][1:5] == ["0", "0", "0", ""] and rows[DROPPED][1] == "0" and rows[DROPPED][5] == "empty"


# ---- filter -----------------------------------------------------------------


def test_filter(whole, corpus, tmp_path):
    words = ["filter", "--weights", whole[1], "--input", corpus / "train.de", corpus / "train.en", "--keep", 0.7]
    words += ["--out", "best.de", "best.en", "--labels", corpus / "train.labels.tsv"]
    account = json.loads(l2rw(*words, cwd=tmp_path).stdout)
    values = [score.value for score in read_scores(str(whole[1]))]
    best = sorted(sorted(range(LINES), key=lambda n: (-values[n], n))[:420])
    assert [list(read_lines(str(tmp_path / f"best.{lang}"))) for lang in ("de", "en")] == [
        [side[number] for number in best] for side in read_raw(corpus)
    ]
    assert (account["read"], account["kept"], account["removed"]) == (LINES, 420, 180)
    gone = [*account["removed_without_weight"].values(), *account["removed_by_lowest_head"].values()]
    assert sum(gone) == 180 and set(account["removed_by_lowest_head"]) <= set(HEADS)


# ---- bad input --------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "give one of --path CHECKPOINT (weigh now) and --from-log FILE"),
        (["--path", "none.pt"], "--path none.pt: no such file; give a checkpoint"),
        (["--path", f"{__file__}{os.pathsep}none.pt"], "--path none.pt: no such file; give a checkpoint"),
        (["--from-log", "x.gz", "--input", "a"], "--input: the log of a training is about its own corpus"),
        (["--from-log", "x.gz", "--format", "scores", "--columns", "id"], "--columns: --format scores has none"),
        (["--from-log", "x.gz", "--gen-subset", "dev"], "{data}: no binarised split 'dev'; give --gen-subset another"),
        (["--from-log", "x.gz"], "x.gz: No such file or directory"),
        (["--from-log", "x.gz", "--num-shards", "2"], "--num-shards: which of them? give --shard-id too"),
    ],
)
def test_bad_options(data, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["weights", str(data), "--out", "w.tsv", *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(ERROR + message.format(data=data))
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_without_a_teacher(data, plain, tmp_path, capsys):
    path = plain / "checkpoint_last.pt"
    assert main(["weights", str(data), "--path", str(path), "--out", str(tmp_path / "w.tsv"), "--cpu"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"{ERROR}--path {path}: there is no teacher in it")
    assert list(tmp_path.iterdir()) == []


# ---- any text ---------------------------------------------------------------

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20),
    st.sampled_from(["", "\t", "\r", "\x00", "\u202eabc\u202c", "\u2028", "\x85", "<seg>&amp;</seg>", "x" * 3000, "das ist " * 900]),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), st.sampled_from(["tsv", "scores", "append"]), st.integers(1, 4))
def test_any_text_keeps_its_line(data, weigher, pairs, format, chunk):
    """The real student on what the web may hold: a row a line, and the best lines come out as they went in."""
    folder = Path(tempfile.mkdtemp(prefix="Ünsinn mit Leerzeichen "))
    try:
        for side, lang in enumerate(("de", "en")):
            write_lines(str(folder / f"train.{lang}"), (pair[side] for pair in pairs))
        corpus, scorer = RawCorpus(*raw_arguments(data, weigher, folder)), WeightScorer(weigher, 500)
        layout = Layout(format, "weight", scorer.columns)
        path = score_corpus(corpus, scorer.score, str(folder / "w"), layout, Shard(), ScoreSummary("weight"), {}, chunk)
        scores = list(read_scores(path))
        assert len(scores) == len(pairs)
        text = Text(tuple(str(folder / f"train.{lang}") for lang in ("de", "en")))
        out = [str(folder / "best.de"), str(folder / "best.en")]
        filter_bitext(path, text, out, Rule(threshold=1e-30))
        kept = list(zip(*(read_lines(name) for name in out), strict=True))
        assert kept == [pair for pair, score in zip(pairs, scores) if score.value > 0]
        too_long = [any(len(side) > 7000 for side in pair) for pair in pairs]
        assert all(score.value == 0 for score, long in zip(scores, too_long) if long)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def weigher(data, last):
    return Weigher(str(data), str(last), "cpu")
