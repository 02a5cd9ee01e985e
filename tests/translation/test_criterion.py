"""The weighted loss: what it equals, and what does not matter to it."""

import math

import pytest
import torch
from fairseq import metrics
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion, label_smoothed_nll_loss

from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer
from fairseq_l2rw.translation.capture import Capture
from fairseq_l2rw.translation.corruptions import Vocabulary
from fairseq_l2rw.translation.criterion import L2RWCrossEntropyCriterion, least_smoothed_loss, smoothed_losses
from fairseq_l2rw.translation.student import TranslationStudent
from tests.translation.harness import batch, batch_of, criterion_of, pairs, student_module, task_of


def setting(arch="transformer", dropout=0.0, sentence_avg=False, label_smoothing=0.1, double=True, weights=None,
            normalization="tokens", start=0, **options):  # fmt: skip
    """``(criterion, model)`` under a MetaTrainer.

    Args:
        weights: id -> weight, in place of the teacher's.
    """
    task = task_of()
    model = student_module(arch, task, dropout, attention_dropout=dropout, activation_dropout=dropout)
    model = (model.double() if double else model).train()
    criterion = criterion_of(task, sentence_avg, label_smoothing, **options)
    task.capture = Capture(model, (-1,), 1)
    config = MetaConfig(objective="loss", normalization=normalization, start=start)
    vocabulary = Vocabulary.of(task.source_dictionary, task.target_dictionary)
    student = TranslationStudent(model, criterion, vocabulary, task.capture)
    task.meta = MetaTrainer(student, FeatureLayout(task.capture.widths()), config, hidden=4)
    if weights is not None:
        weigh = task.meta.weigh

        def given(losses, *others):
            rows, w = weigh(losses, *others)
            return rows, torch.tensor([weights[i] for i in task.ids], dtype=w.dtype)

        task.meta.weigh = given
    return criterion, model


def run(criterion, model, sample):
    """``(loss, sample size, log, gradient of loss / sample size)``."""
    criterion.task.ids = sample["id"].tolist()
    model.zero_grad()
    torch.manual_seed(5)
    loss, size, log = criterion(model, sample)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]) / float(size)
    return loss.detach(), size, log, gradient


def stock(criterion, sentence_avg=False, **options):
    return LabelSmoothedCrossEntropyCriterion(criterion.task, sentence_avg, criterion.eps, **options)


def softmaxes_in_double(monkeypatch):
    """fairseq's own are in single precision whatever comes in."""
    from fairseq import utils

    monkeypatch.setattr(utils, "log_softmax", lambda x, dim, onnx_trace=False: torch.log_softmax(x, dim=dim))
    monkeypatch.setattr(utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim=dim))


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_weights_of_one_are_the_stock_criterion(arch, label_smoothing, sentence_avg):
    """Dropout on. The gradient is the same to the last bit; the loss is, but for the order of its sum."""
    criterion, model = setting(
        arch, 0.3, sentence_avg, label_smoothing, double=False, start=99, report_accuracy=True, normalization="tokens"
    )
    loss, size, log, gradient = run(criterion, model, batch())
    want, want_size, want_log, want_gradient = run(stock(criterion, sentence_avg, report_accuracy=True), model, batch())
    assert torch.equal(gradient, want_gradient)
    assert size == want_size
    assert float(loss) == pytest.approx(float(want), rel=1e-6)
    assert set(log) == {*want_log, "w_sum", "w_square_sum"}
    for key, value in want_log.items():
        assert float(log[key]) == pytest.approx(float(value), rel=1e-6), key


def test_other_weights_are_not():  # negative control
    criterion, model = setting(weights={0: 1.0, 1: 0.5, 2: 1.0, 3: 1.0})
    gradient = run(criterion, model, batch())[3]
    assert not torch.allclose(gradient, run(stock(criterion), model, batch())[3], rtol=1e-3)


