"""Generation and scoring."""

import json
import math
import os
import random
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
from fairseq_l2rw.translation.evaluate import (
    Scoring,
    Search,
    Translation,
    bleu_tokenizer,
    collect_hypotheses,
    compare,
    format_scores,
    make_metrics,
    score,
    score_compound_split,
)

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
    shown = re.search(r"^BLEU +\d+\.\d\d  nrefs:1\|case:mixed\|eff:no\|tok:13a\S+  (.*)$", text, re.MULTILINE)[1]
    assert shown == f"(BP = {printed['BLEU']['bp']:.3f}, ratio = {printed['BLEU']['ratio']:.3f})"


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


def test_how_long_the_hypotheses_are():
    """By hand: 3 of 4 tokens, brevity penalty exp(1 - 4/3); longer ones cost nothing by it."""
    short, long = (score([text], ["a b c d"], make_metrics("en"))["BLEU"] for text in ("a b c", "a b c d e"))
    assert (short["ratio"], long["ratio"], long["bp"]) == (0.75, 1.25, 1.0)
    assert short["bp"] == pytest.approx(math.exp(1 - 4 / 3))


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


def test_without_an_installed_tokenizer_there_is_one_clear_line():
    for language, module_name, extra in (("ja", "MeCab", "ja"), ("ko", "mecab_ko", "ko")):
        try:
            __import__(module_name)
        except ImportError:
            with pytest.raises(
                L2RWError, match=rf"BLEU for {language} needs the tokeniser {language}-mecab.*sacrebleu\[{extra}\]"
            ):
                make_metrics(language)
        else:
            assert f"tok:{language}-mecab" in score(["x"], ["x"], make_metrics(language))["BLEU"]["signature"]


# --- comparison with another system, and with the literature; translations come from a stub ---

WORDS = "the a house garden small big red blue tree is was near under over and man woman well-known state-of-the-art".split()


