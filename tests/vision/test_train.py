"""A run: learns, resumes bit by bit, and writes what it says."""

import dataclasses
import json

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision import checkpoint, metrics, models
from tests.vision.harness import config, normed, training


@pytest.fixture(autouse=True)
def small_model(monkeypatch):
    monkeypatch.setitem(models.MODELS, "normed", normed)


def leaves(value, path=""):
    """(path, leaf) of everything in a checkpoint."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from leaves(item, f"{path}/{i}")
    else:
        yield path, value


def differences(a, b, ignored=("/seconds",)):
    first, second = dict(leaves(a)), dict(leaves(b))
    assert first.keys() == second.keys()
    return [path for path in first if path not in ignored and not equal(first[path], second[path], nan=path == "/weights")]


def equal(x, y, nan=False):
    """To the bit; an image without a weight yet has a NaN for it, which equals itself only there."""
    if nan:
        return torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(), y.nan_to_num())
    return torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


TEACHERS = ("deep", "loss", "surface", "l2r", "self_paced", "mwn", "uniform", "finetuned")
NORMED = dict(model="normed", dropout=0.2, valid_size=12)


@pytest.mark.parametrize("teacher, more", [*((teacher, {}) for teacher in TEACHERS), ("deep", {"student_average": 0.9, "meta_params": "^head"}), ("deep", {"teacher_discriminant": 0.9}), ("deep", {"warmup_updates": 12}), ("loss", {"skip_below": 0.99})])
def test_resume_is_exact(tmp_path, teacher, more):
    options = dict(NORMED, teacher=teacher, finetune_epochs=1, **more)
    straight = training(**options)
    straight.run(tmp_path / "straight")
    interrupted = training(**options)
    interrupted.epochs = 2  # stops there
    interrupted.run(tmp_path / "again")
    with open(tmp_path / "again" / metrics.FILE, "a") as out:  # killed after the line and before the checkpoint
        out.write(json.dumps({"epoch": 3, "loss": 99}) + "\n{")
    resumed = training(**options)
    resumed.run(tmp_path / "again")
    assert resumed.updates == straight.updates
    assert not differences(straight.state_dict(), resumed.state_dict())
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in metrics.read(tmp_path / run / metrics.FILE)] for run in ("straight", "again")]
    assert "skip_below" not in more or 0 < rows[0][2]["skipped"] < 0.5
    assert rows[0] == rows[1] and [row["epoch"] for row in rows[0]] == list(range(1, straight.epochs + 1))


def test_the_comparison_can_fail(tmp_path):  # negative control: the teacher was not restored
    options = dict(NORMED, teacher="deep")
    straight = training(**options)
    straight.run()
    forgetful = training(**options)
    forgetful.train_epoch()
    state = forgetful.state_dict()
    resumed = training(**options)
    resumed.load_state_dict({**state, "method": resumed.method.state_dict()})
    resumed.run()
    assert any(path.startswith("/method") for path in differences(straight.state_dict(), resumed.state_dict()))


def test_a_finished_run_is_left_alone(tmp_path):
    first = training(teacher="loss").run(tmp_path)
    before = (tmp_path / checkpoint.FILE).stat().st_mtime_ns
    assert training(teacher="loss").run(tmp_path) == first
    assert (tmp_path / checkpoint.FILE).stat().st_mtime_ns == before
    assert json.loads((tmp_path / "result.json").read_text()) == first
    assert not list(tmp_path.glob("*.part*"))


def test_checkpoints_that_do_not_fit(tmp_path):
    training(teacher="loss", schedule="1").run(tmp_path)
    with pytest.raises(L2RWError, match="checkpoint_last.pt: that run had --lr 0.1, this one 0.2; go on with its options"):
        training(teacher="loss", schedule="1", lr=0.2).run(tmp_path)
    content = (tmp_path / checkpoint.FILE).read_bytes()
    older = torch.load(tmp_path / checkpoint.FILE, weights_only=True)
    del older["config"]["skip_power"]
    torch.save(older, tmp_path / checkpoint.FILE)
    with pytest.raises(L2RWError, match="checkpoint_last.pt: of a version that had no --skip-power; give another --save-dir"):
        training(teacher="loss", schedule="1").run(tmp_path)
    (tmp_path / checkpoint.FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(L2RWError, match="checkpoint_last.pt: no checkpoint of this command, or damaged"):
        training(teacher="loss", schedule="1").run(tmp_path)


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_is_never_executed(tmp_path):
    torch.save({"config": Attack(str(tmp_path / "owned"))}, tmp_path / checkpoint.FILE)
    with pytest.raises(L2RWError, match="damaged"):
        checkpoint.load(tmp_path, {})
    assert not (tmp_path / "owned").exists()


def test_teacher_updates_that_come_to_nothing_are_counted_and_many_end_the_run(monkeypatch, tmp_path):
    run = training(teacher="deep", schedule="4")
    meta_batch = run.meta_batch

    def spoilt():
        batch = meta_batch()
        return dataclasses.replace(batch, images=batch.images * float("nan"))

    monkeypatch.setattr(run, "meta_batch", spoilt)
    with pytest.raises(L2RWError, match="10 teacher updates in a row came to nothing; the last: "):
        run.run(tmp_path)
    rows = metrics.read(tmp_path / metrics.FILE)
    # five updates an epoch, of which the first two are before --meta-start
    assert [row["meta_skipped"] for row in rows] == [3, 8] and all(row["accuracy"] > 0.2 for row in rows)


def test_figures_of_an_epoch(tmp_path):
    run = training(teacher="deep", valid_size=12, schedule="2", skip_below=0.0)
    result = run.run(tmp_path)
    row = metrics.read(tmp_path / metrics.FILE)[-1]
    wrong = run.parts.wrong
    assert row["updates"] == 2 * (88 // 20) == run.updates
    assert row["lr"] == 0.1 and row["teacher_updates"] == 4 and row["meta_skipped"] == 0
    seen = ~run.weights.isnan()
    assert int(seen.sum()) == 80 and sum(row["weights"]["clean"]) == int((seen & ~wrong).sum())
    w = run.weights[seen]
    assert row["ess"] == pytest.approx(float(w.sum() ** 2 / (len(w) * w.square().sum())), rel=1e-5)
    assert result["accuracy"] == row["accuracy"] and result["auc"] == row["auc"]
    assert result["chosen_epoch"] in (1, 2)


def test_auc_is_null_where_nothing_is_wrong_and_with_uniform_weights():
    assert training(noise="none", teacher="loss", schedule="1").run()["auc"] is None
    assert training(teacher="uniform", schedule="1").run()["auc"] is None


def test_learning_rate_falls_after_its_steps():
    run = training(teacher="uniform", schedule="4:1,3")
    assert [run.train_epoch()["lr"] for _ in range(4)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_learning_rate_rises_while_it_warms_up():
    run = training(teacher="uniform", schedule="3:2", warmup_updates=6)  # an epoch has five updates
    rates = []
    step = run.step
    run.step = lambda *args: rates.append(run.optimizer.param_groups[0]["lr"]) or step(*args)
    assert [run.train_epoch()["lr"] for _ in range(3)] == pytest.approx([0.1 * 5 / 6, 0.1, 0.01])
    assert rates == pytest.approx([0.1 * min(1, n / 6) for n in range(1, 11)] + [0.01] * 5)


def test_what_is_settled_makes_room():
    """Images that weigh little are left out of the next epoch, and its batches are as many and as full as before."""
    run = training(teacher="deep", skip_below=0.3, meta_start=100)  # weights are given here
    low = torch.arange(len(run.weights)) % 2 == 0
    run.method.weigh = lambda batch, *_: torch.where(low[batch.index], 0.0, 0.9)
    run.method.judge = lambda updates, batch: run.method.weigh(batch)
    seen = []
    step = run.step
    run.step = lambda images, index: seen.append(index) or step(images, index)
    first = run.train_epoch()
    assert first["skipped"] == 0 and len(torch.cat(seen).unique()) == len(low) == 100
    seen.clear()
    second = run.train_epoch()
    assert [len(index) for index in seen] == [20] * 5 and not low[torch.cat(seen)].any()
    assert second["skipped"] == 0.5 and second["auc"] == first["auc"]
    low[:20] = False  # the teacher thinks better of them
    assert run.train_epoch()["skipped"] == 0.4


@pytest.mark.parametrize("weight, power, share", [(0.0, 1, 0.0), (0.2, 1, 0.25), (0.6, 1, 0.75), (0.4, 3, 0.125), (0.8, 1, 1.0), (0.9, 3, 1.0), (float("nan"), 1, 1.0)])
def test_an_image_stays_the_oftener_the_more_it_weighs(weight, power, share):
    run = training(teacher="deep", skip_below=0.8, skip_power=power)
    stays = []
    run.method.judge = lambda updates, batch: torch.full((len(batch.labels),), weight)
    for run.epoch in range(50):
        run.weights.fill_(weight)
        run.weights[0] = 1.0  # one that stays: an epoch of no image cannot be
        stays.append(run.staying(run.parts.train))
    counts = torch.stack(stays).double()[:, 1:]
    assert all(stay[0] for stay in stays)
    assert abs(float(counts.mean()) - share) < 4 * (share * (1 - share) / counts.numel()) ** 0.5 + 1e-9
    assert share in (0.0, 1.0) or (0 < counts.mean(0)).all() and (counts.mean(0) < 1).all()  # none always, none never


def test_judging_an_image_changes_nothing_of_the_student():
    run = training(**NORMED, teacher="deep", schedule="4", skip_below=0.5)
    run.train_epoch()
    student, history = run.student.module.state_dict(), run.method.core.history.scores.clone()
    before = {name: value.clone() for name, value in student.items()}
    run.weights[:30] = 0.1
    stay = run.staying(run.parts.train)
    assert run.student.module.training and not differences(before, run.student.module.state_dict())
    assert not torch.isclose(run.weights[:30], torch.tensor(0.1)).any() and (run.weights[~stay] < run.config.skip_threshold).all()
    changed = (run.method.core.history.scores != history).any(1)
    assert changed[:30].all() and not changed[30:].any()


def test_a_judgement_is_the_weight_of_a_training_step():
    run = training(teacher="deep", schedule="4", skip_below=0.5)
    run.train_epoch()
    index = torch.arange(20)
    run.weights[index] = 0.1
    run.staying(run.parts.train)
    again = training(teacher="deep", schedule="4", skip_below=0.5)
    again.train_epoch()
    assert torch.allclose(run.weights[index], again.step(again.parts.train, index)[1], atol=1e-6)


def test_images_are_left_out_by_default_where_the_teacher_learns_by_the_contrast():
    learning = {teacher for teacher in TEACHERS if config(teacher=teacher).skip_threshold > 0}
    assert learning == {"deep", "loss", "surface"}
    assert config(teacher="deep").skip_threshold == 0.9  # of the prior: an image of which nothing is known stays in every epoch
    assert config(teacher="deep", teacher_prior=0.7).skip_threshold == 0.7
    assert config(teacher="deep", skip_below=0.0).skip_threshold == config(teacher="deep", meta_objective="loss").skip_threshold == 0


def test_with_compare_only_teachers_that_learn_leave_images_out():
    thresholds = {teacher: config(teacher=teacher, skip_below=0.7, compare=True).skip_threshold for teacher in TEACHERS}
    assert {teacher for teacher, threshold in thresholds.items() if threshold} == {"deep", "loss", "surface"}


def test_dev_batches_are_normalised_by_their_own_statistics():
    """As the authors' MW-Net.py does it, whose virtual student is made anew, in training mode."""
    for teacher in ("mwn", "deep"):
        assert training(teacher=teacher).student.dev_batchnorm == "batch"
        assert training(teacher=teacher, meta_batchnorm="running").student.dev_batchnorm == "running"