def test_uniform_is_the_stock_criterion_itself():
    """No teacher: loss and all to the last bit."""
    criterion, model = setting(dropout=0.3, double=False)
    criterion.task.meta = None
    loss, size, log, gradient = run(criterion, model, batch())
    want = run(stock(criterion), model, batch())
    assert torch.equal(loss, want[0]) and size == want[1] and log == want[2] and torch.equal(gradient, want[3])


WEIGHTS = {0: 0.2, 1: 0.9, 2: 0.5, 3: 0.7}


@pytest.mark.parametrize("sentence_avg", [False, True])
@pytest.mark.parametrize("normalization", ["tokens", "batch"])
def test_numerator_and_denominator_by_hand(normalization, sentence_avg, monkeypatch):
    softmaxes_in_double(monkeypatch)
    criterion, model = setting(weights=WEIGHTS, normalization=normalization, sentence_avg=sentence_avg)
    sample = batch()
    loss, size, log, _ = run(criterion, model, sample)
    each, n = [], []
    for k in range(4):  # the stock loss of every sentence alone
        alone = row(sample, k)
        each.append(float(stock(criterion)(model, alone)[0].detach()))
        n.append(alone["ntokens"])
    w = [WEIGHTS[i] for i in sample["id"].tolist()]
    assert float(loss) == pytest.approx(sum(a * b for a, b in zip(w, each)), rel=1e-9)
    sizes = [1] * 4 if sentence_avg else n
    want = sum(a * b for a, b in zip(w, sizes)) if normalization == "batch" else sum(sizes)
    assert float(size) == pytest.approx(want)
    assert float(log["w_sum"]) == pytest.approx(sum(w)) and float(log["w_square_sum"]) == pytest.approx(sum(a * a for a in w))
    assert log["ntokens"] == sum(n) and log["nsentences"] == 4 and float(log["sample_size"]) == pytest.approx(want)


def row(sample, k):
    """One sentence of a batch, padding and all."""
    net = {key: value[k : k + 1] for key, value in sample["net_input"].items()}
    target = sample["target"][k : k + 1]
    return {"id": sample["id"][k : k + 1], "net_input": net, "target": target, "ntokens": int((target != 1).sum())}


@pytest.mark.parametrize("normalization, same", [("batch", True), ("tokens", False)])
def test_the_scale_of_the_weights(normalization, same, monkeypatch):
    """It is free with `batch`, and only there."""
    softmaxes_in_double(monkeypatch)
    gradients = []
    for factor in (1.0, 0.1):
        weights = {i: w * factor for i, w in WEIGHTS.items()}
        gradients.append(run(*setting(weights=weights, normalization=normalization), batch())[3])
    assert torch.allclose(*gradients, rtol=1e-9, atol=1e-15) == same


@pytest.mark.parametrize("normalization", ["tokens", "batch"])
@pytest.mark.parametrize("arch", ["transformer", "lstm"])
def test_padding_and_order_do_not_matter(arch, normalization, monkeypatch):
    softmaxes_in_double(monkeypatch)
    criterion, model = setting(arch, weights=WEIGHTS, normalization=normalization)
    sentences = pairs([5, 5, 5, 5], [2, 7, 4, 3])
    want = run(criterion, model, batch_of(sentences))
    padded = batch_of(sentences, pad_to_multiple=16)
    assert padded["target"].size(1) == 16
    if arch == "lstm":  # takes no source with more padding than it needs
        padded["net_input"]["src_tokens"] = padded["net_input"]["src_tokens"][:, -6:]
    turned = {
        **(sample := batch_of(sentences)),
        "id": sample["id"].flip(0), "target": sample["target"].flip(0),
        "net_input": {k: v.flip(0) for k, v in sample["net_input"].items()},
    }  # fmt: skip
    for other in (padded, turned):
        loss, size, _, gradient = run(criterion, model, other)
        assert float(loss) == pytest.approx(float(want[0]), rel=1e-9)
        assert float(size) == pytest.approx(float(want[1]))
        assert torch.allclose(gradient, want[3], rtol=1e-7, atol=1e-12)


