"""Image classifiers: each maps images to logits, and to the pooled features before its last layer, which the teacher sees.

========== ====================================================================================== ==============
name       source                                                                                 parameters
========== ====================================================================================== ==============
cnn        two convolutions and a hidden layer, for images of a few pixels                        depends
resnet32   He et al. 2016, section 4.2 (n = 5, shortcuts without parameters)                      0.46 M
wrn-28-10  Zagoruyko & Komodakis 2016 (depth 28, widening 10)                                     36.5 M
resnet18   He et al. 2016, table 1                                                                11.7 M
========== ====================================================================================== ==============
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_l2rw.errors import L2RWError


class Classifier(nn.Module):
    """A body that ends in one vector per image, and a linear layer on it.

    Args:
        body: images ``[N, C, H, W]`` -> features ``[N, width]``.
        width: of the features.
        classes: K.
    """

    def __init__(self, body: nn.Module, width: int, classes: int):
        super().__init__()
        self.body, self.width = body, width
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[N, K]`` and features ``[N, width]``."""
        features = self.body(images)
        return self.head(features), features


def build(name: str, channels: int, size: int, classes: int, dropout: float = 0.0) -> Classifier:
    """The model that users call ``name``, for images ``[channels, size, size]``.

    Raises:
        L2RWError: there is no such model.
    """
    if name not in MODELS:
        raise L2RWError(f"--model {name}: unknown model; choose one of {', '.join(MODELS)}")
    return MODELS[name](channels, size, classes, dropout)


def small_cnn(channels: int, size: int, classes: int, dropout: float) -> Classifier:
    if size < 2:
        raise L2RWError(f"--model cnn: images of {size} pixels are too small; give images of 2 pixels or more")
    body = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(32 * (size // 2) ** 2, 64), nn.ReLU(), nn.Dropout(dropout),
    )  # fmt: skip
    return Classifier(body, 64, classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, He et al. 2016.

    Args:
        projection: shortcut that changes the shape: a 1x1 convolution, or subsampling and zeros ("option A").
    """

    def __init__(self, before: int, after: int, stride: int, projection: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.stride, self.missing = stride, after - before
        self.shortcut = None
        if projection and (stride > 1 or before != after):
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1 or self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return F.relu(out + x)


def _pooled() -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def _he(module: nn.Module) -> None:
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


def resnet32(channels: int, size: int, classes: int, dropout: float) -> Classifier:
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(5):
            layers.append(BasicBlock(before, width, stride if i == 0 else 1, projection=False))
            before = width
    body = nn.Sequential(*layers, *_pooled(), nn.Dropout(dropout))
    _he(body)
    return Classifier(body, before, classes)


def resnet18(channels: int, size: int, classes: int, dropout: float) -> Classifier:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    before = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for i in range(2):
            layers.append(BasicBlock(before, width, stride if i == 0 else 1, projection=True))
            before = width
    body = nn.Sequential(*layers, *_pooled(), nn.Dropout(dropout))
    _he(body)
    return Classifier(body, before, classes)


class WideBlock(nn.Module):
    """Normalisation and ReLU before each convolution, Zagoruyko & Komodakis 2016; dropout between the two."""

    def __init__(self, before: int, after: int, stride: int, dropout: float):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 or before != after else None

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        out = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(activated)))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


def wide_resnet(channels: int, size: int, classes: int, dropout: float) -> Classifier:
    layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, padding=1, bias=False)]
    before = 16
    for width, stride in ((160, 1), (320, 2), (640, 2)):
        for i in range(4):
            layers.append(WideBlock(before, width, stride if i == 0 else 1, dropout))
            before = width
    body = nn.Sequential(*layers, nn.BatchNorm2d(before), nn.ReLU(), *_pooled())
    _he(body)
    return Classifier(body, before, classes)


MODELS: dict[str, Callable[[int, int, int, float], Classifier]] = {
    "cnn": small_cnn,
    "resnet32": resnet32,
    "wrn-28-10": wide_resnet,
    "resnet18": resnet18,
}


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
