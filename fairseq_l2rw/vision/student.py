"""The student as :mod:`fairseq_l2rw.meta` sees it: one loss per image, n_i = 1."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_l2rw.meta.functional import untracked
from fairseq_l2rw.vision.models import Classifier, batch_norms

#: what ``--meta-contrast`` may name
KINDS = ("mislabelled",)
BATCHNORMS = ("batch", "running")


@dataclass(frozen=True)
class Batch:
    """Standardised images ``[N, C, H, W]`` and labels ``[N]``."""

    images: Tensor
    labels: Tensor


class ImageStudent:
    """A classifier under cross-entropy.

    Args:
        module: the network.
        dev_batchnorm: statistics that BatchNorm uses on a dev batch: its own (``batch``), or the ``running`` ones.
        autocast: a function that gives a fresh autocast context, or None for full precision.
        forward: what the training step calls in place of ``module`` (compiled, or data parallel).
    """

    def __init__(self, module: Classifier, dev_batchnorm: str = "running", autocast=None, forward=None):
        self.module, self.dev_batchnorm = module, dev_batchnorm
        self.autocast = autocast
        self.forward = module if forward is None else forward

    def outputs(self, batch: Batch, forward=None) -> tuple[Tensor, Tensor]:
        """Losses in nats ``[N]``, attached, and the pooled features ``[N, H]``."""
        forward = self.forward if forward is None else forward
        if self.autocast is None:
            logits, features = forward(batch.images)
        else:
            with self.autocast():
                logits, features = forward(batch.images)
            logits = logits.float()
        return F.cross_entropy(logits, batch.labels, reduction="none"), features

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, _ = self.outputs(batch, self.module)
        return losses, torch.ones_like(losses.detach())

    def dev_loss(self, batch: Batch) -> Tensor:
        with own_statistics(self.module) if self.dev_batchnorm == "batch" else nullcontext():
            return self.losses(batch)[0].mean()

    def corrupt(self, batch: Batch, kind: str, seed: int) -> Batch | None:
        """The same images with each other's labels: the labels rotated within the batch; None for a batch of one."""
        n = len(batch.labels)
        return Batch(batch.images, batch.labels.roll(1 + seed % (n - 1))) if n > 1 else None

    def share(self, batch: Batch, rank: int, count: int) -> tuple[Batch, float] | None:
        """Every ``count``-th image from ``rank`` on, and its part of the batch.

        None where not everyone would get one, or BatchNorm needs them all.
        """
        if len(batch.labels) < count or self.dev_batchnorm == "batch":
            return None
        part = Batch(batch.images[rank::count], batch.labels[rank::count])
        return part, len(part.labels) / len(batch.labels)


@contextmanager
def own_statistics(module: Classifier):
    """Lets BatchNorm use each batch's own statistics, and leave the running ones alone, in any mode."""
    layers = batch_norms(module)
    modes = [m.training for m in layers]
    for m in layers:
        m.train()
    try:
        with untracked(module):
            yield
    finally:
        for m, mode in zip(layers, modes):
            m.training = mode