def test_weights_are_what_the_student_steps_by():
    """A weight of zero takes an image out of the step; `batch` divides by the sum of weights, `tokens` by the images."""
    for normalization, divisor in (("tokens", 20), ("batch", 5)):
        run = training(teacher="uniform", weight_normalization=normalization, weight_decay=0.0, momentum=0.0)
        run.method.weigh = lambda *_: torch.cat([torch.ones(5), torch.zeros(15)])
        index = torch.arange(20)
        batch = run.batch(run.parts.train, index, "augment", 0)
        before = [p.detach().clone() for p in run.student.module.parameters()]
        losses, _ = run.student.outputs(batch)
        gradients = torch.autograd.grad(losses[:5].sum() / divisor, list(run.student.module.parameters()))
        run.step(run.parts.train, index)
        for p, old, g in zip(run.student.module.parameters(), before, gradients):
            assert torch.allclose(p, old - 0.1 * g, atol=1e-7)


def test_meta_batches_go_round():
    run = training(teacher="deep")
    seen = []
    for run.updates in range(4):
        run._meta_batches = 0  # as at the beginning of a step
        seen.append(run.meta_batch().images.flatten(1))
    rounds = [torch.cat(seen[:2]), torch.cat(seen[2:])]
    for one in rounds:
        assert len({tuple(row.tolist()) for row in one}) == 20
    assert not torch.equal(*rounds)
    run.updates, run._meta_batches = 0, 0
    assert all(torch.equal(run.meta_batch().images.flatten(1), one) for one in seen), "the next ones within an update"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision(amp, caplog):
    run = training(teacher="deep", amp=amp, schedule="2", model="normed")
    figures = [run.train_epoch() for _ in range(2)][-1]
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in run.student.module.parameters())
    assert figures["teacher_updates"] > 0 and 0 < figures["w_mean"] < 1
    assert "does not repeat" not in caplog.text, "rounding taken for another step"


