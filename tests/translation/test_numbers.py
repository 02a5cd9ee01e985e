"""Sentences at the limits: empty targets, one word, the longest that the student can read, and what a corruption makes of them."""

import pytest
import torch

from fairseq_l2rw.meta.dev_pass import DevPass
from fairseq_l2rw.meta.functional import trainable
from fairseq_l2rw.translation.corruptions import CORRUPTIONS, Vocabulary
from fairseq_l2rw.translation.student import TranslationStudent
from tests.translation.harness import batch, batch_of, capture_of, criterion_of, pairs, student_module, task_of

LIMIT = 8  # positions of the student, end of sentence included


def student_of(**options):
    """A student whose positions are learnt: one too many is an IndexError."""
    task = task_of()
    module = student_module(
        "transformer", task, dropout=0.0, encoder_learned_pos=True, decoder_learned_pos=True,
        max_source_positions=LIMIT, max_target_positions=LIMIT,
    )  # fmt: skip
    vocabulary = Vocabulary.of(task.source_dictionary, task.target_dictionary, max_target=LIMIT)
    return TranslationStudent(module.double(), criterion_of(task, **options), vocabulary, capture_of(module))


def dev_gradient(student, sample):
    value, gradient, _ = DevPass()(student, list(trainable(student.module).values()), sample)
    assert gradient is not None and value > 0
    return gradient


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_sequences_at_the_length_limit(kind):
    student = student_of()
    sample = batch_of(pairs([LIMIT - 1] * 3, [LIMIT - 1, 2, LIMIT - 1]))
    assert sample["target"].shape[1] == sample["net_input"]["src_tokens"].shape[1] == LIMIT
    dev_gradient(student, sample)
    spoilt = student.corrupt(sample, kind, 1)
    assert spoilt["target"].shape[1] <= LIMIT
    dev_gradient(student, spoilt)


def test_one_position_more_would_be_noticed():  # negative control
    with pytest.raises(IndexError):
        dev_gradient(student_of(), batch_of(pairs([3], [LIMIT])))


def test_empty_targets():
    """End of sentence alone is a sentence like others; the kinds that need words leave it out."""
    student = student_of()
    sample = batch_of(pairs([3, 2, 4], [0, 0, 3]))
    dev_gradient(student, sample)
    for kind in CORRUPTIONS:
        spoilt = student.corrupt(sample, kind, 1)
        dev_gradient(student, spoilt)
    empty = batch_of(pairs([3, 2], [0, 0]))
    dev_gradient(student, empty)
    assert student.corrupt(empty, "misordered", 1) is None and student.corrupt(empty, "truncated", 1) is None


def test_targets_without_a_token_that_counts():
    """With --ignore-prefix-size 1 an empty target has none: no gradient, and no error."""
    student = student_of(ignore_prefix_size=1)
    dev_pass = DevPass()
    _, gradient, _ = dev_pass(student, list(trainable(student.module).values()), batch_of(pairs([3, 2], [0, 0])))
    assert gradient is None and "not finite" in dev_pass.failure
    dev_gradient(student, batch_of(pairs([3, 2], [0, 2])))


@pytest.mark.parametrize("sentences", [1, 2])
def test_a_sentence_alone(sentences):
    student = student_of()
    sample = batch_of(pairs([3, 2][:sentences], [4, 5][:sentences]))
    dev_gradient(student, sample)
    assert (student.corrupt(sample, "misaligned", 1) is None) == (sentences == 1)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", [None, *CORRUPTIONS])
def test_shares_of_a_dev_batch(kind, count):
    """Each sentence in one part, with its part of the tokens; loss and gradient add up to the whole's."""
    student = student_of(label_smoothing=0.1)
    sample = batch(2)
    sample = sample if kind is None else student.corrupt(sample, kind, 1)
    assert student.share(sample, 0, 7) is None  # not everyone would get a sentence
    parts = [student.share(sample, rank, count) for rank in range(count)]
    assert sum(share for _, share in parts) == pytest.approx(1.0)
    assert sum(len(part["target"]) for part, _ in parts) == len(sample["target"])
    student.module.eval()
    parameters = list(trainable(student.module).values())
    want = torch.autograd.grad(student.dev_loss(sample), parameters)
    losses = sum(share * student.dev_loss(part) for part, share in parts)
    for a, b in zip(torch.autograd.grad(losses, parameters), want):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)
    first = torch.autograd.grad(student.dev_loss(parts[0][0]), parameters)
    assert any(not torch.allclose(a, b, rtol=1e-2) for a, b in zip(first, want))  # negative control
