"""J, its turns, averages and inner products."""

import copy
import io

import pytest
import torch

from fairseq_l2rw.meta.objective import AUTO_FACTOR, CLEAN, Objective
from tests.meta.learnable import learnable_batch
from tests.oracles import ToyStudent, plain_steps, toy_batch


class LinearStudent:
    """dev_loss = p . batch, so that the gradient IS the batch; kind ``k`` multiplies it by ``factors[k]``."""

    factors = {"double": 2.0, "minus": -1.0, "nan": float("nan")}

    def __init__(self):
        self.module = torch.nn.Linear(3, 1, bias=False).double()
        self.parameters = list(self.module.parameters())
        self.seeds = []

    def dev_loss(self, batch):
        assert not self.module.training
        return (self.module.weight[0] * batch).sum()

    def corrupt(self, batch, kind, seed):
        self.seeds.append(seed)
        return None if kind == "impossible" else batch * self.factors[kind]


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 3, generator=generator, dtype=torch.float64))


def run(objective, student, data):
    return [objective.dev_gradient(student, student.parameters, b, sgd_products) for b in data]


def closed_form(gradients, momentum):
    """Exponential average with bias correction."""
    n = len(gradients)
    return sum(momentum ** (n - 1 - t) * (1 - momentum) * g for t, g in enumerate(gradients)) / (1 - momentum**n)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_loss_objective_is_the_average_of_the_gradients(momentum):
    data = batches(6)
    student = LinearStudent()
    for t, dev in enumerate(run(Objective({}, momentum, 1), student, data)):
        want = closed_form(data[: t + 1], momentum) if momentum else data[t]
        assert torch.allclose(dev.adjoint[0][0], want, rtol=1e-12)
        assert dev.value == pytest.approx(float((student.module.weight[0].detach() * data[t]).sum()))
        assert (dev.head, dev.alpha) == (0, 0.0)
    assert student.seeds == []  # nothing is spoilt for the paper's objective


def test_kinds_take_turns_with_averages_of_their_own():
    data, momentum = batches(6), 0.8
    student = LinearStudent()
    got = run(Objective({"double": 0.3, "minus": 0.7}, momentum, 1), student, data)
    assert [d.head for d in got] == [0, 1, 0, 1, 0, 1]
    assert [d.alpha for d in got] == [0.3, 0.7] * 3
    assert len(set(student.seeds)) == 6  # each time spoilt in another way
    for t, dev in enumerate(got):
        kind = "double" if t % 2 == 0 else "minus"
        clean = closed_form(data[: t + 1], momentum)  # every turn
        spoilt = closed_form([student.factors[kind] * data[s] for s in range(t % 2, t + 1, 2)], momentum)  # its own turns
        assert torch.allclose(dev.adjoint[0][0], clean - dev.alpha * spoilt, rtol=1e-12)


@pytest.mark.parametrize("kind", ["impossible", "nan"])
def test_a_turn_that_gives_nothing_leaves_the_averages(kind):
    """It still is that kind's turn that has passed: the others are not held up."""
    objective, student = Objective({kind: 0.5, "double": 0.5}, 0.8, 1), LinearStudent()
    data = batches(4)
    got = run(objective, student, data)
    assert [d and d.head for d in got] == [None, 1, None, 1]
    assert torch.allclose(objective._average(CLEAN)[0][0], closed_form([data[1], data[3]], 0.8), rtol=1e-12)
    assert kind not in objective.averages


def test_a_gradient_that_is_not_finite():
    objective, student = Objective({}, 0.8, 1), LinearStudent()
    data = batches(3)
    data[1][2] = float("nan")
    got = run(objective, student, data)
    assert got[1] is None and got[0] and got[2]
    assert torch.allclose(got[2].adjoint[0][0], closed_form([data[0], data[2]], 0.8), rtol=1e-12)


def test_modes_and_gradients_are_left_alone():
    student = LinearStudent()
    student.module.train()
    run(Objective({"double": 0.3}, 0.8, 1), student, batches(1))
    assert student.module.training and student.parameters[0].grad is None


def test_unused_parameters_have_a_zero_gradient():
    student = LinearStudent()
    unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    dev = Objective({}, 0.0, 1).dev_gradient(student, [*student.parameters, unused], batches(1)[0])
    assert dev.adjoint[1].tolist() == [0, 0]


