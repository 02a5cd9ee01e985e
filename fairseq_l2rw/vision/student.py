"""The student as :mod:`fairseq_l2rw.meta` sees it: one loss per image, n_i = 1."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from fairseq_l2rw.meta.functional import evaluating, untracked
from fairseq_l2rw.meta.student import Examined
from fairseq_l2rw.vision.discriminant import FLOOR, Discriminant
from fairseq_l2rw.vision.models import Classifier, batch_norms

#: what ``--meta-contrast`` may name
KINDS = ("mislabelled", "confused")
BATCHNORMS = ("batch", "running")


@dataclass(frozen=True)
class Batch:
    """Images and the labels that they are trained or judged by.

    Attributes:
        images: standardised ``[N, C, H, W]``.
        labels: ``[N]``.
        index: which images of their set they are ``[N]``.
        truth: of trusted images, their own labels ``[N]``, which ``labels`` are unless they are spoilt; None for training images.
    """

    images: Tensor
    labels: Tensor
    index: Tensor | None = None
    truth: Tensor | None = None


@dataclass(frozen=True)
class _Pass:
    """What a forward pass gave: logits ``[N, K]``, single precision at least, and pooled features ``[N, H]``."""

    images: Tensor
    logits: Tensor
    features: Tensor

    def losses(self, labels: Tensor) -> Tensor:
        """Nats ``[N]``."""
        return F.cross_entropy(self.logits, labels, reduction="none")


class ImageStudent:
    """A classifier under cross-entropy.

    A spoilt dev batch has the images of the sound one, so it is judged in the same forward pass: only its backward pass is
    left to be paid for.

    Args:
        module: the network.
        dev_batchnorm: statistics that BatchNorm uses on a dev batch: its own (``batch``), or the ``running`` ones.
        autocast: a function that gives a fresh autocast context, or None for full precision.
        forward: what the training step calls in place of ``module`` (compiled, or data parallel).

    Attributes:
        average: whose states :meth:`states` gives in place of the module's; None for none.
        discriminant: what :meth:`states` asks about labels besides; None for none.
    """

    one_pass = True

    def __init__(self, module: Classifier, dev_batchnorm: str = "batch", autocast=None, forward=None):
        self.module, self.dev_batchnorm = module, dev_batchnorm
        self.autocast = autocast
        self.forward = module if forward is None else forward
        self.average: AveragedModel | None = None
        self.discriminant: Discriminant | None = None
        self._trusted: tuple[Tensor, Tensor, Tensor] | None = None  # states of the newest dev batch, true labels, index
        self._newest: _Pass | None = None  # over a dev batch
        self._spoilt: tuple[Batch, _Pass] | None = None  # a batch that can be judged in a pass already made
        self._looked: tuple[Tensor, Tensor] | None = None  # images, and the features that the average gave them

    def stepped(self) -> None:
        """The optimizer has stepped: the :attr:`average` follows."""
        if self.average is not None:
            self.average.update_parameters(self.module)
            self._looked = None

    def learn_trusted(self) -> None:
        """The :attr:`discriminant` learns from the dev batch that was seen last, which by now has been judged."""
        if self.discriminant is not None and self._trusted is not None:
            self.discriminant.learn(*self._trusted)
        self._trusted = None

    def outputs(self, batch: Batch, forward=None) -> tuple[Tensor, Tensor]:
        """Losses in nats ``[N]``, attached, and the pooled features ``[N, H]``."""
        made = self._pass(batch.images, self.forward if forward is None else forward)
        return made.losses(batch.labels), made.features

    def logits(self, images: Tensor) -> Tensor:
        """``[N, K]``, as the training computes them (with autocast, float32 then), in whatever mode the module is."""
        return self._pass(images, self.module).logits

    def _pass(self, images: Tensor, forward) -> _Pass:
        with self._precision():
            logits, features = forward(images)
        return _Pass(images, logits.float() if self.autocast is not None else logits, features)

    def _dev_pass(self, batch: Batch) -> _Pass:
        """Over a dev batch; of a spoilt one, once, that over the sound one where :meth:`corrupt` came right after it."""
        spoilt, self._spoilt = self._spoilt, None
        if spoilt is not None and spoilt[0] is batch and (spoilt[1].logits.requires_grad or not torch.is_grad_enabled()):
            return spoilt[1]
        with own_statistics(self.module) if self.dev_batchnorm == "batch" else nullcontext():
            self._newest = self._pass(batch.images, self.module)
        return self._newest

    def _precision(self):
        """The context of a forward pass: autocast where it is asked for.

        Not with tangents on a CPU: BatchNorm's forward mode in half precision converts every image several times there and
        takes twice as long as in full precision.
        """
        if self.autocast is None:
            return nullcontext()
        dual = any(p.device.type == "cpu" and forward_ad.unpack_dual(p).tangent is not None for p in self.module.parameters())
        return nullcontext() if dual else self.autocast()

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        losses, _ = self.outputs(batch, self.module)
        return losses, torch.ones_like(losses.detach())

    def states(self, batch: Batch, features: Tensor) -> list[Tensor]:
        """I_i: the pooled features, the classifier's row for the given label, and how close the two are.

        As for a sentence pair there are two sides to compare, the image and its label. All of them are the :attr:`average`'s, in
        evaluation mode, where there is one.

        Args:
            batch: images and labels.
            features: what the module made of the images ``[N, H]``.

        Returns:
            Detached, float32: features and rows ``[N, H]``, and ``[N, 2]``: the cosine of the two, and the highest cosine of
            the features with another label's row; with a :attr:`discriminant` ``[N, 4]``, its log p of the label and the highest of another one behind
            them. As wide as :attr:`widths`.
        """
        module = self.module
        if self.average is not None:
            module, features = self.average.module, self._averaged(batch.images)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            features, rows = features.detach().float(), module.head.weight.detach().float()
            cosines = F.normalize(features, dim=1) @ F.normalize(rows, dim=1).t()  # [N, K]
            fits = [_own_and_best_other(cosines, batch.labels, -1.0)]
            if self.discriminant is not None:
                trusted = batch.truth is not None
                fits.append(_own_and_best_other(self.discriminant(features, batch.index if trusted else None), batch.labels, FLOOR))
                if trusted:
                    self._trusted = features, batch.truth, batch.index
            return [features, rows[batch.labels], torch.cat(fits, dim=1)]

    @torch.no_grad()
    def _averaged(self, images: Tensor) -> Tensor:
        """Pooled features ``[N, H]`` in the average; a sound dev batch and the spoilt one share them."""
        if self._looked is None or self._looked[0] is not images:
            with self._precision():
                self._looked = images, self.average(images)[1]
        return self._looked[1]

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of the blocks of :meth:`states`."""
        return self.module.width, self.module.width, 2 if self.discriminant is None else 4

    def examine(self, batch: Batch) -> Examined:
        made = self._dev_pass(batch)
        losses = made.losses(batch.labels)
        ones = torch.ones_like(losses.detach())
        return Examined(losses, ones, ones, self.states(batch, made.features))

    def dev_loss(self, batch: Batch) -> Tensor:
        return self._dev_pass(batch).losses(batch.labels).mean()

    def corrupt(self, batch: Batch, kind: str, seed: int) -> Batch | None:
        """The same images with other labels: ``mislabelled``, each other's, rotated within the batch (None for a batch of one), or
        ``confused``, drawn from what the student takes the images for, the true label left out."""
        n = len(batch.labels)
        if kind == "mislabelled" and n == 1:
            return None
        labels = self.confused(batch, seed) if kind == "confused" else batch.labels.roll(1 + seed % (n - 1))
        spoilt = replace(batch, labels=labels)
        newest, self._newest = self._newest, None
        if newest is not None and newest.images is batch.images:
            self._spoilt = spoilt, newest
        return spoilt

    def whole(self, batch: Batch, gather) -> Batch:
        """The training batch of all workers, of which ``gather`` puts rows together."""
        return Batch(gather(batch.images), gather(batch.labels))

    def subset(self, batch: Batch, index: Tensor) -> Batch:
        """Some of the images."""
        return Batch(batch.images[index], batch.labels[index])

    def confused(self, batch: Batch, seed: int) -> Tensor:
        """Labels drawn from what the student takes the images for, the true one left out."""
        made = self._newest
        if made is None or made.images is not batch.images:  # else the dev pass has just looked at them
            with torch.no_grad(), evaluating(self.module):
                made = self._dev_pass(batch)
        logits = made.logits.detach().scatter(1, batch.labels.unsqueeze(1), float("-inf"))
        drawn = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)).to(logits)
        return (logits - (-drawn.clamp(min=1e-20).log()).log()).argmax(1)

    def share(self, batch: Batch, rank: int, count: int) -> tuple[Batch, float] | None:
        """Every ``count``-th image from ``rank`` on, and its part of the batch.

        None where not everyone would get one, or BatchNorm needs them all.
        """
        if len(batch.labels) < count or (self.dev_batchnorm == "batch" and batch_norms(self.module)):
            return None
        part = Batch(*(None if rows is None else rows[rank::count] for rows in (batch.images, batch.labels, batch.index, batch.truth)))
        return part, len(part.labels) / len(batch.labels)


def _own_and_best_other(scores: Tensor, labels: Tensor, lowest: float) -> Tensor:
    """Of scores of all labels ``[N, K]``, none below ``lowest``: that of the given label, and the highest of another, ``[N, 2]``."""
    own = labels.unsqueeze(1)
    return torch.cat([scores.gather(1, own), scores.scatter(1, own, lowest).amax(1, keepdim=True)], dim=1)


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
