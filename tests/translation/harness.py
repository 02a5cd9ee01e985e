"""Tiny fairseq dictionaries, datasets, students and tasks, made in memory."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY

from fairseq_l2rw.translation.capture import Capture
from fairseq_l2rw.translation.corruptions import Vocabulary
from fairseq_l2rw.translation.criterion import L2RWCrossEntropyCriterion
from fairseq_l2rw.translation.student import TranslationStudent

#: a few words in three scripts; the four special symbols come before them
WORDS = [f"{letter}{i}" for letter in "abc" for i in range(4)]
TINY = {
    "transformer": dict(
        encoder_embed_dim=8, decoder_embed_dim=8, encoder_ffn_embed_dim=12, decoder_ffn_embed_dim=12,
        encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        attention_dropout=0.1, activation_dropout=0.1, max_source_positions=64, max_target_positions=64,
    ),
    "lstm": dict(
        encoder_embed_dim=8, decoder_embed_dim=8, encoder_hidden_size=8, decoder_hidden_size=8, decoder_out_embed_dim=8,
    ),
    "fconv": dict(
        encoder_embed_dim=8, decoder_embed_dim=8, decoder_out_embed_dim=8, encoder_layers="[(8, 3)] * 2",
        decoder_layers="[(8, 3)] * 2", max_source_positions=64, max_target_positions=64,
    ),
}  # fmt: skip


def dictionary(words=WORDS) -> Dictionary:
    out = Dictionary()
    for word in words:
        out.add_symbol(word)
    return out


def task_of(source=None, target=None, **attributes):
    """What criterions and models ask of a task."""
    source = source or dictionary()
    target = target or source
    return SimpleNamespace(source_dictionary=source, target_dictionary=target, **attributes)


def student_module(arch="transformer", task=None, dropout=0.3, seed=0, **options):
    """A tiny model of that architecture."""
    torch.manual_seed(seed)
    args = Namespace(arch=arch, criterion="l2rw_cross_entropy", dropout=dropout, **{**TINY[arch], **options})
    ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task or task_of())


def criterion_of(task=None, sentence_avg=False, label_smoothing=0.1, **options):
    return L2RWCrossEntropyCriterion(task or task_of(), sentence_avg, label_smoothing, **options)


def translation_student(arch="transformer", double=True, label_smoothing=0.1, **options):
    """Model and criterion as the method sees them."""
    task = task_of()
    module = student_module(arch, task, **options)
    module = module.double() if double else module
    vocabulary = Vocabulary.of(task.source_dictionary, task.target_dictionary)
    return TranslationStudent(module, criterion_of(task, label_smoothing=label_smoothing), vocabulary, Capture(module, (-1,), 1))


def pairs(source_lengths, target_lengths, seed=0, first=4, last=4 + len(WORDS)):
    """Random sentences with end of sentence, as index lists: ``[(source, target), ...]``."""
    rng = np.random.default_rng(seed)
    draw = lambda n: [*rng.integers(first, last, n).tolist(), 2]  # noqa: E731
    return [(draw(s), draw(t)) for s, t in zip(source_lengths, target_lengths)]


def dataset_of(sentences, source=None, target=None, **options):
    source = source or dictionary()
    target = target or source
    src, tgt = ([torch.tensor(side) for side in sides] for sides in zip(*sentences))
    return LanguagePairDataset(
        src, np.array([len(s) for s in src]), source, tgt, np.array([len(t) for t in tgt]), target, **options
    )


def batch_of(sentences, source=None, target=None, **options) -> dict:
    """The sentences as fairseq collates them: sources padded on the left, longest source first."""
    dataset = dataset_of(sentences, source, target, **options)
    return dataset.collater([dataset[i] for i in range(len(dataset))])


def batch(seed=0, n=4) -> dict:
    """A batch with padding on both sides of it."""
    return batch_of(pairs([5, 3, 6, 1][:n], [2, 7, 4, 3][:n], seed))


def capture_of(module, *layers):
    return Capture(module, layers or (-1,), padding=1)