# ---- inner products ---------------------------------------------------------

LR = 0.1


def sgd_step_vector(adjoint):
    return [-LR * a for a in adjoint]


def sgd_products(left, right):
    return [[sum(float((x * y).sum()) for x, y in zip(a, sgd_step_vector(b))) for a in left] for b in right]


@pytest.fixture(scope="module")
def calibrated():
    """A student, and an objective that has seen many dev batches at its parameters.

    The student is new, but its tied embeddings know something already. (Once it has learnt this toy problem a step
    that helps clean pairs hurts spoilt ones by itself, and there is no midpoint.)
    """
    student = ToyStudent(dropout=0.0)
    parameters = list(student.module.parameters())
    objective = Objective({"rotated": "auto"}, 0.95, 1)
    for t in range(120):
        dev = objective.dev_gradient(student, parameters, learnable_batch(20, 1000 + t)[0], sgd_products)
    return student, parameters, objective, dev


def average_influence(student, parameters, batch, vector):
    """Token-summed c_i of single examples, their mean."""
    losses, _ = student.losses(batch)
    total = 0.0
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        total += sum(float((g * v).sum()) for g, v in zip(gradients, vector))
    return total / len(losses)


def influences(calibrated, alpha):
    """Mean influence of clean and of spoilt pairs, over dev batches that were not averaged."""
    student, parameters, objective, _ = calibrated
    adjoint = [a - alpha * b for a, b in zip(objective._average(CLEAN), objective._average("rotated"))]
    vector = sgd_step_vector(adjoint)
    student.module.eval()
    clean, spoilt = [], []
    for t in range(8):
        batch = learnable_batch(20, 5000 + t)[0]
        clean.append(average_influence(student, parameters, batch, vector))
        spoilt.append(average_influence(student, parameters, student.corrupt(batch, "rotated", 0), vector))
    return sum(clean) / len(clean), sum(spoilt) / len(spoilt)


def test_midpoint(calibrated):
    """There an average clean and an average spoilt pair have opposite influences of equal size."""
    midpoint = calibrated[2].alpha("rotated") / AUTO_FACTOR
    assert 0.02 < midpoint < 1 / AUTO_FACTOR  # not cut off
    clean, spoilt = influences(calibrated, midpoint)
    assert clean < 0 < spoilt
    assert -clean == pytest.approx(spoilt, rel=0.15)
    # elsewhere they are not: half of it, and twice
    for alpha in (midpoint / 2, midpoint * 2):
        a, b = influences(calibrated, alpha)
        assert abs(a + b) > 0.3 * abs(a - b)


def test_dev_scale_is_half_the_distance(calibrated):
    """For pairs of 3 tokens, the mean length here."""
    _, _, objective, dev = calibrated
    clean, spoilt = influences(calibrated, dev.alpha)
    assert objective.scale(dev, 3.0) == pytest.approx((spoilt - clean) / 2, rel=0.15)
    assert objective.scale(dev, 6.0) == pytest.approx(2 * objective.scale(dev, 3.0))


@pytest.mark.parametrize(
    "products, alpha",
    [
        ([1.0, 0.2, 0.2, 3.8], AUTO_FACTOR * 0.3),
        ([9.0, 0.0, 0.0, 1.0], 1.0),  # cut
        ([1e-6, 0.0, 0.0, 1.0], 0.02),  # cut
        ([-1.0, 0.2, 0.2, 1.0], AUTO_FACTOR * 0.3),  # no sense: the number it began with
        ([1.0, -2.0, 0.5, 1.0], AUTO_FACTOR * 0.3),
    ],
)
def test_auto_stays_in_bounds(products, alpha):
    objective = Objective({"k": "auto"}, 0.8, 1)
    assert objective.alpha("k") == 0.3
    objective.products["k"] = products
    assert objective.alpha("k") == pytest.approx(alpha)


def test_a_given_alpha_is_kept():
    objective = Objective({"k": 0.45}, 0.8, 1)
    objective.products["k"] = [1.0, 0.2, 0.2, 3.8]
    assert objective.alpha("k") == 0.45


