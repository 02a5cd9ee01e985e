"""The schedule around each student update, the teacher's step, and what is saved."""

import copy
import gc
import io

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer
from fairseq_l2rw.meta.functional import RandomState
from tests.meta.harness import EXACT, fresh, make_trainer, run_update
from tests.meta.learnable import auc, learnable_batch
from tests.oracles import ToyStudent, dev_objective, toy_batch

BATCHES = [toy_batch(5, 1), toy_batch(4, 2)]


def adam(p):
    return torch.optim.Adam(p, lr=0.05, eps=1e-3)


def trainer_of(**settings):
    return make_trainer(*fresh(adam), **settings)


# ---- schedule ---------------------------------------------------------------


@pytest.mark.parametrize(
    "start, interval, due", [(0, 1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, 2, [3, 5, 7]), (1, 3, [1, 4, 7]), (9, 1, [])]
)
def test_schedule(start, interval, due):
    trainer = trainer_of(start=start, interval=interval)
    teacher = copy.deepcopy(trainer.teacher.nets)
    reported = []
    for t in range(8):
        report, step = run_update(trainer, BATCHES, t, 0.5, updates=t)
        if report is not None:
            reported.append(t)
        ones = all(bool((w == 1).all()) for w in step.weights)
        assert ones == (t < start)
    assert reported == due
    changed = any(not torch.equal(a, b) for a, b in zip(trainer.teacher.nets.parameters(), teacher.parameters()))
    assert changed == bool(due)


def test_nothing_is_kept_for_an_update_that_is_not_due():
    """Neither batches nor a copy of the parameters: plain training costs no memory."""
    trainer = trainer_of(start=5)
    trainer.begin_update(0)
    record(trainer, BATCHES[0])
    trainer.before_step(1.0, 0.5)
    assert trainer._records == [] and trainer.gradients.window.steps == [] and trainer.gradients.window._before is None


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_step_of_the_window_is_copied_once_and_nothing_is_kept_after_an_update(window):
    """Batches and copies of the parameters would stay in memory until the next one."""
    trainer = trainer_of(window=window, interval=window)
    shape, step, noted = trainer.student.module.embedding.weight.shape, trainer.optimizer.step, []

    def alive():  # pieces of memory of that shape, however many tensors see each
        found = [t for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter) and t.shape == shape]
        return len({t.untyped_storage().data_ptr() for t in found})

    gc.collect()
    before = alive()
    for updates in range(1, window + 1):
        run_update(trainer, BATCHES, updates, 0.5, updates)
    assert alive() == before
    trainer.optimizer.step = lambda: (noted.append(alive() - before), step())
    for k in range(window):
        report = run_update(trainer, BATCHES, k, 0.5, window + k + 1)[0]
        assert (report is not None) == (k == window - 1)
    # the parameters before the step to come; of each step before it those, its gradient and two moments
    assert noted == [1 + 4 * k for k in range(window)]
    assert alive() == before
    assert trainer._rows == trainer._records == [] and trainer.gradients.window.steps == [] and trainer.gradients.window._before is None


def test_statistics_are_renewed_by_every_update():
    """Also before the start, and after the weights of the update have been given."""
    trainer = trainer_of(start=100)
    weight, loss = float(trainer.teacher.standardizer.weight), trainer.running.loss
    assert loss is None
    run_update(trainer, BATCHES, 0, 0.0)
    assert float(trainer.teacher.standardizer.weight) > weight and trainer.running.loss is not None
    assert trainer.running.dev_loss is None
    mean = float(torch.cat([b[2] for b in BATCHES]).mean())
    assert trainer.mean_tokens == pytest.approx(mean, rel=1e-6)


def test_progress():
    trainer = trainer_of(max_update=8)
    for updates, progress in ((0, 0.0), (2, 0.25), (8, 1.0), (9, 1.0)):
        trainer.begin_update(updates)
        assert trainer.progress == progress
    assert trainer_of().progress == 0.0


