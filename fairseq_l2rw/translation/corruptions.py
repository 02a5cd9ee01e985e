"""Ways to spoil a dev batch for the contrastive objective, one function a kind.

Each takes a batch as fairseq collates it and returns a batch whose sources are the same and whose targets
are wrong in one way, or None where that is not possible. Nothing is changed in place. To add a kind, write
a function and decorate it with ``@register(NAME)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch
from fairseq.data import Dictionary, data_utils

CORRUPTIONS: dict[str, Callable] = {}


def register(kind: str):
    def add(function):
        CORRUPTIONS[kind] = function
        return function

    return add


@dataclass(frozen=True)
class Vocabulary:
    """What the corruptions need to know of the two dictionaries.

    Attributes:
        pad, eos, unk: indices in the target dictionary.
        source_to_target: target index of each source symbol (by its string), unk where there is none ``[V]``.
        begins_word: does a target symbol begin a word? ``[V]``.
        left_pad: are targets padded on the left?
        max_target: longest target.
    """

    pad: int
    eos: int
    unk: int
    source_to_target: np.ndarray
    begins_word: np.ndarray
    left_pad: bool
    max_target: int

    @classmethod
    def of(cls, source: Dictionary, target: Dictionary, left_pad: bool = False, max_target: int = 1024):
        mapping = np.array([target.index(symbol) for symbol in source.symbols])
        symbols = target.symbols
        if any(s.startswith("\u2581") for s in symbols):  # sentencepiece
            begins = np.array([s.startswith("\u2581") for s in symbols])
        else:  # whole words (subword-nmt marks the END of pieces: there pieces are shuffled, not words)
            begins = np.ones(len(symbols), dtype=bool)
        return cls(target.pad(), target.eos(), target.unk(), mapping, begins, left_pad, max_target)


def corrupt(sample: dict, kind: str, vocabulary: Vocabulary, seed: int) -> dict | None:
    """The batch spoilt in way ``kind``; draws depend on ``seed`` alone."""
    return CORRUPTIONS[kind](sample, vocabulary, np.random.default_rng(seed))


@register("misaligned")
def misaligned(sample, vocabulary, rng):
    """Targets rotated within the batch; a batch of one, or of equal targets, changes nothing: None."""
    target = sample["target"]
    rotated = target.roll(1, dims=0)
    if len(target) < 2 or bool((rotated == target).all()):
        return None
    net_input = dict(sample["net_input"])
    net_input["prev_output_tokens"] = net_input["prev_output_tokens"].roll(1, dims=0)
    return {**sample, "target": rotated, "net_input": net_input}


@register("untranslated")
def untranslated(sample, vocabulary, rng):
    """The source as target; pairs whose source is mostly unknown to the target dictionary are left out."""
    targets = []
    for tokens in rows_of(sample["net_input"]["src_tokens"], vocabulary):
        copied = vocabulary.source_to_target[tokens]
        targets.append(copied if len(copied) and (copied == vocabulary.unk).mean() < 0.5 else None)
    return with_targets(sample, targets, vocabulary)


@register("misordered")
def misordered(sample, vocabulary, rng):
    """Target words in random order; targets of fewer than two words are left out."""
    targets = []
    for tokens in rows_of(sample["target"], vocabulary):
        words = _words(tokens, vocabulary)
        if len(words) < 2:
            targets.append(None)
            continue
        order = rng.permutation(len(words))
        if (order == np.arange(len(words))).all():
            order = np.roll(order, 1)
        targets.append(np.concatenate([words[i] for i in order]))
    return with_targets(sample, targets, vocabulary)


@register("truncated")
def truncated(sample, vocabulary, rng):
    """The first half of the target; targets of fewer than two tokens are left out."""
    targets = [t[: (len(t) + 1) // 2] if len(t) > 1 else None for t in rows_of(sample["target"], vocabulary)]
    return with_targets(sample, targets, vocabulary)


@register("swapped")
def swapped(sample, vocabulary, rng):
    """Three times a target word and its neighbour exchanged; targets of fewer than two words are left out."""
    targets = []
    for tokens in rows_of(sample["target"], vocabulary):
        words = _words(tokens, vocabulary)
        if len(words) < 2:
            targets.append(None)
            continue
        for first in rng.choice(len(words) - 1, size=min(3, len(words) - 1), replace=False):
            words[first], words[first + 1] = words[first + 1], words[first]
        targets.append(np.concatenate(words))
    return with_targets(sample, targets, vocabulary)


@register("dropped")
def dropped(sample, vocabulary, rng):
    """30 % of the target words left out (one at least); targets of fewer than two words are left out."""
    targets = []
    for tokens in rows_of(sample["target"], vocabulary):
        words = _words(tokens, vocabulary)
        if len(words) < 2:
            targets.append(None)
            continue
        gone = set(rng.choice(len(words), size=max(1, round(0.3 * len(words))), replace=False).tolist())
        targets.append(np.concatenate([word for i, word in enumerate(words) if i not in gone]))
    return with_targets(sample, targets, vocabulary)


@register("joined")
def joined(sample, vocabulary, rng):
    """The target of another pair of the batch follows the pair's own; a batch of one changes nothing: None.

    What the longest target allows is kept.
    """
    rows = rows_of(sample["target"], vocabulary)
    if len(rows) < 2:
        return None
    others = rows[1:] + rows[:1]
    targets = [np.concatenate([own, other]) if len(other) else None for own, other in zip(rows, others)]
    return with_targets(sample, targets, vocabulary)


def _words(tokens: np.ndarray, vocabulary) -> list[np.ndarray]:
    """The pieces of each word."""
    starts = vocabulary.begins_word[tokens]
    if len(starts):
        starts[0] = True
    return np.split(tokens, np.flatnonzero(starts)[1:]) if len(tokens) else []


def rows_of(tokens: torch.Tensor, vocabulary) -> list[np.ndarray]:
    """Rows without padding and end of sentence (pad and eos are the same in both dictionaries)."""
    rows = tokens.cpu().numpy()
    return [row[(row != vocabulary.pad) & (row != vocabulary.eos)] for row in rows]


def with_targets(sample: dict, targets: list[np.ndarray | None], vocabulary: Vocabulary) -> dict | None:
    """The batch with these targets, without the end of the sentence, in place of its own; pairs with None are left out, and where all are: None."""
    kept = [i for i, t in enumerate(targets) if t is not None]
    if not kept:
        return None
    device = sample["target"].device
    values = [
        torch.from_numpy(np.append(targets[i][: vocabulary.max_target - 1], vocabulary.eos).astype(np.int64)) for i in kept
    ]

    def collate(move_eos):
        return data_utils.collate_tokens(
            values, vocabulary.pad, vocabulary.eos, vocabulary.left_pad, move_eos_to_beginning=move_eos
        ).to(device)

    index = torch.tensor(kept, device=device)
    net_input = {
        key: value.index_select(0, index) if torch.is_tensor(value) else value
        for key, value in sample["net_input"].items()
    }
    net_input["prev_output_tokens"] = collate(True)
    return {
        **sample,
        "id": sample["id"].index_select(0, index) if torch.is_tensor(sample.get("id")) else sample.get("id"),
        "nsentences": len(kept),
        "ntokens": sum(len(v) for v in values),
        "target": collate(False),
        "net_input": net_input,
    }
