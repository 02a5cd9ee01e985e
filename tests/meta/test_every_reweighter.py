"""What every reweighter of the registry passes: shapes, invariants, checkpoints, one step against its paper's equations."""

import copy
import io

import pytest
import torch
from torch.func import functional_call

from fairseq_l2rw.meta import reweighters
from fairseq_l2rw.meta.functional import RandomState
from tests.meta.harness import fresh, make_trainer, run_update
from tests.oracles import toy_batch

NAMES = [name for name in reweighters.names() if name != "uniform"]  # which is no reweighter at all, but its absence
NETWORKS = [name for name in NAMES if reweighters.rule_class(name) is None]
BATCHES = [toy_batch(6, 1), toy_batch(5, 2)]
LR = 0.3


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=LR)


def trainer_of(name, make=sgd, dropout=0.0, **settings):
    trainer = make_trainer(*fresh(make, dropout=dropout), teacher=name, **settings)
    if trainer.running.loss is None:
        trainer.running.update_loss(2.4)
    return trainer


def weights_of(trainer, batch, updates=0):
    """Weights of a micro-batch in a new update."""
    trainer.begin_update(updates, lambda: toy_batch(9, 7))
    state = RandomState.capture()
    losses, n_tokens = trainer.student.losses(batch)
    internal = trainer.student.module.embedding(batch[0]).mean(1)
    return losses, trainer.weigh(losses, n_tokens, torch.full_like(n_tokens, 4), [internal], batch, state)[1]


def theta(trainer):
    return [p.detach().clone() for p in trainer.student.module.parameters()]


# ---- shapes and invariants --------------------------------------------------


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_are_one_number_a_pair(name, normalization):
    losses, w = weights_of(trainer_of(name, normalization=normalization), toy_batch(40, 3))
    assert w.shape == losses.shape and w.dtype == losses.dtype and not w.requires_grad
    assert torch.isfinite(w).all() and (w >= 0).all() and w.sum() > 0
    assert w.std() > 0, "all alike: the tests below would say nothing"


@pytest.mark.parametrize("name", NAMES)
def test_before_the_start_the_weights_are_one(name):
    trainer = trainer_of(name, start=3)
    for updates in (0, 2):
        assert (weights_of(trainer, BATCHES[0], updates)[1] == 1).all()
    assert (weights_of(trainer, BATCHES[0], 3)[1] != 1).any()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_pairs_does_not_matter(name):
    batch, order = toy_batch(20, 3), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    want = weights_of(trainer_of(name), batch)[1]
    got = weights_of(trainer_of(name), tuple(part[order] for part in batch))[1]
    assert torch.allclose(got, want[order], rtol=1e-6, atol=1e-12)  # features are in single precision
    assert not torch.allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_students_random_numbers_are_left_alone(name):
    def draws(start):
        trainer = trainer_of(name, dropout=0.3, start=start)
        run_update(trainer, BATCHES, 5, 0.5)
        return torch.rand(5)

    assert torch.equal(draws(0), draws(99))


@pytest.mark.parametrize("name", NAMES)
def test_an_update_that_never_came_to_its_step_changes_nothing(name):
    def after(unfinished):
        trainer = trainer_of(name)
        if unfinished:
            weights_of(trainer, toy_batch(7, 9))
        run_update(trainer, BATCHES, 1, 0.5)
        return theta(trainer)

    assert all(torch.equal(a, b) for a, b in zip(after(False), after(True)))


@pytest.mark.parametrize("name", NAMES)
def test_no_pair_is_left(name):
    """With `batch` a sum of zero would divide by zero; then the batch counts as it is."""
    trainer = trainer_of(name, normalization="batch")
    if name in NETWORKS:
        with torch.no_grad():
            trainer.teacher.nets[0].bias.fill_(-100.0)
    elif name == "self_paced":
        trainer.teacher.first.fill_(0.0)
    else:
        influences = trainer.teacher.repeated.influence
        trainer.teacher.repeated.influence = lambda *a: influences(*a).abs()  # every pair raises J
    assert (weights_of(trainer, BATCHES[0])[1] == 1).all()