def record(trainer, batch, weigh=None):
    """As a loss function does it; returns the weights."""
    state = RandomState.capture()
    losses, n_tokens = trainer.student.losses(batch)
    internal = trainer.student.module.embedding(batch[0]).mean(1)
    rows, w = trainer.weigh(losses, n_tokens, torch.full_like(n_tokens, 4), [internal])
    trainer.record(batch, rows, w, losses, n_tokens, n_tokens, state)
    (w * losses).sum().backward()
    return w


def finish(trainer, dev=None):
    trainer.before_step()
    trainer.optimizer.step()
    return trainer.after_step(lambda: dev or toy_batch(9, 7))


def test_records_of_an_unfinished_update_are_dropped():
    """An overflow or a lack of memory: the update begins again, and is as if nothing had been."""

    def update(trainer, unfinished):
        if unfinished:
            trainer.begin_update(0)
            torch.manual_seed(9)
            record(trainer, toy_batch(7, 3))
            trainer.before_step()
        trainer.begin_update(0)
        trainer.optimizer.zero_grad()
        torch.manual_seed(1)
        record(trainer, BATCHES[0])
        return finish(trainer)

    want, got = update(trainer_of(), False), update(trainer_of(), True)
    assert len(got.influence) == 5
    assert torch.equal(want.influence, got.influence) and want.gradient_norm == got.gradient_norm


def test_an_update_in_which_nothing_was_recorded():
    """All workers ran out of memory or of data: no teacher update, and the statistics stay."""
    trainer = trainer_of()
    before = copy.deepcopy(trainer.teacher.state_dict())
    trainer.begin_update(0)
    assert finish(trainer) is None and trainer.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trainer.teacher.state_dict().values()))
    assert run_update(trainer, BATCHES, 1, 0.5, updates=1)[0] is not None  # and it goes on


def test_a_dummy_batch_does_not_count():
    trainer = trainer_of()
    before = copy.deepcopy(trainer.teacher.state_dict())
    trainer.begin_update(0)
    record(trainer, BATCHES[0])
    trainer.ignore()
    assert finish(trainer) is None and trainer.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trainer.teacher.state_dict().values()))
    assert run_update(trainer, BATCHES, 1, 0.5, updates=1)[0] is not None  # for one update only


def test_a_dev_batch_that_gives_nothing():
    trainer = trainer_of(objective="contrastive", contrast={"impossible": 0.5, "rotated": 0.5})
    before = copy.deepcopy(trainer.teacher.nets.state_dict())
    assert run_update(trainer, BATCHES, 0, 0.5)[0] is None and trainer.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before.values(), trainer.teacher.nets.state_dict().values()))
    assert run_update(trainer, BATCHES, 1, 0.5, updates=1)[0].head == "rotated"


# ---- weights ----------------------------------------------------------------


def test_the_weight_is_the_product_of_the_heads():
    trainer = trainer_of(objective="contrastive", contrast={"rotated": 0.5, "constant": 0.5})
    losses, n_tokens = trainer.student.losses(BATCHES[0])
    rows, w = trainer.weigh(losses, n_tokens, n_tokens, [torch.zeros(5, 6)])
    heads = trainer.teacher(rows)
    assert heads.shape == (5, 2)
    assert torch.allclose(w, heads[:, 0] * heads[:, 1])
    assert not w.requires_grad and not rows.requires_grad and w.dtype == losses.dtype


@pytest.mark.parametrize("normalization, guarded", [("batch", True), ("tokens", False)])
def test_all_weights_zero(normalization, guarded):
    """It would divide by zero, but only where the weights are in the denominator."""
    trainer = trainer_of(normalization=normalization)
    with torch.no_grad():
        trainer.teacher.nets[0].bias.fill_(-100.0)
    losses, n_tokens = trainer.student.losses(BATCHES[0])
    _, w = trainer.weigh(losses, n_tokens, n_tokens, [torch.zeros(5, 6)])
    assert bool((w == 1).all()) == guarded and bool((w < 1e-20).all()) != guarded


