"""Area under the ROC curve, against scikit-learn's."""

import pytest
import torch

from fairseq_l2rw.vision.detection import area_under_curve


@pytest.mark.parametrize("ties", [1, 5, 1000])
def test_as_scikit_learn_has_it(ties):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(ties)
    scores = torch.randint(0, ties, (300,), generator=generator) / ties
    positive = torch.rand(300, generator=generator) < 0.3
    assert area_under_curve(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))


def test_none_without_both_kinds():
    assert area_under_curve(torch.rand(3), torch.zeros(3, dtype=torch.bool)) is None
    assert area_under_curve(torch.rand(3), torch.ones(3, dtype=torch.bool)) is None