def test_two_micro_batches_are_one_batch(monkeypatch):
    """--update-freq 2: numerators and denominators add up."""
    softmaxes_in_double(monkeypatch)
    criterion, model = setting(weights=WEIGHTS, normalization="batch")
    whole = batch()
    want = run(criterion, model, whole)
    parts = [run(criterion, model, row(whole, k)) for k in range(4)]
    size = sum(float(p[1]) for p in parts)
    assert size == pytest.approx(float(want[1]))
    total = sum(p[3] * float(p[1]) for p in parts) / size
    assert torch.allclose(total, want[3], rtol=1e-7, atol=1e-12)


def test_evaluation_ignores_weights():
    """So that the best checkpoint means something; and nothing is recorded for the teacher."""
    criterion, model = setting(weights=dict.fromkeys(range(4), 0.0))
    model.eval()
    criterion.task.ids = list(range(4))
    loss, size, log = criterion(model, batch())
    want = stock(criterion)(model, batch())
    assert torch.equal(loss, want[0]) and (size, log) == (want[1], want[2])
    assert "w_sum" not in log and criterion.task.meta._rows == []


def test_what_is_recorded():
    criterion, model = setting(dropout=0.3, weights=WEIGHTS)
    meta, sample = criterion.task.meta, batch()
    meta.begin_update(0)
    torch.manual_seed(9)
    criterion.task.ids = sample["id"].tolist()
    criterion(model, sample)
    (record,) = meta._records
    assert record.batch is sample
    assert record.weights.tolist() == [WEIGHTS[i] for i in sample["id"].tolist()]
    assert record.n_tokens.tolist() == record.sizes.tolist() == (sample["target"] != 1).sum(1).tolist()
    assert record.features.shape == (4, meta.teacher.layout.width) and not record.losses.requires_grad
    with record.random_state.replayed():
        again = meta.student.losses(sample)[0]
    assert torch.equal(again, record.losses)  # the state before the pass: the same dropout masks
    assert record.features[:, 2].exp().round().tolist() == sample["net_input"]["src_lengths"].tolist()


def test_sizes_of_sentence_avg():
    criterion, model = setting(sentence_avg=True)
    criterion.task.meta.begin_update(0)
    run(criterion, model, batch())
    assert criterion.task.meta._records[0].sizes.tolist() == [1.0] * 4


@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.9])
def test_losses_of_sentences(epsilon, prefix):
    """They sum to fairseq's; ignored prefixes are ignored."""
    task = task_of()
    model = student_module(task=task, dropout=0.0).eval()
    criterion = criterion_of(task, label_smoothing=epsilon, ignore_prefix_size=prefix)
    sample = batch()
    output = model(**sample["net_input"])
    losses, nll, n_tokens = criterion.sentence_losses(model, output, sample)
    want, want_nll = stock(criterion, ignore_prefix_size=prefix).compute_loss(model, output, sample)
    assert float(losses.detach().sum()) == pytest.approx(float(want.detach()), rel=1e-5)
    assert float(nll.detach().sum()) == pytest.approx(float(want_nll.detach()), rel=1e-5)
    assert n_tokens.tolist() == (sample["target"][:, prefix:] != 1).sum(1).tolist()


def test_smoothed_losses_against_fairseq_one_by_one():
    torch.manual_seed(0)
    lprobs = torch.log_softmax(torch.randn(3, 5, 7, dtype=torch.float64), -1)
    target = torch.tensor([[4, 5, 2, 1, 1], [6, 2, 1, 1, 1], [3, 3, 3, 3, 2]])
    losses, nll = smoothed_losses(lprobs, target, 0.1, 1)
    for i in range(3):
        want, want_nll = label_smoothed_nll_loss(lprobs[i], target[i], 0.1, ignore_index=1)
        assert float(losses[i]) == pytest.approx(float(want), rel=1e-12)
        assert float(nll[i]) == pytest.approx(float(want_nll), rel=1e-12)


