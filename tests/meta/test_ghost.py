"""The influence from the training's own backward pass, against one autograd pass for each example, in float64."""

import copy
import importlib.util
import logging

import pytest
import torch
from torch import nn

from fairseq_l2rw.meta import hypergradient
from fairseq_l2rw.meta.functional import trainable
from fairseq_l2rw.meta.ghost import SMALLEST_WEIGHT, Ghost
from tests.meta.harness import fresh, make_trainer, run_update
from tests.meta.test_influence import FORWARD, NO_FORWARD, fairseq_student
from tests.oracles import ToyStudent, toy_batch


@pytest.fixture(autouse=True)
def double_softmax(monkeypatch):
    if importlib.util.find_spec("fairseq"):
        from fairseq import utils

        monkeypatch.setattr(utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim=dim))


class Plain:
    """An ordinary torch model; a batch is what it takes, the loss of an example the mean of squares of what it gives."""

    def __init__(self, *layers):
        torch.manual_seed(0)
        self.module = nn.Sequential(*layers).double()

    def losses(self, batch):
        y = self.module(batch)
        return y.square().flatten(1).mean(1), torch.ones(len(y))


class TimeFirst(nn.Module):
    """``[N, T, C]`` -> ``[T, N, C]`` and back around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Rows(nn.Module):
    """Examples and times in one axis around a layer."""

    def __init__(self, layer, time_first):
        super().__init__()
        self.layer, self.time_first = layer, time_first

    def forward(self, x):
        x = x.transpose(0, 1) if self.time_first else x
        y = self.layer(x.reshape(-1, x.shape[-1])).view(*x.shape[:2], -1)
        return y.transpose(0, 1) if self.time_first else y


def plain(shape, *make):
    def student():
        return Plain(*(m() for m in make)), torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()

    return student


def attention(batch_first):
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2, batch_first=batch_first)


COVERED = {
    **FORWARD,
    "linear": plain((5, 3), lambda: nn.Linear(3, 7), nn.Tanh, lambda: nn.Linear(7, 2, bias=False)),
    "in-place": plain((5, 4, 3), lambda: nn.Linear(3, 7), lambda: nn.ReLU(inplace=True), lambda: nn.Linear(7, 2)),
    "convolutions": plain(
        (5, 2, 6, 6), lambda: nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.ReLU,
        lambda: nn.Conv2d(3, 4, 2, stride=2, groups=1), nn.Flatten, lambda: nn.Linear(36, 2),
    ),
    "convolution-1d": plain((5, 2, 6), lambda: nn.Conv1d(2, 3, 3), nn.Tanh, lambda: nn.Conv1d(3, 2, 1)),
    "examples-first": plain((5, 3, 8), lambda: attention(True)),
    "time-first": plain((5, 3, 8), lambda: TimeFirst(attention(False))),
    "as-many-times-as-examples": plain((4, 4, 8), lambda: TimeFirst(attention(False)), lambda: attention(True)),
    "one-example": plain((1, 3, 8), lambda: TimeFirst(attention(False))),
    "one-axis-time-first": plain((5, 3, 4), lambda: Rows(nn.Linear(4, 6), True), lambda: Rows(nn.LayerNorm(6), False)),
    "as-many-features-as-examples": plain((4, 4, 4), lambda: Rows(nn.Linear(4, 4), True), lambda: nn.Linear(4, 4)),
}  # fmt: skip


def prepared(make, scale=1e-3):
    """student, batch, names, parameters, v, weights, c of every example by autograd, gradient of sum w_i l_i."""
    student, batch = make()
    student.module.train()
    named = trainable(student.module)
    names, parameters = list(named), list(named.values())
    vector = [scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype)
              for i, p in enumerate(parameters)]  # fmt: skip
    torch.manual_seed(7)
    losses, _ = student.losses(batch)
    weights = torch.rand(len(losses), generator=torch.Generator().manual_seed(3), dtype=losses.dtype) + 0.1
    want = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        want.append(sum(float((g * v).sum()) for g, v in zip(gradients, vector) if g is not None))
    gradient = torch.autograd.grad((weights * losses).sum(), parameters, allow_unused=True)
    return student, batch, names, parameters, vector, weights, torch.tensor(want, dtype=torch.float64), gradient


def haunted(student, batch, names, parameters, vector, weights, axes=None, seed=7, known=True, dtype=None):
    """The ghost of a pass, after its backward pass."""
    ghost = Ghost(names, parameters, {} if axes is None else axes, vector if known else None, dtype)
    torch.manual_seed(seed)
    with ghost:
        losses, _ = student.losses(batch)
    ghost.attach(losses)
    for p in parameters:
        p.grad = None
    (0.3 * (weights * losses).sum()).backward()
    return ghost


def close(c, want):
    return torch.allclose(c, want, rtol=1e-8, atol=1e-8 * float(want.abs().max()))


@pytest.mark.parametrize("name", COVERED)
def test_exact(name):
    """With uneven weights; with v given before or after, when the axes of the examples are known; nothing is left that holds memory."""
    *arguments, want, _ = prepared(COVERED[name])
    axes = {}
    for known in (True, False):
        ghost = haunted(*arguments, axes, known=known)
        uses = list(ghost.uses)
        assert all((use.product is None) == known and bool(use.deltas) != known for use in uses)
        assert not ghost.problems
        assert close(ghost.influence(None if known else arguments[4]), want)
        assert not (ghost.tracked or ghost.tangents or ghost.uses)
    names, parameters = arguments[2:4]
    assert all(id(p) in ghost.seen for p in parameters)
    assert float(ghost.along()) == pytest.approx(0.3 * float((arguments[-1] * want).sum()), rel=1e-8)
    assert len(want) == 1 or want.unique().numel() == len(want)


@pytest.mark.parametrize("name", COVERED)
def test_products_in_bfloat16(name):
    """Nearly the same, but not quite: they really are made in it."""
    *arguments, want, _ = prepared(COVERED[name])
    for known in (True, False):
        ghost = haunted(*arguments, known=known, dtype=torch.bfloat16)
        waiting = [t for use in ghost.uses if use.deltas for t in (*use.deltas, use.input.tensor)]
        assert all(t.dtype == torch.bfloat16 for t in waiting if t.is_floating_point()) and bool(waiting) != known
        c = ghost.influence(None if known else arguments[4])
        assert c.dtype == torch.float64 and 1e-6 < float((c - want).norm() / want.norm()) < 0.02


def test_an_input_of_several_uses_is_kept_once():
    """As that of queries, keys and values."""
    ghost = haunted(*prepared(COVERED["transformer"])[:-2], known=False, dtype=torch.bfloat16)
    kept = [use.input.tensor for use in ghost.uses if use.deltas]
    assert len({t.data_ptr() for t in kept}) < len(kept)


def test_some_parameters_only():
    """The direction is zero for all others."""
    student, batch, names, parameters, vector, weights, _, _ = prepared(COVERED["transformer-all-embeddings-shared"])
    few = [v if i < 3 else torch.zeros_like(v) for i, v in enumerate(vector)]
    want = prepared(COVERED["transformer-all-embeddings-shared"])[-2]
    rest = [v - f for v, f in zip(vector, few)]
    first = haunted(student, batch, names[:3], parameters[:3], few[:3], weights).influence()
    second = haunted(student, batch, names[3:], parameters[3:], rest[3:], weights).influence()
    assert close(first + second, want) and not close(first, want) and not close(second, want)


@pytest.mark.parametrize("wrong", ["direction", "masks", "axis"])
def test_what_is_wrong_is_noticed(wrong):  # negative controls
    from fairseq_l2rw.meta.ghost import _Axis

    student, batch, names, parameters, vector, weights, want, _ = prepared(COVERED["as-many-times-as-examples"])
    axes, seed = {}, 7
    if wrong == "direction":
        vector = [-vector[0], *vector[1:]]
    if wrong == "masks":
        seed = 8
    if wrong == "axis":
        haunted(student, batch, names, parameters, vector, weights, axes)
        key = next(k for k, a in axes.items() if a == _Axis(1, False))
        axes[key] = _Axis(0, False)
    assert not close(haunted(student, batch, names, parameters, vector, weights, axes, seed).influence(), want)


@pytest.mark.parametrize("name", ["toy", "transformer", "transformer-all-embeddings-shared", "in-place", "time-first"])
@pytest.mark.parametrize("double", [True, False])
def test_the_gradient_is_the_same_to_the_bit(name, double):
    def cast():
        student, batch = COVERED[name]()
        if not double:
            student.module.float()
            batch = batch.float() if isinstance(batch, torch.Tensor) else batch
            if name == "toy":
                batch = (*batch[:2], batch[2].float())
        return student, batch

    student, batch, names, parameters, vector, weights, _, _ = prepared(cast)

    def gradients(ghost):
        torch.manual_seed(7)
        with ghost or torch.enable_grad():
            losses, _ = student.losses(batch)
        if ghost:
            ghost.attach(losses)
        out = torch.autograd.grad((weights * losses).sum(), parameters)
        return [*out, losses.detach(), torch.rand(3)]  # and the stream of random numbers goes on alike

    ghost = Ghost(names, parameters, {}, vector)
    want, got = gradients(None), gradients(ghost)
    assert ghost.influence().any()
    assert all(torch.equal(a, b) for a, b in zip(want, got))


@pytest.mark.parametrize("weight", [SMALLEST_WEIGHT, 1.0])
def test_a_tiny_weight_costs_no_accuracy(weight):
    """In single precision."""
    make = fairseq_student("transformer", double=False)
    *arguments, weights, want, _ = prepared(make)
    weights[1] = weight
    c = haunted(*arguments, weights).influence().double()
    assert float((c - want).norm() / want.norm()) < 1e-3


def test_no_gradient_no_influence():
    *arguments, weights, want, _ = prepared(COVERED["linear"])
    weights[1] = 0.0
    c = haunted(*arguments, weights).influence()
    assert c[1] == 0 and c[0] != 0


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x * self.scale


NOT_COVERED = {
    "lstm": (NO_FORWARD["lstm"], "lstm"),
    "fconv": (fairseq_student("fconv"), "_weight_norm"),
    "batch-norm": (plain((5, 3), lambda: nn.BatchNorm1d(3)), "0.bias, 0.weight in batch_norm"),
    "mixed": (plain((5, 3), lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3, affine=False)), "it mixes the examples"),
    "product": (plain((5, 3), Scaled), "0.scale in mul"),
}


@pytest.mark.parametrize("name", NOT_COVERED)
def test_not_covered(name):
    make, says = NOT_COVERED[name]
    *arguments, _, _ = prepared(make)
    assert any(says in problem for problem in haunted(*arguments).problems)


# ---- under a trainer --------------------------------------------------------


def adam(p):
    return torch.optim.Adam(p, lr=0.05, eps=1e-3)


BATCHES = [toy_batch(5, 1), toy_batch(4, 2)]


def test_the_trainer_reads_the_influence_of_the_vector_that_it_had():
    """One update later, over micro-batches, whatever the loss is scaled with."""
    student, optimizer = fresh(adam)
    trainer = make_trainer(student, optimizer, gradient="ghost", momentum=0.5)
    assert run_update(trainer, BATCHES, 1, 0.0, updates=0)[0] is None and trainer.skipped == 0  # it only looks ahead
    vector, before = trainer.gradients.ahead.vector, copy.deepcopy(student.module.state_dict())
    report, step = run_update(trainer, BATCHES, 2, 0.0, updates=1)
    student.module.load_state_dict(before)
    torch.manual_seed(2)
    want = []
    for batch in BATCHES:
        for loss in student.losses(batch)[0]:
            gradients = torch.autograd.grad(loss, trainer.parameters, retain_graph=True)
            want.append(clipping_dot(gradients, vector))
    want = torch.tensor(want, dtype=torch.float64)
    assert close(report.influence, want) and want.abs().max() > 1e-4
    assert trainer.gradients.reader.ghosts == [] and trainer.gradients.window.steps == []
    # and the newest vector is another one
    assert not any(torch.equal(a, b) for a, b in zip(vector, trainer.gradients.ahead.vector))


def clipping_dot(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b))


@pytest.mark.parametrize("max_norm", [0.0, 0.05])
@pytest.mark.parametrize("normalization", ["tokens", "batch"])
def test_backward_is_as_exact_as_forward(max_norm, normalization):
    """From the first update on, over micro-batches; some parameters only as well."""
    student, optimizer = fresh(adam)
    for params in ("", "inner"):
        reports, settings = {}, dict(normalization=normalization, params=params)
        for gradient in ("backward", "forward"):
            trainer = make_trainer(*copy.deepcopy((student, optimizer)), gradient=gradient, **settings)
            reports[gradient] = run_update(trainer, BATCHES, 1, max_norm, updates=0)[0]
            assert trainer.gradient_mode == gradient and trainer.gradients.reader.ghosts == []
        assert close(reports["backward"].influence, reports["forward"].influence)
        assert reports["backward"].gradient_norm == pytest.approx(reports["forward"].gradient_norm, rel=1e-6)


def test_parameters_are_copied_until_backward_is_known_to_do():
    """And those that the rule reads always: Adam's coupled decay."""
    for decay in (0.0, 0.1):
        student, optimizer = fresh(lambda p: torch.optim.Adam(p, lr=0.05, eps=1e-3, weight_decay=decay))
        trainer, copied = make_trainer(student, optimizer, gradient="backward"), []
        after = trainer.gradients.window.after_step

        def noted(records):
            step = trainer.gradients.window._before["parameters"]
            copied.append(all(t.data_ptr() != p.data_ptr() for t, p in zip(step, trainer.parameters)))
            after(records)

        trainer.gradients.window.after_step = noted
        for k in range(2):
            run_update(trainer, BATCHES, k, 0.05, updates=k)
        assert copied == [True, decay > 0]


