"""A toy problem that can be learnt: the label is the token that occurs three times."""

from __future__ import annotations

import torch

VOCABULARY = 11


def learnable_batch(n, seed, wrong=0.0):
    """``((tokens [N, 4], labels [N], n_tokens [N]), is_wrong [N])``; a share of labels is drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(0, VOCABULARY, (n,), generator=generator)
    tokens = true.unsqueeze(1).repeat(1, 4)
    tokens[:, 3] = torch.randint(0, VOCABULARY, (n,), generator=generator)
    shift = torch.randint(1, VOCABULARY, (n,), generator=generator)
    is_wrong = torch.rand(n, generator=generator) < wrong
    labels = torch.where(is_wrong, (true + shift) % VOCABULARY, true)
    return (tokens, labels, torch.randint(1, 6, (n,), generator=generator).double()), is_wrong


def auc(scores, positive) -> float:
    """Chance that a positive has a higher score than a negative, ties counted half."""
    a, b = scores[positive].unsqueeze(1), scores[~positive].unsqueeze(0)
    return float(((a > b).double() + 0.5 * (a == b).double()).mean())
