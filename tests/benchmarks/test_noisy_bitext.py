"""The experiment on noisy bitext: real trainings of a tiny size, and the arithmetic of its tables."""

import json
import os
import re

import pytest

from benchmarks import noisy_bitext
from benchmarks.experiment import SIZES, Corpus, Experiment, bootstrap, make_corpus, mean_and_deviation
from benchmarks.jobs import Workshop
from fairseq_l2rw.errors import L2RWError
from integration.commands import differences, run, training_state

NAMES = ("uniform", "deep", "l2r", "told")


@pytest.fixture(scope="module")
def results(tiny):
    return json.loads((tiny / "results.json").read_text())


def test_what_is_written(tiny, results):
    assert {r["condition"] for r in results["results"]["runs"]} == set(NAMES)
    for r in results["results"]["runs"]:
        for split in ("valid", "test"):
            assert 0 <= r["scores"][split]["BLEU"] <= 100
            assert r["bootstrap"][split]["BLEU"]["ci"] >= 0
            assert (r["bootstrap"][split]["BLEU"]["p"] is None) == (r["condition"] == "uniform")
        assert ("weights" in r) == (r["condition"] in ("deep", "l2r"))
    assert {"environment", "command", "configuration"} <= set(results)
    deep = next(r for r in results["results"]["runs"] if r["condition"] == "deep")
    assert set(deep["weights"]) == {"clean", "misaligned", "untranslated", "all"}
    assert 0 < deep["weights"]["clean"]["mean"] < 1 and 0 <= deep["weights"]["all"]["auc"] <= 1
    # the log begins with the first teacher update, at --meta-start, and ends with the training
    assert deep["over_time"][0]["update"] == SIZES["tiny"].start + 1 and deep["over_time"][-1]["update"] == SIZES["tiny"].updates
    for name in ("weights_mixed", "auc_mixed", "bleu_mixed"):
        for ending in ("png", "svg"):
            assert (tiny / "figures" / f"{name}.{ending}").stat().st_size > 1000


def test_a_second_run_does_nothing_and_says_the_same(tiny, results, capsys):
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*.pt")}
    only = ",".join(f"mixed/{name}" for name in NAMES)
    assert noisy_bitext.main(["--size", "tiny", "--out", str(tiny), "--stages", "1,3,6", "--only", only]) == 0
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*.pt")} == before
    again = json.loads((tiny / "results.json").read_text())
    assert again["results"]["summary"] == results["results"]["summary"]
    assert "| mixed  | deep" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["deep", "uniform"])
def test_a_condition_from_the_shared_base_is_the_whole_training_to_the_bit(tiny, tmp_path, name):
    """The same command from an empty folder ends where the one from the base ended."""
    corpus = Corpus("mixed", {}, noisy_bitext.NOISE["mixed"])
    experiment = Experiment(tiny, SIZES["tiny"])
    shop = Workshop(tmp_path, "whole", None, 0)
    command = experiment._command(shop, corpus, 1, *noisy_bitext.CONDITIONS[name].options)
    run(*command, cwd=tmp_path, PYTHONPATH=os.pathsep.join([str(noisy_bitext.Path(noisy_bitext.__file__).parents[1])]))
    whole = training_state(tmp_path / "whole" / "checkpoint_last.pt")
    shared = training_state(tiny / "runs" / "mixed" / f"{name}-s1" / "checkpoint_last.pt")
    for state in (whole, shared):
        if state["L2RWTranslationTask"]:
            state["L2RWTranslationTask"].pop("influence_log", None)
    assert whole["history"]["num_updates"] == SIZES["tiny"].updates
    assert differences(whole, shared) == []
    other = training_state(tiny / "runs" / "mixed" / "l2r-s1" / "checkpoint_last.pt")
    assert differences(whole["model"], other["model"]), "negative control: another condition ends elsewhere"


def test_weights_of_the_true_labels(tiny):
    """0 or 1, from the teacher's start on, so that the effective sample size is the part of pairs that weigh 1."""
    out = (tiny / "runs" / "mixed" / "told-s1" / "train.out").read_text()
    mean, ess = (float(re.findall(rf"\b{name} ([0-9.]+)", out)[-1]) for name in ("w_mean", "ess"))
    size, clean = SIZES["tiny"], 0.5
    assert mean == pytest.approx(ess, abs=0.01)
    assert mean == pytest.approx(1 - (1 - clean) * (1 - size.start / size.updates), abs=0.05)


def test_the_clean_part(tiny, tmp_path):
    class Done(Workshop):
        def once(self, name, command, until=None):
            """The noise is there already; nothing is binarised."""

    text = tiny / "corpora" / "mixed" / "text"
    shop = Done(tmp_path, "clean", None, 0)
    (shop.folder / "text").symlink_to(text)
    corpus = Corpus("clean", {"train": str(tiny / "toy" / "train"), "valid": "", "test": ""}, "misaligned:0.25", only_clean=True)
    make_corpus(shop, corpus, SIZES["tiny"])
    labels = [line.split("\t")[1] for line in (text / "train.labels.tsv").read_text().splitlines()[1:]]
    for lang in ("de", "en"):
        noisy, clean = ((text / f"{name}.{lang}").read_text().splitlines() for name in ("train", "clean"))
        assert clean == [line for line, kind in zip(noisy, labels) if kind == "clean"] and len(clean) < len(noisy)
        (text / f"clean.{lang}").unlink()