@pytest.mark.parametrize("scale", ["dev", "train"])
def test_what_influences_are_measured_by(scale):
    run = training(teacher="deep", meta_scale=scale, schedule="4")
    figures = [run.train_epoch() for _ in range(4)][-1]
    if scale == "dev":
        assert run.method.core.train_scale is None and "scale_confused" not in figures
    else:
        assert run.method.core.train_scale.counts[0] >= 8 and 0.05 <= figures["scale_confused"] <= 1


@pytest.mark.parametrize("amp, dtype", [("none", torch.float32), ("bf16", torch.bfloat16)])
def test_accuracy_is_measured_in_the_precision_of_the_training(amp, dtype):
    run = training(teacher="uniform", amp=amp)
    seen = set()
    run.student.module.head.register_forward_hook(lambda module, given, logits: seen.add((logits.dtype, module.training)))
    run.accuracy(run.parts.test)
    assert seen == {(dtype, False)} and run.student.module.training


def test_an_overflow_leaves_the_step_and_the_teacher_update_out():
    run = training(teacher="deep", amp="fp16", meta_start=0)
    index = torch.arange(20)
    before = [p.detach().clone() for p in run.student.module.parameters()]
    run.parts.train.images.fill_(255)
    object.__setattr__(run.parts, "mean", torch.full((1,), -1e6))  # activations beyond half precision
    _, _, report = run.step(run.parts.train, index)
    assert report == {} and all(torch.equal(p, old) for p, old in zip(run.student.module.parameters(), before))