def test_no_scale_before_there_are_inner_products():
    """The first turn has no other dev batch to compare with; `loss` never has a scale."""
    objective, student = Objective({"double": 0.5}, 0.8, 1), LinearStudent()
    dev = run(objective, student, batches(1))[0]
    assert objective.products == {} and objective.scale(dev, 3.0) is None
    loss = Objective({}, 0.8, 1)
    run(loss, student, batches(3))
    assert loss.products == {} and loss.scale(dev, 3.0) is None


def test_products_pair_the_newest_with_the_batches_before():
    data = batches(3)
    objective = Objective({"double": 0.5}, 0.8, 1)
    run(objective, LinearStudent(), data)
    first, second = (LR * float(data[t] @ closed_form(data[:t], 0.8)) for t in (1, 2))
    want = 0.8 * first + 0.2 * second
    assert objective.products["double"] == pytest.approx([want, 2 * want, 2 * want, 4 * want])


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_scale_is_held_away_from_zero(share):
    """Clean and spoilt pairs that look alike: the distance is noise, the floor a tenth of the products."""
    objective = Objective({"k": share}, 0.8, 1)
    objective.products["k"] = [1.0, 1.0, 1.0, 1.0]
    dev = type("Dev", (), {"head": 0, "alpha": share})
    assert objective.scale(dev, 4.0) == pytest.approx(0.5 * 4.0 * 0.1 * (1 + share))


# ---- state ------------------------------------------------------------------


def through_a_file(state):
    """As a checkpoint: saved, and read with the safe loader."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_state_dict_round_trip_goes_on_bit_exactly():
    student = ToyStudent()
    plain_steps(student, torch.optim.SGD(student.module.parameters(), lr=0.1), 2)
    parameters = list(student.module.parameters())
    contrast = {"rotated": "auto", "constant": 0.4}

    def go_on(objective, first, last):
        for t in range(first, last):
            dev = objective.dev_gradient(student, parameters, toy_batch(8, t), sgd_products)
        return dev

    one = Objective(contrast, 0.8, 1)
    go_on(one, 0, 7)
    other, forgetful = Objective(contrast, 0.8, 1), Objective(contrast, 0.8, 1)
    other.load_state_dict(through_a_file(one.state_dict()), parameters)
    want, got, wrong = go_on(one, 7, 12), go_on(other, 7, 12), go_on(forgetful, 7, 12)
    assert all(torch.equal(a, b) for a, b in zip(want.adjoint, got.adjoint))
    assert (want.head, want.alpha, want.value) == (got.head, got.alpha, got.value)
    assert one.products == other.products
    assert not torch.allclose(want.adjoint[0], wrong.adjoint[0], rtol=1e-3)  # negative control


def test_state_dict_is_not_changed_by_who_loads_it():
    student = LinearStudent()
    one = Objective({"double": 0.5}, 0.8, 1)
    run(one, student, batches(3))
    state = copy.deepcopy(one.state_dict())
    other = Objective({"double": 0.5}, 0.8, 1)
    other.load_state_dict(state, student.parameters)
    before = copy.deepcopy(state)
    run(other, student, batches(3, seed=4))
    for term in (CLEAN, "double"):
        assert torch.equal(state["averages"][term][0], before["averages"][term][0])


def test_averages_of_a_student_in_single_precision_are_kept_in_half():
    """They follow those in double precision to within bfloat16's rounding, and come out in single precision."""
    data, contrast = batches(40), {"double": 0.3}
    exact, single = Objective(contrast, 0.9, 1), Objective(contrast, 0.9, 1)
    run(exact, LinearStudent(), data)
    student = LinearStudent()
    student.module.float()
    for dev in run(single, student, [b.float() for b in data]):
        assert dev.adjoint[0].dtype == torch.float32
    for term in (CLEAN, "double"):
        (a,), (b,) = single.averages[term], exact.averages[term]
        assert a.dtype == torch.bfloat16 and b.dtype == torch.float64
        error = float((a.double() - b).norm() / b.norm())
        assert 0 < error < 0.01
    loaded = Objective(contrast, 0.9, 1)
    loaded.load_state_dict(single.state_dict(), student.parameters)
    assert torch.equal(loaded.averages[CLEAN][0], single.averages[CLEAN][0])


def test_without_momentum_nothing_is_rounded():
    student = LinearStudent()
    student.module.float()
    data = [b.float() for b in batches(3)]
    for b, dev in zip(data, run(Objective({}, 0.0, 1), student, data)):
        assert torch.equal(dev.adjoint[0][0], b)
