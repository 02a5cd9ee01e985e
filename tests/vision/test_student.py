"""BatchNorm: the influence pass repeats the step, and leaves no trace."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch

from fairseq_l2rw.meta import (
    FeatureLayout,
    MetaConfig,
    MetaTrainer,
    RandomState,
    functional,
)
from fairseq_l2rw.meta.functional import evaluating
from fairseq_l2rw.meta.objective import Objective
from fairseq_l2rw.meta.one_pass_objective import OnePassObjective
from fairseq_l2rw.meta.records import BatchRecord
from fairseq_l2rw.meta.train_scale import FIRST, TrainScale
from fairseq_l2rw.vision.average import averaged
from fairseq_l2rw.vision.discriminant import Discriminant
from fairseq_l2rw.vision.student import Batch, ImageStudent, own_statistics
from tests.vision.harness import normed

EXACT = dict(objective="loss", momentum=0.0, replay=0, prior_strength=0.0, start=0)


def batch(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(n, 1, 4, 4, generator=generator).double(), torch.randint(0, 4, (n,), generator=generator))


def student(dropout=0.3, **options):
    torch.manual_seed(0)
    made = ImageStudent(normed(1, 4, 4, dropout).double(), **options)
    made.module.train()
    for seed in range(3):  # running statistics of their own
        made.losses(batch(7, seed))
    return made


def statistics(module):
    return {name: b.clone() for name, b in module.named_buffers()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def update(made, gradient="forward", window=1):
    """One student update; returns the report, the step's losses, and the statistics right after the forward pass."""
    optimizer = torch.optim.SGD(made.module.parameters(), lr=0.1, momentum=0.9)
    core = MetaTrainer(made, FeatureLayout((16,)), MetaConfig(gradient=gradient, window=window, **EXACT))
    core.attach(optimizer)
    for step in range(window):
        core.begin_update(step)
        torch.manual_seed(step)
        state, data = RandomState.capture(), batch(6, 50 + step)
        losses, features = made.outputs(data)
        rows, weights = core.weigh(losses, torch.ones(6), torch.ones(6), [features])
        ones = torch.ones(6, dtype=torch.float64)
        core.record(data, rows, weights, losses, ones, ones, state)
        optimizer.zero_grad()
        (weights * losses).mean().backward()
        before = statistics(made.module)
        core.before_step()
        optimizer.step()
        report = core.after_step(lambda: batch(5, 99))
    return report, losses.detach(), before


@pytest.mark.parametrize(("gradient", "window"), [("forward", 1), ("forward", 2), ("finite-difference", 1), ("unrolled", 1)])
def test_running_statistics_are_left_alone(gradient, window):
    made = student()
    report, _, before = update(made, gradient, window)
    assert report is not None
    assert same(before, statistics(made.module))
    assert made.module.training and all(m.training for m in made.module.modules())


def test_the_test_above_can_fail(monkeypatch):  # negative control
    @contextmanager
    def tracked(module):
        yield

    monkeypatch.setattr(functional, "untracked", tracked)
    made = student()
    _, _, before = update(made, "finite-difference")
    assert not same(before, statistics(made.module))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_influence_is_that_of_the_step(dropout):
    """Against a graph of the gradient through training-mode BatchNorm; the running statistics would give others."""
    made = student(dropout)
    theta = [p.detach().clone() for p in made.module.parameters()]
    exact, losses, _ = update(made, "forward")
    oracle, _, _ = update(student(dropout), "unrolled")
    assert torch.allclose(exact.influence, oracle.influence, rtol=1e-8, atol=1e-12)
    with torch.no_grad(), functional.swapped(made.module, list(made.module.parameters()), theta):
        torch.manual_seed(0)
        assert torch.equal(made.losses(batch(6, 50))[0], losses)  # statistics of the step's own batch
        with evaluating(made.module):
            assert not torch.allclose(made.losses(batch(6, 50))[0], losses, rtol=1e-3)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_statistics_of_a_dev_batch(mode):
    made = student(dev_batchnorm=mode)
    before, data = statistics(made.module), batch(9, 4)
    with evaluating(made.module):  # as the method calls it
        got = made.dev_loss(data)
    assert same(before, statistics(made.module)) and made.module.training
    norm = made.module.body[1]
    features = made.module.body[0](data.images)
    mean, var = (
        (norm.running_mean, norm.running_var)
        if mode == "running"
        else (features.mean((0, 2, 3)), features.var((0, 2, 3), correction=0))
    )
    shape = (1, -1, 1, 1)
    hidden = (features - mean.view(shape)) / (var.view(shape) + norm.eps).sqrt() * norm.weight.view(shape) + norm.bias.view(shape)
    pooled = torch.nn.functional.adaptive_avg_pool2d(hidden.relu(), 2).flatten(1)  # no dropout
    want = torch.nn.functional.cross_entropy(made.module.head(pooled), data.labels)
    assert torch.allclose(got, want, rtol=1e-10)