def test_derivatives_of_smoothed_losses():
    """Backward, forward mode and second derivatives, against finite differences; and the gradient is autograd's, bit by bit."""
    generator = torch.Generator().manual_seed(0)
    target = torch.tensor([[4, 5, 1], [6, 2, 3]])
    given = torch.randn(2, 3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    both = lambda x: smoothed_losses(x, target, 0.1, 1)  # noqa: E731
    assert torch.autograd.gradcheck(both, given, check_forward_ad=True)
    bent = lambda x: smoothed_losses(x.log_softmax(-1) * x.square(), target, 0.1, 1)  # noqa: E731
    assert torch.autograd.gradgradcheck(bent, given, check_fwd_over_rev=True)

    weights = torch.rand(2, dtype=torch.float64, generator=generator)
    (mine,) = torch.autograd.grad((weights * both(given)[0]).sum(), given)
    each = [label_smoothed_nll_loss(given[i], target[i], 0.1, ignore_index=1)[0] for i in range(2)]
    (theirs,) = torch.autograd.grad(sum(w * one for w, one in zip(weights, each)), given)
    assert torch.equal(mine, theirs)
    assert not mine[0, 2].any() and mine[1].all()


def reduced(logs):
    with metrics.aggregate() as aggregator:
        L2RWCrossEntropyCriterion.reduce_metrics(logs)
    return aggregator.get_smoothed_values()


def log_of(weights, loss=10.0, ntokens=8, **others):
    w = torch.tensor(weights)
    return {"loss": loss, "nll_loss": loss / 2, "ntokens": ntokens, "nsentences": len(w), "sample_size": ntokens,
            "w_sum": w.sum(), "w_square_sum": w.square().sum(), **others}  # fmt: skip


def test_reduce_metrics():
    """Over micro-batches and workers: mean, deviation and effective sample size of all weights together."""
    got = reduced([log_of([1.0, 0.5]), log_of([0.0, 0.5, 0.5], loss=6.0)])
    w = [1.0, 0.5, 0.0, 0.5, 0.5]
    mean = sum(w) / 5
    assert got["w_mean"] == pytest.approx(mean)
    assert got["w_std"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in w) / 5), abs=1e-3)
    assert got["ess"] == pytest.approx(sum(w) ** 2 / (5 * sum(x * x for x in w)), abs=1e-3)
    assert got["loss"] == pytest.approx(16 / 16 / math.log(2), abs=1e-3)
    assert got["nll_loss"] == pytest.approx(8 / 16 / math.log(2), abs=1e-3)


def test_reduce_metrics_of_validation_has_no_weights():
    log = {k: v for k, v in log_of([1.0]).items() if not k.startswith("w_")}
    assert not {"w_mean", "w_std", "ess"} & set(reduced([log]))


def test_reduce_metrics_of_equal_weights():
    got = reduced([log_of([0.3] * 7)])
    assert (got["w_std"], got["ess"]) == (pytest.approx(0, abs=1e-3), pytest.approx(1))


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_the_least_loss_is_reached_by_the_smoothed_target_alone(epsilon):
    words = 7
    target = torch.full((words,), epsilon / (words - 1), dtype=torch.float64)
    target[3] = 1 - epsilon
    least = least_smoothed_loss(epsilon, words)
    for lprobs, reached in ((target.clamp(min=1e-300).log(), True), (torch.full((words,), 1 / words).double().log(), False)):
        losses, _ = smoothed_losses(lprobs.view(1, 1, -1), torch.tensor([[3]]), epsilon, 0)
        assert (float(losses) == pytest.approx(least, abs=1e-12)) == reached and float(losses) >= least - 1e-12


def test_the_student_tells_the_least_loss():
    task = task_of()
    criterion = criterion_of(task, label_smoothing=0.2)
    assert criterion.least_loss == least_smoothed_loss(0.2, len(task.target_dictionary)) > 0
