"""Tiny data and models: a training takes a fraction of a second."""

from __future__ import annotations

import torch
from torch import nn

from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import DataSet, ImageSet, cut
from fairseq_l2rw.vision.models import Classifier
from fairseq_l2rw.vision.train import Training

CLASSES = 4


def images(n: int, seed: int) -> ImageSet:
    """Images ``[n, 1, 4, 4]`` whose quadrant of the class is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    pixels = torch.randint(0, 120, (n, 1, 4, 4), generator=generator)
    for i, c in enumerate(labels.tolist()):
        pixels[i, 0, 2 * (c // 2) : 2 * (c // 2) + 2, 2 * (c % 2) : 2 * (c % 2) + 2] += 100
    return ImageSet(pixels.to(torch.uint8), labels, labels, tuple(f"{c}/{i}.png" for i, c in enumerate(labels.tolist())))


def dataset(n: int = 120) -> DataSet:
    return DataSet("tiny", tuple("abcd"), images(n, 1), images(40, 2))


def normed(channels: int, size: int, classes: int, dropout: float) -> Classifier:
    """A model with BatchNorm and dropout, small."""
    body = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout),
    )  # fmt: skip
    return Classifier(body, 16, classes)


def config(**options) -> VisionConfig:
    settings = dict(
        noise="uniform:0.4", meta_size=20, batch_size=20, meta_batch_size=10, schedule="3:2", meta_start=2, lr=0.1, weight_decay=1e-3,
        augment="none", teacher_hidden_dim=4, teacher_replay=2, meta_interval=1, model="cnn",
    )  # fmt: skip
    return VisionConfig(**{**settings, **options})


def training(data: DataSet | None = None, **options) -> Training:
    settings = config(**options)
    parts = cut(data or dataset(), settings.meta_size, settings.valid_size, settings.train_size, settings.noise, settings.seed)
    return Training(settings, parts)