def test_spoilt_dev_batch():
    made, data = student(), batch(5, 1)
    for seed in range(8):
        spoilt = made.corrupt(data, "mislabelled", seed)
        assert spoilt.images is data.images
        assert any(torch.equal(spoilt.labels, data.labels.roll(k)) for k in range(1, 5))
    assert made.corrupt(batch(1, 1), "mislabelled", 0) is None


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_confused_labels_are_drawn_from_what_the_student_takes_the_images_for(mode):
    made, data = student(dev_batchnorm=mode), batch(5, 3)
    before = statistics(made.module)
    drawn = torch.stack([made.corrupt(data, "confused", seed).labels for seed in range(4000)])
    assert same(before, statistics(made.module)), "the dev pass alone may look, and leaves no trace"
    with evaluating(made.module), own_statistics(made.module) if mode == "batch" else nullcontext():
        p = made.module(data.images)[0].softmax(1).detach()
    for i, label in enumerate(data.labels.tolist()):
        want = p[i].clone()
        want[label] = 0
        share = torch.bincount(drawn[:, i], minlength=4).double() / len(drawn)
        assert share[label] == 0
        assert torch.allclose(share, want / want.sum(), atol=0.04)
    assert torch.equal(made.corrupt(data, "confused", 7).labels, drawn[7])


@pytest.mark.parametrize("mode", ["batch", "running"])
def test_confused_labels_are_drawn_from_the_dev_pass_where_there_was_one(mode):
    made, data, calls = student(dev_batchnorm=mode), batch(5, 3), []
    want = made.corrupt(data, "confused", 7).labels
    made.losses(batch(6, 4))
    with evaluating(made.module):
        made.examine(data)
    made.module.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(made.corrupt(data, "confused", 7).labels, want) and not calls
    made.corrupt(batch(5, 3), "confused", 7)
    assert calls


def test_shares_make_the_whole():
    assert student(dev_batchnorm="batch").share(batch(7, 1), 0, 3) is None, "BatchNorm needs all of them"
    made, data = student(dev_batchnorm="running"), batch(7, 1)
    parts = [made.share(data, rank, 3) for rank in range(3)]
    assert sum(share for _, share in parts) == pytest.approx(1)
    with evaluating(made.module):
        whole = made.dev_loss(data)
        assert torch.allclose(sum(made.dev_loss(part) * share for part, share in parts), whole)
    assert made.share(batch(2, 1), 2, 3) is None


def test_states_against_a_loop():
    """Features, the row of the given label, its cosine with the features, and the highest with another label's row."""
    made, data = student(), batch(5, 9)
    features = made.outputs(data)[1]
    blocks = made.states(data, features)
    assert tuple(block.shape[1] for block in blocks) == made.widths
    assert not any(block.requires_grad for block in blocks)
    rows = made.module.head.weight.detach()
    for i, label in enumerate(data.labels.tolist()):
        cosines = [float(torch.nn.functional.cosine_similarity(features[i].detach(), row, dim=0)) for row in rows]
        own = cosines.pop(label)
        assert torch.allclose(blocks[0][i], features[i].detach().float())
        assert torch.equal(blocks[1][i], rows[label].float())
        assert blocks[2][i].tolist() == pytest.approx([own, max(cosines)], abs=1e-6)


