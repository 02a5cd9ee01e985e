"""What a data set is, and which part of it is for what."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.noise import parse_noise, spoil, transition_matrix
from fairseq_l2rw.vision.seeds import generator


@dataclass(frozen=True)
class ImageSet:
    """Images and labels.

    Attributes:
        images: uint8 ``[N, C, H, W]``.
        labels: what the student is told, int64 ``[N]``.
        truth: the official labels, for evaluation only ``[N]``.
        names: of the images' files, or None where they have none.
    """

    images: Tensor
    labels: Tensor
    truth: Tensor
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> ImageSet:
        """The images of ``index``, in its order."""
        names = tuple(self.names[i] for i in index.tolist()) if self.names is not None else None
        return ImageSet(self.images[index], self.labels[index], self.truth[index], names)

    def to(self, device: torch.device) -> ImageSet:
        """The same with its images on the device."""
        return replace(self, images=self.images.to(device))

    def trusted(self) -> ImageSet:
        """The same with the official labels."""
        return replace(self, labels=self.truth)


@dataclass(frozen=True)
class DataSet:
    """A data set as its authors give it out."""

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet


@dataclass(frozen=True)
class Parts:
    """A data set cut up for one run.

    Attributes:
        train: what the student learns, with wrong labels.
        meta: clean images that the teacher learns by; none of them is in ``train``.
        valid: clean images that neither sees, to choose an epoch by; may be empty.
        test: official test set.
        matrix: the noise's transition matrix ``[K, K]``.
        mean, std: of the channels of all training images, of values from 0 to 1 ``[C]``.
    """

    classes: tuple[str, ...]
    train: ImageSet
    meta: ImageSet
    valid: ImageSet
    test: ImageSet
    matrix: Tensor
    mean: Tensor
    std: Tensor

    @property
    def wrong(self) -> Tensor:
        """Which training labels are wrong ``[N]``: those that really changed."""
        return self.train.labels != self.train.truth

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 -> float32, each channel standardised."""
        scaled = images.float() / 255
        return (scaled - self.mean[:, None, None].to(images.device)) / self.std[:, None, None].to(images.device)


def cut(data: DataSet, meta: int, valid: int, size: int, noise: str, seed: int) -> Parts:
    """Sets balanced clean images apart, keeps ``size`` of the rest for training (0: all), and spoils their labels.

    Raises:
        L2RWError: there are not enough images, or the noise is unknown.
    """
    kind, rate = parse_noise(noise)
    truth = data.train.truth
    order = torch.randperm(len(truth), generator=generator("parts", seed))
    meta_index, order = _balanced(order, truth, meta, len(data.classes), "--meta-size")
    valid_index, order = _balanced(order, truth, valid, len(data.classes), "--valid-size")
    if size > len(order):
        raise L2RWError(f"--train-size {size}: {len(order)} images are left besides --meta-size and --valid-size")
    train = data.train.take(order[:size] if size else order)
    matrix = transition_matrix(kind, rate, len(data.classes), seed)
    if kind != "none":
        train = replace(train, labels=spoil(train.labels, matrix, seed))
    std, mean = torch.std_mean(data.train.images.float().transpose(0, 1).flatten(1) / 255, dim=1)
    return Parts(
        data.classes,
        train,
        data.train.take(meta_index).trusted(),
        data.train.take(valid_index).trusted(),
        data.test.trusted(),
        matrix,
        mean,
        std.clamp(min=1e-6),
    )


def _balanced(order: Tensor, truth: Tensor, count: int, classes: int, option: str) -> tuple[Tensor, Tensor]:
    """The first ``count`` of ``order``, as many of each class, and the others.

    Where ``count`` is no multiple of the number of classes, the first classes have one image more.
    """
    taken = torch.zeros(len(order), dtype=torch.bool)
    for c in range(classes):
        wanted = count // classes + (c < count % classes)
        places = (truth[order] == c).nonzero().squeeze(1)
        if len(places) < wanted:
            raise L2RWError(f"{option} {count}: class {c} has {len(places)} images left, {wanted} are needed")
        taken[places[:wanted]] = True
    return order[taken], order[~taken]