# ---- checkpoints ------------------------------------------------------------


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "name, forgotten",
    [*((name, None) for name in NAMES), *((name, "teacher") for name in NETWORKS), ("self_paced", "teacher")],
)
def test_resuming_goes_on_bit_exactly(name, forgotten):
    """And not where the state is forgotten (negative control; l2r has none: it judges each batch anew)."""

    def adam(parameters):
        return torch.optim.Adam(parameters, lr=0.05)

    settings = dict(dropout=0.3, start=2, paced_interval=2, replay=2, prior_strength=0.1)
    one = trainer_of(name, adam, **settings)
    for t in range(5):
        run_update(one, BATCHES, t, 0.5, updates=t)
    one.running.loss = 1.5  # the mean loss has moved since the threshold was set
    state, student = through_a_file(one.state_dict()), copy.deepcopy(one.student)
    optimizer = adam(student.module.parameters())
    optimizer.load_state_dict(copy.deepcopy(one.optimizer.state_dict()))
    settings.pop("dropout")
    other = make_trainer(student, optimizer, teacher=name, **settings)
    if forgotten:
        state[forgotten] = other.state_dict()[forgotten]
    other.load_state_dict(state)
    for t in range(5, 9):
        run_update(one, BATCHES, t, 0.5, updates=t)
        run_update(other, BATCHES, t, 0.5, updates=t)
    same = all(torch.equal(a, b) for a, b in zip(theta(one), theta(other)))
    assert same == (forgotten is None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", ["deep", "l2r"])
def test_a_start_serves_every_reweighter(name, before):
    """Until the start all weights are 1: whose running statistics are taken over does not matter."""

    def run(first):
        one = trainer_of(first, dropout=0.3, start=4)
        if first == "deep":  # the harness has given it statistics of its own
            one.teacher.standardizer.load_state_dict(trainer_of(name if name in NETWORKS else "deep").teacher.standardizer.state_dict())
        for t in range(4):
            run_update(one, BATCHES, t, 0.5, updates=t)
        if first == name:
            other = one
        else:
            other = make_trainer(one.student, one.optimizer, teacher=name, start=4)
            other.load_statistics(through_a_file(one.state_dict()))
        for t in range(4, 7):
            run_update(other, BATCHES, t, 0.5, updates=t)
        return theta(other)

    same = all(torch.equal(a, b) for a, b in zip(run(name), run(before)))
    # a rule keeps no statistics of the features, so a network that begins from it has to gather them
    assert same == (before == "deep" or name not in NETWORKS)


# ---- one step against the paper's equations ---------------------------------


def losses_at(student, parameters, batch):
    """l_i and n_i at other parameters; torch's own functional_call, not the product's swap."""
    names = [n for n, _ in student.module.named_parameters()]
    logits = functional_call(student.module, dict(zip(names, parameters)), (batch[0],), tie_weights=True)
    smoothing = student.label_smoothing
    losses = torch.nn.functional.cross_entropy(logits, batch[1], reduction="none", label_smoothing=smoothing)
    return losses * batch[2], batch[2]


def dev_loss_at(student, parameters):
    losses, n_tokens = losses_at(student, parameters, toy_batch(9, 7))
    return losses.sum() / n_tokens.sum()


def sgd_step(student, parameters, batch, weights):
    losses, n_tokens = losses_at(student, parameters, batch)
    gradients = torch.autograd.grad((weights * losses).sum() / n_tokens.sum(), parameters, create_graph=True)
    return [p - LR * g for p, g in zip(parameters, gradients)]


def meta_weight_net(trainer, parameters, batch, rows):
    """Shu et al. 2019, equations 3 to 5; Fan et al. 2021, equations 2 and 3, K = 1: one network, w = its output."""
    teacher = copy.deepcopy(trainer.teacher)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=trainer.config.lr, weight_decay=trainer.config.weight_decay)
    weights = teacher(rows)[:, 0]
    virtual = sgd_step(trainer.student, parameters, batch, weights.to(parameters[0].dtype))
    dev_loss_at(trainer.student, virtual).backward()
    optimizer.step()
    return weights.detach(), teacher