def test_a_batch_that_cannot_be_read_costs_one_update():
    """Where the parameters were not copied any more; forward mode comes after that."""
    student, optimizer = fresh(adam)
    trainer = make_trainer(student, optimizer, gradient="backward")
    assert run_update(trainer, BATCHES, 0, 0.0, updates=0)[0] is not None
    module = student.module
    inner = module.inner.forward
    module.inner.forward = lambda x: inner(x) + 0 * (module.inner.weight * module.inner.weight).sum()
    assert run_update(trainer, BATCHES, 1, 0.0, updates=1)[0] is None
    assert trainer.skipped == 1 and trainer.gradient_mode == "forward" and trainer.gradients.window.copies
    assert run_update(trainer, BATCHES, 2, 0.0, updates=2)[0] is not None


def test_one_dev_gradient_may_serve_several_updates():
    """With the optimizer's newest state each time."""
    student, optimizer = fresh(adam)
    trainer, calls, served, kept = make_trainer(student, optimizer, gradient="ghost", dev_interval=3), [], [], []
    gradient = trainer.gradients.dev_gradient
    trainer.gradients.dev_gradient = lambda *arguments: calls.append(trainer.updates) or gradient(*arguments)
    for k in range(7):
        run_update(trainer, BATCHES, k, 0.0, updates=k)
        served.append(trainer.gradients.ahead)
        kept.append(bool(trainer.gradients.ahead.dev.adjoint))
    assert calls == [0, 3, 6] and [a.turns for a in served] == [1, 2, 3, 1, 2, 3, 1]
    assert served[0].dev is served[1].dev and kept[:3] == [True, True, False]
    for k in range(2):
        assert not any(torch.equal(a, b) for a, b in zip(served[k].vector, served[k + 1].vector))


