"""Generation and scoring."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

import fairseq_l2rw
from fairseq_l2rw.cli.main import main
from fairseq_l2rw.corpus.bitext import read_lines, write_lines
from fairseq_l2rw.corpus.prepare import Settings, prepare
from fairseq_l2rw.corpus.toy import write_toy
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation import evaluate as module
from fairseq_l2rw.translation.evaluate import Search, bleu_tokenizer, collect_hypotheses, make_metrics, score

ODD = "A line\u2028with\x85separators\r and \x1c more"
TEST_SIZE = 46  # no multiple of 8: fairseq's default drops what is left over


def python(*words, **options):
    return subprocess.run([sys.executable, *words], check=True, capture_output=True, **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_toy(str(folder), sizes={"train": 800, "valid": 30, "test": TEST_SIZE - 1})
    for lang in ("de", "en"):
        path = str(folder / f"test.{lang}")
        write_lines(path, [*read_lines(path), ODD])
    out = folder / "data"
    prepare(str(out), {split: str(folder / split) for split in ("train", "valid", "test")}, Settings("de", "en", 600))
    return str(out)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    """A tiny model trained for a few seconds: it gets some words right, so that no score is trivial."""
    folder = tmp_path_factory.mktemp("checkpoints")
    options = (
        "--task translation --arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 64 "
        "--decoder-embed-dim 64 --encoder-ffn-embed-dim 64 --decoder-ffn-embed-dim 64 --encoder-attention-heads 2 "
        "--decoder-attention-heads 2 --share-all-embeddings --dropout 0 --optimizer adam --lr 5e-3 --max-update 60 "
        "--max-tokens 1000 --no-epoch-checkpoints --disable-validation --cpu --num-workers 0 --seed 1"
    )
    python("-m", "fairseq_cli.train", data, *shlex.split(options), "--save-dir", str(folder))
    return str(folder / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def evaluated(data, checkpoint, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("out"))
    return module.evaluate(data, checkpoint, "test", Search(beam=3, cpu=True), out), out


def sacrebleu_by_hand(references, hypotheses):
    """What the sacrebleu command says of two files: name -> (score, signature)."""
    done = python("-m", "sacrebleu", references, "-i", hypotheses, "-m", "bleu", "chrf", "ter", "-w", "8")
    return {entry["name"]: (entry["score"], entry["signature"]) for entry in json.loads(done.stdout)}


def rounded(result):
    """The same from our result (the command calls chrF chrF2, after its beta)."""
    names = {"BLEU": "BLEU", "chrF": "chrF2", "TER": "TER"}
    return {theirs: (round(result[ours]["score"], 8), result[ours]["signature"]) for ours, theirs in names.items()}


def test_same_figures_as_piping_by_hand(data, checkpoint, evaluated):
    """fairseq-generate | grep ^H | sort | cut | sacrebleu RAW, with the tools of a shell."""
    result, out = evaluated
    options = "--task translation --beam 3 --max-tokens 8000 --required-batch-size-multiple 1 --cpu"
    options += " --remove-bpe sentencepiece"
    user_dir = os.path.dirname(fairseq_l2rw.__file__)
    log = python(
        "-m", "fairseq_cli.generate", data, "--path", checkpoint, "--user-dir", user_dir, *shlex.split(options)
    )
    pipe = "grep -a '^H-' | sed 's/^H-//' | sort -n | cut -f 3"
    hypotheses = subprocess.run(["bash", "-c", pipe], input=log.stdout, check=True, capture_output=True).stdout
    assert hypotheses == open(os.path.join(out, "test.hyp"), "rb").read()
    by_hand = sacrebleu_by_hand(os.path.join(data, "raw", "test.en"), os.path.join(out, "test.hyp"))
    assert rounded(result) == by_hand
    assert result["BLEU"]["score"] > 0 and result["chrF"]["score"] > 5  # the equality above says something


def test_files_that_are_written(data, evaluated):
    result, out = evaluated
    assert sorted(os.listdir(out)) == ["test.hyp", "test.json"]
    assert result["n"] == TEST_SIZE == len(list(read_lines(result["hypotheses"])))
    assert json.load(open(os.path.join(out, "test.json"))) == result
    assert set(result) == {"BLEU", "chrF", "TER", "n", "hypotheses"}
    assert not re.search("[▁@]", open(result["hypotheses"]).read())


def test_the_command(data, checkpoint, evaluated, capsys):
    """Text and JSON; the default folder lies beside the checkpoint."""
    assert main(["evaluate", data, "--path", checkpoint, "--beam", "3", "--cpu", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["hypotheses"] == os.path.join(os.path.dirname(checkpoint), "checkpoint_last.eval", "test.hyp")
    assert {**printed, "hypotheses": None} == {**evaluated[0], "hypotheses": None}
    text = module.format_scores(printed)
    assert re.search(r"^BLEU +\d+\.\d\d  nrefs:1\|case:mixed\|eff:no\|tok:13a", text, re.MULTILINE)


# --- the parts ---


def test_hypotheses_are_collected_by_id_and_split_at_line_feeds_only():
    odd = "zwei\u2028\x85\r\x0b Teile"
    log = [
        b"2026-01-01 | INFO | H-9 is no hypothesis\n",
        b"S-2\tquelle\n",
        "H-2\t-0.5\t".encode() + odd.encode() + b"\n",
        b"D-2\t-0.5\tsomething else\n",
        b"H-0\t-1e-05\tnull\n",
        b"H-0\t-2.0\tsecond best\n",
        b"H-3\t-inf\t\n",
    ]
    assert collect_hypotheses(log, 4) == ["null", None, odd, ""]


def test_scores_are_those_of_the_command(tmp_path):
    """On text with a separator that must not split lines, and where all three metrics are away from 0 and 100."""
    references = [
        "The shop opens at ten o'clock.",
        f"{ODD}, it says.",
        "My sister speaks French, but no Greek.",
        "Yes.",
    ]
    hypotheses = ["The shop opens at two o'clock.", f"{ODD} , it said.", "My sister speaks no Greek, but French.", ""]
    write_lines(str(tmp_path / "ref"), references)
    write_lines(str(tmp_path / "hyp"), hypotheses)
    scores = score(hypotheses, references, make_metrics("en"))
    assert rounded(scores) == sacrebleu_by_hand(str(tmp_path / "ref"), str(tmp_path / "hyp"))
    assert all(1 < scores[name]["score"] < 99 for name in scores)


@pytest.mark.parametrize(
    "language, tokenizer",
    [
        ("en", "13a"),
        ("de", "13a"),
        ("zh", "zh"),
        ("zh_CN", "zh"),
        ("zh-Hans", "zh"),
        ("ja", "ja-mecab"),
        ("ko", "ko-mecab"),
    ],
)
def test_the_tokenizer_follows_the_target_language(language, tokenizer):
    assert bleu_tokenizer(language) == tokenizer


def test_chinese_is_scored_by_characters():
    bleu = score(["我今天去学校学习汉语"], ["我今天去学校学习中文"], make_metrics("zh"))["BLEU"]
    assert "tok:zh" in bleu["signature"]
    assert bleu["score"] > 50  # one word, and nothing right, for 13a


def test_a_missing_tokenizer_names_what_to_install(monkeypatch):
    def missing(self, *args, **kwargs):
        raise RuntimeError("Japanese tokenization requires extra dependencies")

    monkeypatch.setattr("sacrebleu.metrics.BLEU.__init__", missing)
    with pytest.raises(L2RWError, match=r"BLEU for ja needs the tokeniser ja-mecab.*pip install 'sacrebleu\[ja\]'"):
        make_metrics("ja")


# --- errors ---


def test_missing_checkpoint(data, tmp_path):
    with pytest.raises(L2RWError, match=r"--path .*none\.pt: no such file; give a checkpoint"):
        module.evaluate(data, str(tmp_path / "none.pt"))


def test_unknown_split(data, checkpoint):
    with pytest.raises(L2RWError, match=r"--gen-subset dev: no such split in .*data; choose from test, train, valid"):
        module.evaluate(data, checkpoint, "dev")


def test_train_is_refused(data, checkpoint):
    with pytest.raises(L2RWError, match=r"--gen-subset train: its raw text was cleaned before it was binarised"):
        module.evaluate(data, checkpoint, "train")


def test_a_folder_without_raw_text(tmp_path, checkpoint):
    with pytest.raises(
        L2RWError, match=r"prepare\.json: no such file; give a folder that 'fairseq-l2rw prepare' has made"
    ):
        module.evaluate(str(tmp_path), checkpoint)


def test_a_file_that_is_no_checkpoint(data, tmp_path):
    path = tmp_path / "broken.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(L2RWError, match=r"broken.pt: cut short, or no checkpoint of fairseq-train"):
        module.evaluate(data, str(path), search=Search(cpu=True))
    assert os.listdir(tmp_path) == ["broken.pt"]


def test_missing_translations_are_told(data, checkpoint, monkeypatch, tmp_path):
    start = subprocess.Popen
    log = "print('H-1\\t-0.5\\tx'); print('H-0\\t-0.5\\tx')"
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda command, **kwargs: start([sys.executable, "-c", log], **kwargs)
    )
    with pytest.raises(L2RWError, match=rf"gave 2 of {TEST_SIZE} translations \(the first missing one is of line 3\)"):
        module.evaluate(data, checkpoint, out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_our_own_errors_pass_through():
    with pytest.raises(L2RWError, match=r"^--teacher x: unknown$"):
        module._report_failure(2, [], b"noise\nfairseq-l2rw: error: --teacher x: unknown\n")