def some_text(seed, spoilt=0.0):
    draw, spoil = random.Random(1), random.Random(seed)
    lines = [[draw.choice(WORDS) for _ in range(12)] for _ in range(40)]
    return [" ".join(spoil.choice(WORDS) if spoil.random() < spoilt else word for word in line) for line in lines]


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A folder of data with references, and checkpoints whose translations are known: returns paths of all."""
    texts = {"this.pt": some_text(2, 0.2), "other.pt": some_text(3, 0.35)}
    write_lines(
        str(tmp_path / "data" / "prepare.json"), [json.dumps({"format": 2, "settings": {"src": "en", "tgt": "de"}})]
    )
    write_lines(str(tmp_path / "data" / "raw" / "test.de"), some_text(1))
    for name in texts:
        (tmp_path / name).touch()
    monkeypatch.setattr(module, "generate", lambda data, path, *rest: Translation(texts[os.path.basename(path)], 12.34))
    return tmp_path, texts


def test_paired_bootstrap_is_that_of_the_command(stub):
    """sacrebleu REF -i OTHER THIS --paired-bs, whose baseline is the first."""
    folder, texts = stub
    data, this, other = (str(folder / name) for name in ("data", "this.pt", "other.pt"))
    result = module.evaluate(data, this, out=str(folder / "out"), scoring=Scoring(samples=100), against=other)
    files = [str(folder / "out" / name) for name in ("test.against.hyp", "test.hyp")]
    assert [list(read_lines(file)) for file in files] == [texts["other.pt"], texts["this.pt"]]
    command = ["-m", "sacrebleu", os.path.join(data, "raw", "test.de"), "-i", *files, "-m", "bleu", "chrf", "ter"]
    text = python(*command, "--paired-bs", "--paired-bs-n", "100", "-f", "text", "-w", "6").stdout.decode()
    theirs = re.findall(r"([\d.]+) \(([\d.]+) ± ([\d.]+)\)", text)
    p_values = re.findall(r"\(p = ([\d.]+)\)", text)
    for column, (name, command_name) in enumerate((("BLEU", "BLEU"), ("chrF", "chrF2"), ("TER", "TER"))):
        entry = result["against"][name]
        for row, system in enumerate(("other", "this")):
            ours = [entry[system][key] for key in ("score", "mean", "ci")]
            assert ours == pytest.approx([float(cell) for cell in theirs[3 * row + column]], abs=2e-6)
        assert f"{entry['p_value']:.4f}" == p_values[column]
        assert re.search(rf"- {command_name} +{re.escape(entry['signature'])}$", text, re.MULTILINE)
        assert result[name]["score"] == pytest.approx(entry["this"]["score"])
    assert result["against"]["BLEU"]["p_value"] < 0.05  # they do differ
    assert json.loads((folder / "out" / "test.json").read_text()) == result
    assert re.search(
        r"^against .*other\.pt \(paired bootstrap\):\nBLEU +\d+\.\d\d .* p = 0\.0\d+$",
        format_scores(result),
        re.MULTILINE,
    )


def test_a_system_against_itself_does_not_differ():
    lines = some_text(2, 0.2)
    compared = compare(lines, lines, some_text(1), make_metrics("de"), 50)
    assert all(entry["p_value"] == 1 and entry["this"] == entry["other"] for entry in compared.values())


def test_against_a_file(stub):
    folder, texts = stub
    data, this = str(folder / "data"), str(folder / "this.pt")
    write_lines(str(folder / "other.hyp"), texts["other.pt"])
    options = {"out": str(folder / "out"), "scoring": Scoring(samples=20)}
    result = module.evaluate(data, this, against=str(folder / "other.hyp"), **options)
    assert result["against"]["BLEU"]["other"]["score"] < result["BLEU"]["score"]
    assert sorted(os.listdir(folder / "out")) == ["test.hyp", "test.json"]
    write_lines(str(folder / "other.hyp"), texts["other.pt"][:-1])
    with pytest.raises(L2RWError, match=r"--against .*other\.hyp: 39 lines, and 40 sentences are translated"):
        module.evaluate(data, this, against=str(folder / "other.hyp"), **options)
    with pytest.raises(L2RWError, match=r"--against .*none\.pt: no such file"):
        module.evaluate(data, this, against=str(folder / "none.pt"), **options)


def test_references_and_case_of_one_s_own(stub):
    folder, texts = stub
    data, this, file = (str(folder / name) for name in ("data", "this.pt", "references"))
    write_lines(file, [line.upper() for line in texts["this.pt"]])

    def score_it(**how):
        return module.evaluate(data, this, out=str(folder / "out"), scoring=Scoring(references=file, **how))

    assert score_it()["BLEU"]["score"] < 1
    result = score_it(lowercase=True)
    assert result["BLEU"]["score"] == pytest.approx(100) and "case:lc" in result["BLEU"]["signature"]
    assert result["chrF"]["score"] == pytest.approx(100) and "BLEU_fairseq" not in result
    write_lines(file, ["one"])
    with pytest.raises(L2RWError, match=r"--references .*references: 1 lines, and the split test has 40"):
        score_it()


def test_a_model_of_moses_tokens(stub, monkeypatch):
    pytest.importorskip("sacremoses")
    folder, _ = stub
    tokens = ["das ist &quot; A &amp; B &quot; , sagt er ."] * 40
    monkeypatch.setattr(module, "generate", lambda *args: Translation(tokens, 12.34))
    result = module.evaluate(
        str(folder / "data"), str(folder / "this.pt"), out=str(folder / "out"), scoring=Scoring(detokenize=True)
    )
    assert next(read_lines(str(folder / "out" / "test.hyp"))) == 'das ist "A & B", sagt er.'
    assert result["BLEU_fairseq"]["score"] == 12.34


def test_compound_split_by_hand():
    """What multi-bleu.perl would get: tokens as they are, a-b in three."""
    pytest.importorskip("sacremoses")
    from sacrebleu.metrics import BLEU

    from fairseq_l2rw.corpus.moses import Moses

    hypotheses, references = ["Das SAP-System ist neu, oder?"], ["Das SAP-Programm ist neu, oder?"]
    by_hand = [f"Das SAP ##AT##-##AT## {word} ist neu , oder ?" for word in ("System", "Programm")]
    expected = BLEU(tokenize="none", force=True).corpus_score(by_hand[:1], [by_hand[1:]]).score
    result = score_compound_split(hypotheses, references, Moses("de"))
    assert result["score"] == pytest.approx(expected) and "tok:none" in result["signature"]
    assert expected != pytest.approx(score(hypotheses, references, make_metrics("de"))["BLEU"]["score"])


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
    with pytest.raises(L2RWError, match=r"broken\.pt: cut short, or no checkpoint of fairseq-train"):
        module.evaluate(data, str(path), search=Search(cpu=True))
    assert os.listdir(tmp_path) == ["broken.pt"]


def test_another_failure_of_fairseq_shows_its_messages(capsys):
    with pytest.raises(L2RWError, match=r"^fairseq-generate failed: ValueError: odd; its messages stand above$"):
        module._report_failure(1, [b"a message\n"], b"Traceback\nValueError: odd\n")
    assert capsys.readouterr().err == "a message\nTraceback\nValueError: odd\n"


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