def test_states_of_an_average():
    """The average's own pass in evaluation mode, with its own classifier; the image is looked at once until the student steps."""
    made, data = student(), batch(5, 9)
    features = made.outputs(data)[1]
    made.average = averaged(made.module, 0.9)
    with torch.no_grad():
        for p in made.module.parameters():
            p.add_(0.1)
    with evaluating(made.average.module):
        expected = made.average.module(data.images)[1].float()
    looks = []
    made.average.register_forward_hook(lambda *_: looks.append(1))
    of_average, rows, _ = made.states(data, features)
    assert torch.allclose(of_average, expected) and not torch.allclose(of_average, features.float())
    assert torch.equal(rows, made.average.module.head.weight[data.labels].float())
    spoilt = made.corrupt(data, "mislabelled", 1)
    assert torch.equal(made.states(spoilt, features)[0], of_average) and len(looks) == 1
    made.stepped()
    later = made.states(data, features)[0]
    assert len(looks) == 2
    with evaluating(made.average.module):
        assert torch.allclose(later, made.average.module(data.images)[1].float()) and not torch.allclose(later, of_average)


def test_states_with_a_discriminant():
    """Behind the cosines log p of the label and the highest of another; it learns true labels, once, after a dev batch was judged."""
    made, data = student(dev_batchnorm="running"), batch(40, 9)
    features = made.outputs(data)[1]
    plain = made.states(data, features)
    made.discriminant = Discriminant(16, 4, 0.9)
    assert made.widths == (16, 16, 4)
    made.states(data, features)
    made.learn_trusted()
    assert not made.discriminant.known, "training images teach it nothing"
    dev = replace(data, index=torch.arange(40), truth=data.labels)
    spoilt = made.corrupt(dev, "mislabelled", 1)
    assert torch.equal(spoilt.truth, data.labels) and torch.equal(spoilt.index, dev.index)
    made.states(dev, features), made.states(spoilt, features)
    assert not made.discriminant.known, "not before both have been judged"
    made.learn_trusted(), made.learn_trusted()
    want = Discriminant(16, 4, 0.9)
    want.learn(features.detach().float(), data.labels, dev.index)
    for asked, index in ((data, None), (dev, dev.index), (spoilt, dev.index)):
        blocks, log_p = made.states(asked, features), want(features.detach().float(), index)
        assert torch.equal(blocks[2][:, :2], plain[2]) or asked is spoilt
        for row, p, label in zip(blocks[2].tolist(), log_p.tolist(), asked.labels.tolist()):
            own = p.pop(label)
            assert row[2:] == pytest.approx([own, max(p)], abs=1e-6)
    parts = [made.share(spoilt, rank, 3)[0] for rank in range(3)]
    assert torch.equal(torch.cat([part.index for part in parts]).sort().values, dev.index)
    assert all(torch.equal(part.truth, data.labels[part.index]) for part in parts)


def test_states_in_half_precision():
    made, data = student(), batch(5, 9)
    features = made.outputs(data)[1]
    half = made.states(data, features.half())
    assert all(torch.allclose(a, b, atol=1e-2) for a, b in zip(half, made.states(data, features)))
    assert all(block.dtype == torch.float32 for block in half)


@pytest.mark.parametrize("batchnorm", ["batch", "running"])
def test_examined_as_the_dev_loss(batchnorm):
    """J of what was examined is the dev loss, with the same statistics, and leaves none behind."""
    made, data = student(dev_batchnorm=batchnorm), batch(6, 3)
    with evaluating(made.module):
        before = statistics(made.module)
        examined, loss = made.examine(data), made.dev_loss(data)
        assert same(before, statistics(made.module))
    assert torch.equal(examined.losses.mean(), loss) and examined.losses.requires_grad
    assert examined.n_tokens.tolist() == examined.source_lengths.tolist() == [1.0] * 6
    with evaluating(made.module):
        other = ImageStudent(made.module, "running" if batchnorm == "batch" else "batch").examine(data)
    assert not torch.allclose(other.losses, examined.losses)  # a negative control


