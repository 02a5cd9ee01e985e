"""The memory of each example's own influences."""

import copy

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.own_influence import MOST, OwnInfluence
from tests.meta.harness import run_update
from tests.meta.test_trainer import BATCHES, SETTINGS, equal, go_on, resumed, trainer_of


def test_the_guess_after_n_measurements():
    own = OwnInfluence(2, reliability=0.4, prior_logit=3.0, prior_strength=0.1)
    logits = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    assert torch.equal(own.corrected(torch.tensor([0, 5, 9]), logits), logits)  # nothing is known yet
    own.add(1, torch.tensor([5, 3, 5]), torch.tensor([0.2, 9.0, 0.6]))
    got = own.corrected(torch.tensor([0, 5, 9000]), logits)
    kappa = 2 * 0.4 / 1.4
    assert got[1].tolist() == pytest.approx([1.0, (1 - kappa) * 2 + kappa * (3 - 0.4 / 0.1)], rel=1e-5)
    assert torch.equal(got[[0, 2]], logits[[0, 2]])


def test_best_linear_guess_of_a_random_effect():
    """Against what it was derived from: t_i = of the features + N(0, a), measured with N(0, b), rho = a / (a + b)."""
    generator = torch.Generator().manual_seed(1)
    n, a, b, tau = 20_000, 0.4, 0.6, 0.5
    effect = a**0.5 * torch.randn(n, generator=generator)

    def error(rho):
        own = OwnInfluence(1, rho, 0.0, tau)
        draws = torch.Generator().manual_seed(2)
        for _ in range(2):
            own.add(0, torch.arange(n), effect + b**0.5 * torch.randn(n, generator=draws))
        guess = -tau * own.corrected(torch.arange(n), torch.zeros(n, 1))[:, 0]
        return float((guess - effect).square().mean())

    right = error(a / (a + b))
    assert right == pytest.approx(a * b / (b + 2 * a), rel=0.03)  # the posterior variance
    assert right < error(0.1) and right < error(0.8)


def test_old_measurements_are_forgotten():
    own = OwnInfluence(1, 0.5, 0.0, 1.0)
    for value in [5.0] * 20 + [0.0] * 60:
        own.add(0, torch.tensor([2]), torch.tensor([value]))
    assert float(own.means[0, 2]) < 0.01 and float(own.counts[0, 2]) == MOST


@pytest.mark.parametrize("settings", [{"own_influence": 1.0}, {"own_influence": 0.3, "prior_strength": 0.0}])
def test_refused(settings):
    with pytest.raises(L2RWError, match="--teacher-own-influence"):
        trainer_of(**settings)


def test_examples_without_numbers_are_refused():
    with pytest.raises(L2RWError, match="--teacher-own-influence: these examples have no numbers"):
        trainer_of(own_influence=0.3, prior_strength=0.1)


def number(batch):
    return batch[0][:, 0] * 100 + batch[0][:, 1]


def test_the_weights_of_a_training_are_corrected():
    settings = {**SETTINGS, "own_influence": 0.5, "identify": number}
    trainer = trainer_of(**settings)
    reports = go_on(trainer, 0, 5)
    # the first turn of each head has no scale yet
    assert trainer.own.counts.sum(1).tolist() == [sum(len(r.ids) for r in reports[2:] if r.head == h) for h in ("rotated", "constant")]
    teacher, own = copy.deepcopy(trainer.teacher), copy.deepcopy(trainer.own)
    seen = []
    features = trainer.features
    trainer.features = lambda *args: seen.append(features(*args)) or seen[-1]
    _, step = run_update(trainer, BATCHES, 5, 0.5, updates=5)
    for batch, rows, w in zip(BATCHES, seen, step.weights):
        want = torch.sigmoid(own.corrected(number(batch), teacher.all_logits(rows))).prod(1)
        assert torch.allclose(w, want) and not torch.allclose(w, teacher(rows).prod(1))


@pytest.mark.parametrize("forgotten", [False, True])
def test_resuming_goes_on_bit_exactly(forgotten):
    settings = {**SETTINGS, "own_influence": 0.5, "identify": number}
    one = trainer_of(**settings)
    go_on(one, 0, 7)
    other = resumed(one, settings, **({"own": None} if forgotten else {}))
    go_on(one, 7, 11), go_on(other, 7, 11)
    assert equal(one.state_dict(), other.state_dict()) != forgotten