def test_without_clipping_and_change_it_is_exact():
    """SGD's rule has no state: the same dev batch at the same parameters gives the exact hypergradient."""
    student, optimizer = fresh(lambda p: torch.optim.SGD(p, lr=1e-9))
    reports = {}
    for gradient in ("ghost", "forward"):
        trainer = make_trainer(*copy.deepcopy((student, optimizer)), gradient=gradient)
        run_update(trainer, BATCHES, 1, 0.0, updates=0)
        reports[gradient] = run_update(trainer, BATCHES, 2, 0.0, updates=1)[0].weight_gradient
    assert float((reports["ghost"] - reports["forward"]).norm() / reports["forward"].norm()) < 1e-6


def test_an_active_clipping_takes_the_common_part_out():
    student, optimizer = fresh(adam)
    for max_norm, zero in ((0.01, True), (1e3, False)):
        trainer = make_trainer(*copy.deepcopy((student, optimizer)), gradient="ghost")
        run_update(trainer, BATCHES, 1, max_norm, updates=0)
        report, step = run_update(trainer, BATCHES, 2, max_norm, updates=1)
        total = (torch.cat(step.weights) * report.influence).sum() / report.influence.abs().sum()
        assert (abs(float(total)) < 1e-9) == zero


def test_entries_that_never_had_a_gradient_do_not_count():
    """And those whose moment has faded are held back."""
    p = torch.nn.Parameter(torch.ones(3).double())
    optimizer = torch.optim.Adam([p], lr=0.1, eps=1e-8)
    from fairseq_l2rw.meta.linearize import rule_for
    from fairseq_l2rw.meta.window import Window

    rule = rule_for(optimizer)
    for k in range(2):
        window = Window(1, rule, optimizer, [p], keep_earlier=False)
        p.grad = torch.tensor([1.0, 0.0, 1e-6 if k else 0.0]).double()
        window.before_step(None, 0.0)
        optimizer.step()
        window.after_step([])
    (v,) = hypergradient.StepVector(rule, window.steps[0], ahead=True)([torch.ones(3).double()])
    (now,) = hypergradient.StepVector(rule, window.steps[0])([torch.ones(3).double()])
    assert v[1] == 0 != v[0] and 0 < abs(float(v[2])) < 1e-2 * abs(float(now[2]))