# ---- plan and tables --------------------------------------------------------


def test_every_stage_can_be_planned(tmp_path):
    experiment = Experiment(tmp_path, SIZES["multi30k"])
    noisy_bitext.plan(experiment, {"train": "t", "valid": "v", "test": "x"}, sorted(noisy_bitext.STAGES), [1, 2], None)
    names = {run.name for run in experiment.runs}
    assert len(names) == 2 * sum(len(stage) for stage in noisy_bitext.STAGES.values())
    assert "runs/mixed-only-clean/clean-only-s2" in names and "runs/four/deep-without-truncated-s1" in names
    assert {need for job in experiment.jobs.values() for need in job.needs} <= set(experiment.jobs)
    without = noisy_bitext.condition("deep-without-misaligned").options[-1]
    assert "misaligned" not in without and "untranslated" in without


def result(corpus, condition, seed, bleu, auc=None, best=None):
    out = {"corpus": corpus, "condition": condition, "seed": seed, "bootstrap": {},
           "scores": {split: {"BLEU": bleu, "chrF": bleu} for split in ("valid", "test")}}  # fmt: skip
    out["bootstrap"] = {"test": {"BLEU": {"ci": 1.0}}}
    if auc is not None:
        kinds = {"clean": {"mean": 0.8, "ess": 0.95}, "misaligned": {"auc": auc}, "untranslated": {"auc": auc}, "all": {"auc": auc}}
        out["weights"] = kinds
        out["over_time"] = [{"update": 1, "kinds": {"all": {"auc": best or auc}}}, {"update": 2, "kinds": kinds}]
    return out


def test_summary_and_bars():
    results = [result("mixed", "uniform", 1, 2.0), result("mixed", "loss", 1, 20.0, 0.6)]
    results += [result("mixed", "deep", seed, bleu, 0.96, 0.99) for seed, bleu in ((1, 30.0), (2, 34.0))]
    for r in results:
        r["won_back"] = (r["scores"]["test"]["BLEU"] - 2) / 32
    row = next(row for row in noisy_bitext.summary(results) if row["condition"] == "deep")
    assert (row["seeds"], row["BLEU test"], row["won back"]) == (2, 32.0, 30 / 32)
    assert row["±"] == pytest.approx(8**0.5) and row["AUC all"] == pytest.approx(0.96)
    bars = {row["what"]: row for row in noisy_bitext.bars_reached(results)}
    assert bars["AUC of deep, all noise"]["reached"] == "no, 0.010 short"
    assert bars["AUC of deep, misaligned"]["reached"] == "yes"
    assert bars["AUC late minus AUC at its best"]["measured"] == pytest.approx(-0.03)
    assert bars["won back by deep"]["reached"] == "yes"
    best = bars["BLEU of deep (bar: best other reweighter, plus the seeds' deviation)"]
    assert best["bar"] == pytest.approx(20 + 8**0.5) and best["reached"] == "yes"


def test_mean_and_deviation():
    assert mean_and_deviation([]) == (None, None)
    assert mean_and_deviation([3.0]) == (3.0, None)
    assert mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_bootstrap_is_sacrebleus():
    references = [f"the cat number {i} sat on the mat" for i in range(40)]
    systems = {"bad": ["a dog" for _ in references], "good": list(references)}
    found = bootstrap(systems, references, "en", samples=200)
    assert found["good"]["BLEU"]["score"] == pytest.approx(100) and found["good"]["BLEU"]["p"] < 0.05
    assert found["bad"]["BLEU"]["p"] is None and found["bad"]["chrF"]["ci"] >= 0


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(L2RWError, match="--raw is missing: name the folder"):
        noisy_bitext.main(["--out", str(tmp_path)])
    with pytest.raises(L2RWError, match="--raw .*nowhere: no such folder"):
        noisy_bitext.main(["--out", str(tmp_path), "--raw", str(tmp_path / "nowhere")])


def test_late_auc_is_of_all_pairs():
    """The last stretch has the hard cases alone where settled pairs are left out."""
    stretches = [{"kinds": {"all": {"pairs": 9, "auc": auc}}} for auc in (0.6, 0.9, 0.8)] + [{"kinds": {"all": {"pairs": 0}}}]
    assert noisy_bitext.collapse({"over_time": stretches, "weights": {"all": {"auc": 0.95}}}) == pytest.approx(0.05)
    assert noisy_bitext.collapse({"over_time": stretches, "weights": {"all": {"auc": 0.7}}}) == pytest.approx(-0.2)
    assert noisy_bitext.collapse({"over_time": stretches[-1:], "weights": {"all": {"auc": 0.7}}}) is None
