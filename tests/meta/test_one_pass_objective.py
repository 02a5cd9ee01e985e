"""J by one backward pass: the adjoint of two, and a dev scale that is measured now and then."""

from types import SimpleNamespace

import pytest
import torch

from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer
from fairseq_l2rw.meta.objective import CLEAN, Objective
from fairseq_l2rw.meta.one_pass_objective import OnePassObjective, fits
from fairseq_l2rw.meta.train_scale import FIRST, INTERVAL, SHARE
from tests.meta.test_dev_pass import SharingStudent
from tests.meta.test_objective import LR, LinearStudent, batches, closed_form, run, sgd_products, through_a_file
from tests.oracles import ToyStudent, plain_steps, toy_batch

TURNS = 3 * INTERVAL + FIRST
APART = [t for t in range(TURNS) if t < FIRST or t % INTERVAL == 0]


@pytest.fixture
def student():
    made = ToyStudent()
    plain_steps(made, torch.optim.SGD(made.module.parameters(), lr=0.1), 2)
    return made


def devs(objective, student, turns):
    parameters = list(student.module.parameters())
    return [objective.dev_gradient(student, parameters, toy_batch(8, t), sgd_products) for t in turns]


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_the_adjoint_is_that_of_two_passes(student, momentum):
    got, want = (devs(make({"rotated": 0.5}, momentum, 1), student, range(TURNS)) for make in (OnePassObjective, Objective))
    for a, b in zip(got, want):
        assert (a.head, a.value, a.alpha) == (b.head, pytest.approx(b.value, rel=1e-12), b.alpha)
        assert all(torch.allclose(x, y, rtol=1e-9, atol=1e-14) for x, y in zip(a.adjoint, b.adjoint))
    other = devs(OnePassObjective({"rotated": 0.4}, momentum, 1), student, range(TURNS))  # a negative control
    assert not torch.allclose(other[-1].adjoint[0], want[-1].adjoint[0], rtol=1e-3)


def test_most_turns_take_one_backward_pass(student, monkeypatch):
    passes, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or grad(*a, **k))
    objective, counts = OnePassObjective({"rotated": 0.5}, 0.8, 1), []
    for t in range(TURNS):
        before = len(passes)
        devs(objective, student, [t])
        counts.append(len(passes) - before)
    assert counts == [2 if t in APART else 1 for t in range(TURNS)]


def test_the_dev_scale_is_half_the_distance_along_the_averaged_difference():
    """Each measurement pairs the gradients of a turn with the differences before it; the step's length is the newest."""
    data, alpha = [b + 2 for b in batches(TURNS)], 0.3
    objective = OnePassObjective({"minus": alpha}, 0.8, 1)
    dev = run(objective, LinearStudent(), data)[-1]
    differences = [g + alpha * g for g in data]
    want = None
    for n, t in enumerate(APART[1:], 1):
        before = closed_form(differences[:t], 0.8)
        seen = torch.stack([g @ before for g in (data[t], -data[t])])
        share = max(SHARE, 1 / n)
        want = seen if want is None else (1 - share) * want + share * seen
    assert objective.products["minus"] == pytest.approx(want.tolist())
    assert objective.scale(dev, 6.0) == pytest.approx(0.5 * 6.0 * float(want[0] - want[1]) * LR)


def test_the_scale_follows_the_learning_rate_at_once(student):
    parameters = list(student.module.parameters())
    objective, other = (make({"rotated": 0.5}, 0.95, 1) for make in (OnePassObjective, Objective))

    def scale(objective, t, factor):
        products = lambda left, right: [[factor * p for p in row] for row in sgd_products(left, right)]  # noqa: E731
        return objective.scale(objective.dev_gradient(student, parameters, toy_batch(50, t), products), 3.0)

    for t in range(FIRST + INTERVAL + 1):
        before = [scale(one, t, 1.0) for one in (objective, other)]
    after = [scale(one, t + 1, 0.1) for one in (objective, other)]
    assert after[0] == pytest.approx(0.1 * before[0], rel=0.2)
    assert after[1] > 0.5 * before[1]  # a negative control: the average of products does not


def test_the_scale_measures_as_the_other_objective_does(student):
    """At parameters that stay, with the same student: averages of the same number."""
    scales = []
    for make in (OnePassObjective, Objective):
        objective = make({"rotated": 0.5}, 0.95, 1)
        scales.append(objective.scale(devs(objective, student, range(400))[-1], 3.0))
    assert scales[0] == pytest.approx(scales[1], rel=0.3)


@pytest.mark.parametrize("turn", [0, FIRST + 1])
@pytest.mark.parametrize("kind, says", [("impossible", "cannot be spoilt as 'impossible'"), ("nan", "not finite")])
def test_a_turn_that_gives_nothing_leaves_the_averages(kind, says, turn):
    """Whether or not the gradients are taken apart in it."""
    student = LinearStudent()
    objective = OnePassObjective({kind: 0.5}, 0.8, 1)
    objective.turn = turn
    assert run(objective, student, batches(1)) == [None] and says in objective.failure
    assert objective.averages == {} and objective.turn == turn + 1


def test_what_is_examined():
    """Both batches, in either kind of turn: as the other objective sees them."""
    student = SharingStudent()
    parameters = list(student.module.parameters())
    for turn in (0, FIRST + 1):
        seen = []
        for make in (OnePassObjective, Objective):
            objective = make({"rotated": 0.5}, 0.8, 1, examine=True)
            objective.turn = turn
            assert objective.dev_gradient(student, parameters, toy_batch(8, 3)) is not None
            seen.append(objective.examined)
        (head, one), (_, other) = seen
        assert head == 0 and list(one) == list(other) == [CLEAN, "rotated"]
        for term in one:
            assert torch.allclose(one[term].losses, other[term].losses) and not one[term].losses.requires_grad
            assert torch.equal(one[term].internal[0], other[term].internal[0])
        assert not torch.equal(one[CLEAN].losses, one["rotated"].losses)


def test_state_dict_round_trip_goes_on_bit_exactly(student):
    parameters = list(student.module.parameters())
    one, other = (OnePassObjective({"rotated": 0.5}, 0.8, 1) for _ in range(2))
    devs(one, student, range(FIRST + 2))
    other.load_state_dict(through_a_file(one.state_dict()), parameters)
    later = range(FIRST + 2, TURNS)
    for a, b in zip(devs(one, student, later), devs(other, student, later), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.adjoint, b.adjoint)) and a.value == b.value
    assert one.products == other.products


@pytest.mark.parametrize(
    "contrast, one_pass, want",
    [
        ({"rotated": 0.5}, True, True),
        ({"rotated": 0.5}, False, False),  # its passes cannot be shared
        ({"rotated": "auto"}, True, False),  # alpha comes from products of the two gradients
        ({"rotated": 0.5, "constant": 0.5}, True, False),  # what is sound is averaged over all turns
        ({}, True, False),
    ],
)
def test_who_takes_it(contrast, one_pass, want):
    assert fits(contrast, SimpleNamespace(one_pass=one_pass)) == want
    student = ToyStudent()
    student.one_pass = one_pass
    trainer = MetaTrainer(student, FeatureLayout((6,)), MetaConfig(contrast=contrast, objective="contrastive" if contrast else "loss"))
    assert isinstance(trainer.objective, OnePassObjective) == want