def test_making_a_teacher_draws_nothing_from_the_students_stream():
    student = ToyStudent()
    before = torch.get_rng_state()
    MetaTrainer(student, FeatureLayout((6,)), MetaConfig(objective="loss"))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_whole_teacher_update_draws_nothing_from_it():
    """So the student sees the dropout masks that it would see without a teacher."""

    def draws(learns):
        trainer = trainer_of(start=0 if learns else 99, replay=2, prior_strength=0.1)
        run_update(trainer, BATCHES, 5, 0.5)
        return torch.rand(5)

    assert torch.equal(draws(True), draws(False))


@pytest.mark.parametrize("repeats", [True, False])
def test_a_step_that_cannot_be_repeated_is_announced_once(repeats, caplog):
    """A student that draws random numbers elsewhere: its influences are noisy, and the log says so."""
    trainer = trainer_of()
    losses, elsewhere = trainer.student.losses, torch.Generator().manual_seed(0)

    def noisy(batch):
        values, n_tokens = losses(batch)
        return values * (1 + torch.rand((), generator=elsewhere).double()), n_tokens

    if not repeats:
        trainer.student.losses = noisy
    for t in range(3):
        run_update(trainer, BATCHES, t, 0.5, updates=t)
    assert caplog.text.count("the influence pass does not repeat the student's step") == (not repeats)


# ---- the report -------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
def test_shares_sum_to_the_change_of_the_dev_loss(normalization):
    """sum_i w_i c_i / W is J after the student's step minus J before it, to first order in the learning rate."""
    student = ToyStudent()
    trainer = make_trainer(student, torch.optim.SGD(student.module.parameters(), lr=1e-4), normalization=normalization)
    dev = {None: 1.0}
    before = dev_objective(student, toy_batch(9, 7), dev).item()
    report = run_update(trainer, BATCHES, 3, 0.0)[0]
    change = dev_objective(student, toy_batch(9, 7), dev).item() - before
    assert abs(float(report.shares.sum()) - change) <= 1e-3 * abs(change)
    unweighted = report.shares / report.weights
    assert abs(float(unweighted.sum()) - change) > 1e-2 * abs(change), "the weights made no difference"


def test_ids_of_the_rows_of_a_report():
    """In the order of the rows, micro-batch by micro-batch, step by step of the window; None unless asked for."""
    trainer = trainer_of(window=2, interval=2)
    assert run_update(trainer_of(), BATCHES, 0, 0.5)[0].ids is None
    trainer.identify = lambda batch: batch[0][:, 0] * 100 + batch[0][:, 1]
    run_update(trainer, BATCHES, 0, 0.5, updates=1)
    report = run_update(trainer, BATCHES[::-1], 1, 0.5, updates=2)[0]
    want = [trainer.identify(batch) for batch in [*BATCHES, *BATCHES[::-1]]]
    assert report.ids.tolist() == torch.cat(want).tolist()
    assert len(report.ids) == len(report.weights) == len(report.shares) == len(report.influence)


# ---- the teacher's step -----------------------------------------------------


def test_prior_and_replay_off_give_the_exact_gradient():
    """sum_i dJ/dw_i dw_i^k/d omega, of the head whose turn it is; the other heads are left alone."""
    trainer = trainer_of(objective="contrastive", contrast={"rotated": 0.5, "constant": 0.5})
    run_update(trainer, BATCHES, 0, 0.5)  # turn of the first head
    teacher, seen = copy.deepcopy(trainer.teacher), {}
    weigh, rows = trainer.weigh, []
    trainer.weigh = lambda *a: (rows.append((got := weigh(*a))[0]), got)[1]
    trainer.learner.optimizer.step = lambda: seen.update(
        {n: None if p.grad is None else p.grad.clone() for n, p in trainer.teacher.named_parameters()}
    )
    report = run_update(trainer, BATCHES, 1, 0.5, updates=1)[0]
    assert report.head == "constant"
    loss = (teacher(torch.cat(rows))[:, 1] * report.weight_gradient).sum()
    names, parameters = zip(*[(n, p) for n, p in teacher.named_parameters() if n.startswith("nets.1")])
    for name, want in zip(names, torch.autograd.grad(loss, parameters)):
        assert torch.allclose(seen[name], want, rtol=1e-5, atol=1e-12) and want.abs().max() > 0, name
    assert all(g is None for n, g in seen.items() if n.startswith("nets.0"))