def test_compiled(monkeypatch):
    real, calls = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda module: calls.append(module) or real(module, backend="eager"))
    run = training(teacher="deep", compile=True, schedule="1")
    plain = training(teacher="deep", schedule="1")
    run.run(), plain.run()
    assert calls == [run.student.module]
    assert not differences({**plain.state_dict(), "seconds": 0}, {**run.state_dict(), "seconds": 0}, ("/seconds",))


def test_too_few_images_for_a_batch():
    with pytest.raises(L2RWError, match=r"--batch-size 200 \(200 for all workers\): there are only 100 images"):
        training(batch_size=200)


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    training(teacher="loss", schedule="1", tensorboard_logdir=str(tmp_path / "tb")).run()
    content = b"".join(f.read_bytes() for f in (tmp_path / "tb").iterdir())
    assert b"accuracy" in content and b"teacher_gnorm" in content


def test_options_of_the_data_sets():
    assert config(data="cifar10", schedule=None, lr=None).schedule == "resnet32"
    digits = config(schedule=None, meta_size=None)
    assert digits.meta_size == 100 and digits.epochs == 40


def test_l2r_weights():
    """max(0, -c) over its sum, c by a loop over the images: the inner product of each one's gradient with that of the dev loss."""
    run = training(teacher="l2r", model="cnn", meta_start=0)
    index, module = torch.arange(20), run.student.module
    parameters = list(module.parameters())
    batch, meta = run.batch(run.parts.train, index, "augment", 0), run.meta_batch()
    dev = torch.autograd.grad(run.student.dev_loss(meta), parameters)
    losses, _ = run.student.losses(batch)
    gradients = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    helps = torch.stack([sum((g * d).sum() for g, d in zip(own, dev)) for own in gradients]).clamp(min=0)
    _, weights, _ = run.step(run.parts.train, index)
    assert 0 < int((weights > 0).sum()) < 20
    assert torch.allclose(weights, helps * 20 / helps.sum(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "options, probed",
    [({}, True), ({"teacher_states": "direct"}, False), ({"meta_objective": "loss"}, False), ({"teacher": "loss"}, False)],
)
def test_the_deep_teacher_has_a_probe(options, probed):
    """With the contrastive objective alone, and unless it is to see the states directly; the probe learns from trusted images."""
    made = training(**options)
    teacher = made.method.core.teacher
    assert (teacher.probe is not None) == probed
    assert teacher.layout.internal == made.student.widths
    if probed:
        before = [p.clone() for p in teacher.probe.parameters()]
        made.train_epoch()
        assert any(not torch.equal(a, b) for a, b in zip(before, teacher.probe.parameters()))


@pytest.mark.parametrize("teacher, averaged", [("deep", True), ("loss", False), ("l2r", False), ("uniform", False)])
def test_the_average_is_there_for_teachers_that_see_states(teacher, averaged):
    made = training(**NORMED, teacher=teacher, student_average=0.9)
    assert (made.student.average is not None) == averaged
    if averaged:
        made.train_epoch()
        assert int(made.student.average.n_averaged) == made.updates + 1
        pairs = zip(made.student.average.module.parameters(), made.student.module.parameters())
        assert all(not torch.equal(a, b) for a, b in pairs)
    assert training(**NORMED, teacher=teacher).student.average is None


@pytest.mark.parametrize("options, there", [({}, True), ({"teacher": "loss"}, False), ({"teacher_inputs": "surface"}, False), ({"teacher_discriminant": 0.0}, False)])
def test_the_discriminant_is_there_for_teachers_that_see_states(options, there):
    made = training(**{"teacher": "deep", "teacher_discriminant": 0.9, **options})
    assert (made.student.discriminant is not None) == there
    assert made.method.core.teacher.layout.internal == made.student.widths
    if there:
        made.train_epoch()
        counts = made.student.discriminant.counts.sum(0)
        # five updates an epoch, of which two are before --meta-start: ten dev batches at the first one, one at each, of ten of the twenty trusted images
        assert float(counts.sum()) == pytest.approx(sum(10 * 0.9**n for n in range(13)))
        assert bool((counts > 0).all())


def test_influences_through_the_classifier_alone():
    """The hypergradient goes through it and nothing else (``--meta-params``)."""
    made = training(teacher="deep", meta_params="^head")
    core = made.method.core
    assert [name for name in core.names[: len(core.through)]] == ["head.weight", "head.bias"]
    assert made.train_epoch()["teacher_updates"] > 0
    with pytest.raises(L2RWError, match="--meta-params nowhere"):
        training(teacher="deep", meta_params="nowhere")
