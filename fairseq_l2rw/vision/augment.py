"""The usual augmentation of CIFAR: a random crop from a border of 4 reflected pixels, and a random flip."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BORDER = 4


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image ``[N, C, H, W]`` (any floating type) cropped and flipped for itself; same shape.

    Args:
        generator: of the CPU, whatever device the images are on.
    """
    n, _, height, width = images.shape
    padded = F.pad(images, (BORDER,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * BORDER + 1, (2, n), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    rows = top[:, None] + torch.arange(height)
    columns = torch.arange(width).expand(n, -1)
    columns = left[:, None] + torch.where(flip[:, None], columns.flip(1), columns)
    index = torch.arange(n)[:, None, None]
    rows, columns, index = (t.to(images.device) for t in (rows[:, :, None], columns[:, None, :], index))
    return padded.permute(0, 2, 3, 1)[index, rows, columns].permute(0, 3, 1, 2).contiguous()