def test_replay_keeps_rows_of_each_head_apart():
    trainer = trainer_of(
        objective="contrastive", contrast={"rotated": 0.5, "constant": 0.5}, replay=2, prior_strength=0.1, replay_rows=20
    )
    sizes = []
    for t in range(10):
        run_update(trainer, BATCHES, t, 0.5, updates=t)
        sizes.append([len(r) for r in trainer.learner.replay])
    assert [s[0] for s in sizes] == [0, 0, 9, 9, 18, 18, 20, 20, 20, 20]  # nothing to scale by in the first turn
    assert [s[1] for s in sizes] == [0, 0, 0, 9, 9, 18, 18, 20, 20, 20]


def test_replay_takes_that_many_steps():
    trainer = trainer_of(replay=7)
    steps, step = [], trainer.learner.optimizer.step
    trainer.learner.optimizer.step = lambda: (steps.append(1), step())
    run_update(trainer, BATCHES, 0, 0.5)
    assert len(steps) == 7


# ---- checkpoints ------------------------------------------------------------

SETTINGS = dict(objective="contrastive", contrast={"rotated": "auto", "constant": 0.3}, momentum=0.8,
                replay=3, replay_rows=30, prior_strength=0.1, max_update=20)  # fmt: skip


def through_a_file(state):
    """As a checkpoint: saved, and read with the safe loader."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def go_on(trainer, first, last):
    return [run_update(trainer, BATCHES, t, 0.5, updates=t)[0] for t in range(first, last)]


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def resumed(one, settings, **changed):
    """A trainer that has read the checkpoint of another, with its student and its optimizer.

    Args:
        settings: as the other one's.
        changed: parts of the teacher's state -> what stands there instead.
    """
    student, optimizer_state = copy.deepcopy(one.student), copy.deepcopy(one.optimizer.state_dict())
    state = through_a_file(one.state_dict())
    optimizer = adam(student.module.parameters())
    optimizer.load_state_dict(optimizer_state)
    other = make_trainer(student, optimizer, **settings)
    other.load_state_dict({**state, **changed})
    return other


#: dropping any of these must be noticed
PARTS = ("teacher", "teacher_optimizer", "objective", "replay", "running", "mean_tokens")


@pytest.mark.parametrize(
    "objective, dropped",
    [("contrastive", None), ("loss", None), *(("contrastive", part) for part in PARTS), ("loss", "influence_square")],
)
def test_resuming_goes_on_bit_exactly(objective, dropped):
    """Student and teacher; and not where a part of the state is forgotten (the negative controls)."""
    settings = {**SETTINGS, "objective": objective}
    one = trainer_of(**settings)
    go_on(one, 0, 7)
    fresh_state = trainer_of(**settings).state_dict()
    other = resumed(one, settings, **({dropped: 1.0 if dropped == "mean_tokens" else fresh_state[dropped]} if dropped else {}))
    wanted, got = go_on(one, 7, 11), go_on(other, 7, 11)
    same = equal(one.state_dict(), other.state_dict()) and all(
        torch.equal(a, b) for a, b in zip(one.student.module.parameters(), other.student.module.parameters())
    )
    assert same == (dropped is None)
    if dropped is None:
        for a, b in zip(wanted, got):
            assert (a.head, a.meta_loss, a.gradient_norm) == (b.head, b.meta_loss, b.gradient_norm)
            assert torch.equal(a.influence, b.influence)


@pytest.mark.parametrize(
    "changed",
    [
        {"contrast": {"rotated": "auto"}},  # fewer heads
        {"contrast": {"constant": 0.3, "rotated": "auto"}},  # another order
        {"contrast": {"rotated": "auto", "impossible": 0.3}},  # as many, but another one
        {"objective": "loss"},
    ],
)
def test_the_state_of_other_heads(changed):
    state = trainer_of(**SETTINGS).state_dict()
    with pytest.raises(L2RWError, match="the teacher in the checkpoint does not fit .*--meta-contrast") as caught:
        trainer_of(**{**SETTINGS, **changed}).load_state_dict(state)
    assert "\n" not in str(caught.value)
    other = trainer_of(**{**SETTINGS, "contrast": {"rotated": 0.1, "constant": "auto"}})
    other.load_state_dict(state)  # another alpha is no other teacher


@pytest.mark.parametrize(
    "layout, options", [((6,), {"hidden": 5}), ((7,), {"hidden": 4}), ((6,), {"hidden": 4, "inputs": ("surface",)})]
)
def test_the_state_of_another_network(layout, options):
    config = MetaConfig(**{**EXACT, **SETTINGS})
    trainer = MetaTrainer(ToyStudent(), FeatureLayout(layout), config, **options)
    with pytest.raises(L2RWError, match="--teacher-inputs, .*--teacher-hidden-dim"):
        trainer.load_state_dict(trainer_of(**SETTINGS).state_dict())


def test_finite_differences_stay_announced():
    """A student without forward mode: what was found out once is kept."""
    one, other = trainer_of(), trainer_of()
    one.gradients.mode = "finite-difference"
    other.load_state_dict(one.state_dict())
    assert other.gradient_mode == "finite-difference"


# ---- something is learnt ----------------------------------------------------


def learn(start, updates=150, dev_wrong=0.0, **settings):
    """AUC, on new examples, of the weight as a detector of right labels; 40 % of the labels are wrong."""
    student = ToyStudent(dropout=0.1)
    optimizer = torch.optim.Adam(student.module.parameters(), lr=0.01)
    config = MetaConfig(contrast={"rotated": 0.5}, start=start, lr=0.01, **settings)
    trainer = MetaTrainer(student, FeatureLayout((6, 6)), config, hidden=16)
    trainer.attach(optimizer)
    module = student.module

    def weigh(batch):
        losses, n_tokens = student.losses(batch)
        internal = [module.embedding(batch[0]).mean(1), module.embedding(batch[1])]
        return losses, n_tokens, trainer.weigh(losses, n_tokens, torch.full_like(n_tokens, 4), internal)

    torch.manual_seed(0)
    for t in range(updates):
        trainer.begin_update(t)
        optimizer.zero_grad()
        batch, _ = learnable_batch(32, t, wrong=0.4)
        state = RandomState.capture()
        losses, n_tokens, (rows, w) = weigh(batch)
        trainer.record(batch, rows, w, losses, n_tokens, n_tokens, state)
        ((w * losses).sum() / n_tokens.sum()).backward()
        trainer.before_step()
        optimizer.step()
        trainer.after_step(lambda: learnable_batch(32, 10_000 + t, wrong=dev_wrong)[0])
    module.eval()
    trainer.updates = max(updates, start)
    batch, is_wrong = learnable_batch(400, 99_999, wrong=0.4)
    w = weigh(batch)[2][1]
    return auc(w, ~is_wrong), float(w[~is_wrong].mean()), float(w[is_wrong].mean())


def test_a_trained_teacher_finds_the_wrong_labels():
    found, right, wrong = learn(start=20)
    assert found > 0.9
    assert right > 0.7 and wrong < 0.5


def test_an_untrained_teacher_does_not():  # negative control
    found, right, wrong = learn(start=150)
    assert found == 0.5
    assert right == wrong == pytest.approx(0.95)


def test_a_dev_set_of_noise_does_not_teach():  # negative control: it is the dev set that tells
    assert learn(start=20, dev_wrong=1.0)[0] < 0.8