@pytest.mark.parametrize("examine", [True, False])
@pytest.mark.parametrize("mode", ["batch", "running"])
@pytest.mark.parametrize("kind", ["mislabelled", "confused"])
@pytest.mark.parametrize("make, turn", [(Objective, 0), (OnePassObjective, 0), (OnePassObjective, FIRST + 1)])
def test_a_spoilt_dev_batch_is_judged_in_the_pass_of_the_sound_one(kind, mode, examine, make, turn):
    """J = sound - alpha spoilt: the gradient of the two passes that it would otherwise take, from one."""
    made, data, calls = student(dev_batchnorm=mode), batch(5, 3), []
    before, parameters = statistics(made.module), list(made.module.parameters())
    made.module.register_forward_hook(lambda *_: calls.append(1))
    objective = make({kind: 0.5}, 0.0, 7 - turn, examine)
    for _ in range(2):  # the second time the parameters are others, and so must the logits be
        other = student(dev_batchnorm=mode)
        other.module.load_state_dict(made.module.state_dict())
        spoilt = other.corrupt(data, kind, 7)
        with evaluating(other.module):
            sound, bad = (torch.autograd.grad(other.dev_loss(part), list(other.module.parameters())) for part in (data, spoilt))
        objective.turn, calls[:] = turn, []
        got = objective.dev_gradient(made, parameters, data).adjoint
        assert len(calls) == 1
        assert all(torch.allclose(g, a - 0.5 * b, rtol=1e-10, atol=1e-14) for g, a, b in zip(got, sound, bad))
        with torch.no_grad():
            for p in parameters:
                p.mul_(1.1)
    assert same(before, statistics(made.module))


def test_a_pass_over_a_spoilt_batch_that_is_repeated_is_made_anew():
    made, data = student(), batch(5, 3)
    parameters = list(made.module.parameters())
    with evaluating(made.module):
        torch.autograd.grad(made.dev_loss(data), parameters, retain_graph=True)
        spoilt = made.corrupt(data, "confused", 7)
        first, second = (torch.autograd.grad(made.dev_loss(spoilt), parameters) for _ in range(2))
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(first, second))


@pytest.mark.parametrize("mode", ["batch", "running"])
@pytest.mark.parametrize("kind", ["mislabelled", "confused"])
def test_the_train_scale_is_the_distance_of_training_losses_along_v(kind, mode):
    """By hand: central differences of the losses of the images that weigh most, under their own and under spoilt labels."""
    made, data, step = student(dev_batchnorm=mode), batch(40, 60), 1e-6
    weights = torch.linspace(0, 1, 40, dtype=torch.float64)[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    parameters = list(made.module.parameters())
    vector = [torch.randn(p.shape, generator=torch.Generator().manual_seed(2), dtype=p.dtype) for p in parameters]
    chosen = (-weights).argsort()[:16].sort().values
    sound = Batch(data.images[chosen], data.labels[chosen])
    spoilt = Batch(sound.images, made.corrupt(sound, kind, 5).labels)  # one that is judged in a pass of its own
    values = []
    for size in (step, -2 * step, step):
        with torch.no_grad():
            for p, v in zip(parameters, vector):
                p.add_(v, alpha=size)
            with evaluating(made.module):
                values.append(float(made.dev_loss(spoilt) - made.dev_loss(sound)))
    want = (values[0] - values[1]) / (2 * step)
    assert abs(want) > 1e-2

    before, scale, ones = statistics(made.module), TrainScale(1), torch.ones(40, dtype=torch.float64)
    rows = torch.zeros(40, 0)
    record = BatchRecord(data, rows, rows, weights, ones, ones, ones, RandomState.capture())
    scale.take(0, kind, made, parameters, vector, [record], seed=5)
    assert scale.means == [pytest.approx(want, rel=1e-5)]
    assert same(before, statistics(made.module)) and made.module.training
