"""The ablation shares the queue of the experiment on noisy bitext."""

import json

import pytest

from benchmarks import ablation
from benchmarks.experiment import SIZES, Experiment
from benchmarks.noisy_bitext import NOISE, Corpus
from fairseq_l2rw.errors import L2RWError


def test_one_more_training(tiny, capsys):
    untouched = {path: path.stat().st_mtime_ns for path in tiny.rglob("base.pt")}
    assert ablation.main(["--size", "tiny", "--out", str(tiny), "--groups", "objective"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("base.pt")} == untouched
    content = json.loads((tiny / "ablation.json").read_text())["results"]
    rows = {row["condition"]: row for row in content["summary"]}
    assert set(rows) == {"uniform", "deep", "objective-loss"}
    assert rows["objective-loss"]["options"] == "--meta-objective loss"
    assert rows["deep"]["Δ BLEU"] == 0
    for name in ("ablation_bleu", "ablation_auc", "ablation_auc_over_time"):
        assert (tiny / "figures" / f"{name}.png").exists() and (tiny / "figures" / f"{name}.svg").exists()
    assert "objective-loss" in capsys.readouterr().out


def test_some_conditions_only(tmp_path, capsys):
    only = ["--groups", "params,lr", "--only", "params-decoder-layers,lr-3e-3", "--dry-run"]
    assert ablation.main(["--size", "tiny", "--out", str(tmp_path), *only]) == 0
    runs = {line.split("/")[-1].strip() for line in capsys.readouterr().out.splitlines() if "runs/" in line}
    assert runs == {"uniform-s1", "deep-s1", "params-decoder-layers-s1", "lr-3e-3-s1"}


def test_every_condition_is_one_change_that_the_task_takes():
    from fairseq_l2rw.translation.config import L2RWTranslationConfig, meta_config

    fields = L2RWTranslationConfig.__dataclass_fields__
    optional = {"skip_below": float, "teacher_hidden_dim": int}  # None by default
    found = ablation.conditions(list(ablation.GROUPS), 1000, 2500)
    for condition in found.values():
        option, value = condition.options[2:]
        name = option.removeprefix("--").replace("-", "_")
        cfg = L2RWTranslationConfig(seed=1, max_update=2500)
        setattr(cfg, name, optional.get(name, type(fields[name].default))(value))
        meta_config(cfg)  # raises where the value is none
    assert found["start-early"].options[-1] == "500" and found["start-late"].options[-1] == "1750"


def test_an_early_start_has_a_base_of_its_own(tmp_path):
    size = SIZES["multi30k"]
    experiment = Experiment(tmp_path, size)
    for condition in ablation.conditions(["start"], size.start, size.updates).values():
        experiment.add(Corpus("mixed", {}, NOISE["mixed"]), condition, 1)
    needs = {run.condition.name: experiment.jobs[run.name].needs[1] for run in experiment.runs}
    assert needs == {"start-early": "bases/mixed-s1-250", "start-late": "bases/mixed-s1-500"}


def test_unknown_group(tmp_path):
    with pytest.raises(L2RWError, match="--groups: unknown group 'inputz'; choose from inputs, interactions, objective, window"):
        ablation.main(["--size", "tiny", "--out", str(tmp_path), "--groups", "inputz"])
