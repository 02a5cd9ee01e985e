"""A student trained here is a plain fairseq model; ``evaluate`` works on its checkpoint."""

import json
import re

import pytest
import torch

from integration.commands import PACKAGE, checkpoint, l2rw, run

TASKS = ("l2rw_translation", "translation")
SEARCH = "--source-lang de --target-lang en --cpu --beam 2 --max-len-b 20".split()


def fairseq(command, data, last, task, cwd, *options, stdin=""):
    words = [data, "--path", last, "--user-dir", PACKAGE, "--task", task, *options]
    return run("-m", f"fairseq_cli.{command}", *words, cwd=cwd, stdin=stdin)


def hypotheses(text):
    return re.findall(r"^H-(\d+)\t(.*)$", text, re.MULTILINE)


def test_generate(data, last, tmp_path):
    found = [
        hypotheses(fairseq("generate", data, last, task, tmp_path, *SEARCH, "--gen-subset", "test", "--max-tokens", 2000).stdout)
        for task in TASKS
    ]
    assert sorted(int(number) for number, _ in found[0]) == list(range(24))
    assert found[0] == found[1]


def test_interactive(data, corpus, last, tmp_path):
    text = "".join((corpus / "test.de").read_text(encoding="utf-8").splitlines(keepends=True)[:3])
    pieces = ["--bpe", "sentencepiece", "--sentencepiece-model", data / "spm.model"]
    found = [
        hypotheses(fairseq("interactive", data, last, task, tmp_path, *SEARCH, *pieces, stdin=text).stdout) for task in TASKS
    ]
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_validate(data, deep, last, tmp_path):
    """The loss that training reported, with weights that are all 1."""
    options = ["--valid-subset", "valid", "--max-tokens", 2000, "--cpu", "--log-format", "json"]
    found = [fairseq("validate", data, last, task, tmp_path, *options).progress("valid")[-1] for task in TASKS]
    trained = deep[0].progress("valid")[-1]
    assert trained["valid_num_updates"] == 18
    assert [entry["valid_loss"] for entry in found] == pytest.approx([trained["valid_loss"]] * 2, abs=0.002)


def test_evaluate(data, last, tmp_path):
    scores = json.loads(l2rw("evaluate", data, "--path", last, "--beam", 2, "--cpu", "--json", cwd=tmp_path).stdout)
    assert scores["n"] == 24
    assert 0 <= scores["BLEU"]["score"] <= 100 and "tok:13a" in scores["BLEU"]["signature"]
    folder = last.parent / "checkpoint_last.eval"
    assert len((folder / "test.hyp").read_text(encoding="utf-8").splitlines()) == 24
    assert json.loads((folder / "test.json").read_text(encoding="utf-8")) == scores


def test_the_mean_of_checkpoints_translates_as_a_mean_taken_by_hand(data, deep, last, tmp_path):
    """`average`, then fairseq-generate and `evaluate`; the same as with the mean of the float64 parameters."""
    paths = [deep[1] / name for name in ("checkpoint_1_10.pt", "checkpoint_last.pt")]
    l2rw("average", *paths, "--out", "average.pt", cwd=tmp_path)
    states = [checkpoint(path) for path in paths]
    by_hand = states[1]
    for name, value in by_hand["model"].items():
        mean = (states[0]["model"][name].double() + value.double()) / 2
        by_hand["model"][name] = mean.to(value.dtype) if value.is_floating_point() else value
    torch.save(by_hand, tmp_path / "by_hand.pt")
    options = [*SEARCH, "--gen-subset", "test", "--max-tokens", 2000]
    found = [
        hypotheses(fairseq("generate", data, path, "translation", tmp_path, *options).stdout)
        for path in (tmp_path / "average.pt", tmp_path / "by_hand.pt", last)
    ]
    assert len(found[0]) == 24 and found[0] == found[1] != found[2]
    text = l2rw("evaluate", data, "--path", "average.pt", "--beam", 2, "--cpu", cwd=tmp_path).stdout
    assert "BLEU" in text
    hypotheses_file = (tmp_path / "average.eval" / "test.hyp").read_text(encoding="utf-8")
    assert len(hypotheses_file.splitlines()) == 24
    run = l2rw("weights", data, "--path", "average.pt", "--out", "weights.tsv", "--cpu", cwd=tmp_path, status=2)
    assert "there is no teacher in it" in run.stderr.splitlines()[-1]