def learning_to_reweight(trainer, parameters, batch, rows):
    """Ren et al. 2018, algorithm 1, lines 4 to 11."""
    epsilon = torch.zeros(len(batch[0]), dtype=torch.float64, requires_grad=True)
    losses, _ = losses_at(trainer.student, parameters, batch)
    gradients = torch.autograd.grad((epsilon * losses).sum(), parameters, create_graph=True)
    virtual = [p - 0.01 * g for p, g in zip(parameters, gradients)]
    (slope,) = torch.autograd.grad(dev_loss_at(trainer.student, virtual), epsilon)
    raw = torch.clamp(-slope, min=0)
    assert 0 < (raw > 0).sum() < len(raw), "all pairs help, or none: the maximum is not tested"
    return len(raw) * raw / raw.sum(), None  # a mean of 1, because the loss here is a sum over sum n_i


def self_paced(trainer, parameters, batch, rows):
    """Kumar et al. 2010, equation 3: v minimises sum v_i f_i - v_i / K, and 1/K starts where about half are in."""
    losses, n_tokens = losses_at(trainer.student, parameters, batch)
    threshold = 2.4  # the running mean that trainer_of has given
    costs = [[v * float(f) - v * threshold for v in (0, 1)] for f in losses.detach() / n_tokens]
    return torch.tensor([float(c.index(min(c))) for c in costs], dtype=torch.float64), None


REFERENCES = {**dict.fromkeys(NETWORKS, meta_weight_net), "l2r": learning_to_reweight, "self_paced": self_paced}


def test_every_reweighter_has_a_reference():
    assert set(REFERENCES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_one_step_is_the_papers(name):
    trainer, batch = trainer_of(name), toy_batch(8, 4)
    parameters = [p.detach().clone().requires_grad_() for p in trainer.student.module.parameters()]
    before = copy.deepcopy(trainer.teacher.state_dict())
    rows = []
    weigh = trainer.weigh
    trainer.weigh = lambda *a: (rows.append((got := weigh(*a))[0]), got)[1]
    reference = copy.deepcopy(trainer.teacher), trainer.running.loss
    _, step = run_update(trainer, [batch], 0, 0.0)

    trained, trainer.teacher = trainer.teacher, reference[0]
    weights, teacher = REFERENCES[name](trainer, parameters, batch, rows[0])
    assert torch.allclose(step.weights[0], weights.double(), rtol=1e-9)
    for got, want in zip(theta(trainer), sgd_step(trainer.student, parameters, batch, weights)):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-12)
    plain = sgd_step(trainer.student, parameters, batch, torch.ones(8, dtype=torch.float64))
    assert not torch.allclose(theta(trainer)[0], plain[0], rtol=1e-3), "no weight matters: nothing was tested"
    if teacher is not None:
        wanted = teacher.state_dict()
        for key, got in trained.state_dict().items():
            if key.startswith("nets"):
                # AdamW's first step hardly looks at the size of a gradient; its sign and whether it is zero are all
                assert torch.allclose(got, wanted[key].to(got), rtol=1e-4, atol=1e-7), key
        moved = [not torch.equal(before[k], v) for k, v in trained.state_dict().items() if k.startswith("nets")]
        assert any(moved)


# ---- self-paced: its options ------------------------------------------------


def test_the_threshold_of_self_paced_grows():
    trainer = trainer_of("self_paced", start=4, paced_share=0.5, paced_growth=2.0, paced_interval=3)
    seen = []
    for updates in range(12):
        trainer.begin_update(updates)
        seen.append(float(trainer.teacher.threshold))
    assert seen[4:] == [1.2] * 3 + [2.4] * 3 + [4.8] * 2
    assert all(value != value for value in seen[:4])  # there is none yet


def test_self_paced_takes_all_in_the_end():
    trainer = trainer_of("self_paced", start=0, paced_growth=2.0, paced_interval=1)
    assert (weights_of(trainer, toy_batch(40, 3), 10)[1] == 1).all()


def test_self_paced_weighs_pairs_outside_a_training():
    trainer = trainer_of("self_paced")
    losses, w = weights_of(trainer, BATCHES[0])
    rows = trainer.features(losses, BATCHES[0][2], BATCHES[0][2], [])
    assert torch.equal(trainer.teacher(rows)[:, 0].double(), w)


def test_l2r_has_no_weights_outside_a_training():
    with pytest.raises(reweighters.L2RWError, match="--teacher l2r has no network"):
        trainer_of("l2r").teacher(torch.zeros(2, 13))