class Unseen(torch.autograd.Function):
    """Uses a parameter where nobody can see it."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad * weight, (grad * x).sum(0)


@pytest.mark.parametrize("mode", ["ghost", "backward"])
@pytest.mark.parametrize("how", ["not covered", "unseen"])
def test_forward_mode_takes_its_place(how, mode, caplog):
    """With ``backward`` in that very update."""
    student, _ = fresh(adam)
    module = student.module
    module.scale = nn.Parameter(torch.ones(6).double())
    inner = module.inner.forward
    module.inner.forward = lambda x: Unseen.apply(inner(x), module.scale) if how == "unseen" else inner(x) * module.scale
    trainer = make_trainer(student, adam(student.module.parameters()), gradient=mode)
    with caplog.at_level(logging.WARNING):
        reports = [run_update(trainer, BATCHES, k, 0.0, updates=k)[0] for k in range(3)]
    assert [r is not None for r in reports] == ([False, False, True] if mode == "ghost" else [True] * 3)
    assert trainer.skipped == (mode == "ghost")
    instead = "forward" if how == "not covered" else "finite-difference"  # that function has no forward mode either
    assert trainer.gradient_mode == instead and trainer.gradients.ahead is None
    assert caplog.text.count(f"--meta-gradient {mode} does not cover scale") == 1 and "forward takes its place" in caplog.text
    again = make_trainer(student, trainer.optimizer, gradient=mode)
    again.load_state_dict(trainer.state_dict())
    assert again.gradient_mode == instead and again.gradients.window.copies


def test_a_pass_that_was_not_watched_is_an_error():
    from fairseq_l2rw.errors import L2RWError
    from tests.meta.test_trainer import record

    trainer = make_trainer(*fresh(adam), gradient="ghost")
    run_update(trainer, BATCHES, 1, 0.0, updates=0)
    trainer.begin_update(1)
    with pytest.raises(L2RWError, match="meta.watched"):
        record(trainer, BATCHES[0])


@pytest.mark.parametrize("dev_interval", [1, 3])
@pytest.mark.parametrize("keep", [True, False])
def test_saved_and_read_it_goes_on_alike(keep, dev_interval):
    student, optimizer = fresh(adam)
    trainer = make_trainer(student, optimizer, gradient="ghost", dev_interval=dev_interval)
    run_update(trainer, BATCHES, 1, 0.05, updates=0)
    state, (student, optimizer) = copy.deepcopy((trainer.state_dict(), (student, optimizer)))
    want = [run_update(trainer, BATCHES, 2 + k, 0.05, updates=1 + k)[0].weight_gradient for k in range(2)]
    again = make_trainer(*copy.deepcopy((student, optimizer)), gradient="ghost", dev_interval=dev_interval)
    again.load_state_dict({**state, "ahead": state["ahead"] if keep else None})
    got = [run_update(again, BATCHES, 2 + k, 0.05, updates=1 + k)[0] for k in range(2)]
    assert all(g is not None and torch.equal(g.weight_gradient, w) for g, w in zip(got, want)) == keep


def test_weights_have_a_floor():
    trainer = make_trainer(*fresh(adam), gradient="ghost", normalization="tokens")
    with torch.no_grad():
        trainer.teacher.nets[0].bias.fill_(-100.0)
    losses, n_tokens = ToyStudent().losses(BATCHES[0])
    w = trainer.weigh(losses, n_tokens, n_tokens, [torch.zeros(5, 6)])[1]
    assert (w == SMALLEST_WEIGHT).all()
