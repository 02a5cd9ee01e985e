"""The summary of a score file against numpy and scikit-learn on all rows at once."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fairseq_l2rw.corpus.score_summary import ScoreSummary
from fairseq_l2rw.errors import L2RWError

KINDS = ["clean", "clean", "misaligned", "untranslated"]


def corpus(count=4000):
    rng = np.random.default_rng(3)
    kinds = [KINDS[i] for i in rng.integers(0, 4, count)]
    center = {"clean": 2.0, "misaligned": 0.5, "untranslated": -3.0}
    weights = 1 / (1 + np.exp(-rng.normal([center[kind] for kind in kinds], 1.5)))
    lines = [SimpleNamespace(number=i, reason="empty" if i % 50 == 7 else None) for i in range(count)]
    cells = [None if line.reason else {"weight": repr(float(w))} for line, w in zip(lines, weights)]
    return lines, cells, np.array(kinds), weights


def summary(kinds, path="labels.tsv"):
    return ScoreSummary("weight", iter(enumerate(kinds)), path)


def test_against_all_rows_at_once():
    lines, cells, kinds, weights = corpus()
    ours = summary(kinds)
    for start in range(0, len(lines), 333):
        ours.add(lines[start : start + 333], cells[start : start + 333])
    result = ours.result()
    there = np.array([line.reason is None for line in lines])
    kinds, weights = kinds[there], weights[there]
    assert result["pairs"] == there.sum() and result["dropped"] == {"empty": (~there).sum()}
    assert result["mean"] == pytest.approx(weights.mean())
    assert result["auc"] == pytest.approx(roc_auc_score(kinds == "clean", weights), abs=1e-4)
    for kind in ("misaligned", "untranslated"):
        both = np.isin(kinds, ["clean", kind])
        assert result["kinds"][kind]["pairs"] == (kinds == kind).sum()
        assert result["kinds"][kind]["mean"] == pytest.approx(weights[kinds == kind].mean())
        assert result["kinds"][kind]["auc"] == pytest.approx(roc_auc_score(kinds[both] == "clean", weights[both]), abs=1e-4)
    assert result["kinds"]["misaligned"]["auc"] < 0.8 < result["kinds"]["untranslated"]["auc"]


def test_gone_on_with_after_a_kill():
    lines, cells, kinds, _ = corpus(600)
    whole, first, second = summary(kinds), summary(kinds), summary(kinds)
    whole.add(lines, cells)
    first.add(lines[:250], cells[:250])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.add(lines[250:], cells[250:])
    assert second.result() == whole.result()


@pytest.mark.parametrize("values", [[-3.0, -1e-7, 0.0, 1e-7, 0.4, 1.0, 7.0]])
def test_any_number_has_its_place(values):
    """Gains lie on both sides of zero."""
    lines = [SimpleNamespace(number=i, reason=None) for i in range(len(values))]
    for cut in range(1, len(values)):
        kinds = ["noise"] * cut + ["clean"] * (len(values) - cut)
        ours = summary(kinds)
        ours.add(lines, [{"weight": repr(value)} for value in values])
        assert ours.result()["auc"] == 1.0


def test_without_labels():
    ours = ScoreSummary("weight")
    ours.add([SimpleNamespace(number=0, reason=None)], [{"weight": "0.5"}])
    assert ours.result() == {"pairs": 1, "dropped": {}, "mean": 0.5}


def test_labels_of_another_corpus():
    with pytest.raises(L2RWError, match="labels.tsv: no label of raw line 1 "):
        summary(["clean"]).add([SimpleNamespace(number=1, reason=None)], [{"weight": "0.5"}])
