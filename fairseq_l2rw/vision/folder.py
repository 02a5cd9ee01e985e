"""Images in folders, as torchvision's ImageFolder has them: train/CLASS/FILE and test/CLASS/FILE."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.data import DataSet, ImageSet

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def read(root: str | None, size: int | None = None) -> DataSet:
    """All images below ``root``, RGB, held in memory (3 size^2 bytes each); the classes are the folders of train, sorted.

    An image's name is CLASS/FILE.

    Args:
        size: scale the shorter side to this many pixels and cut a square out of the middle; None: all images have one
            size already, and are square.

    Raises:
        L2RWError: a folder or Pillow is missing, an image cannot be read, or sizes differ.
    """
    if root is None:
        raise L2RWError("--data folder: give --root, a folder with train/CLASS/... and test/CLASS/...")
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise L2RWError("--data folder needs Pillow to read images, which is not installed: pip install Pillow") from None
    train = Path(root) / "train"
    if not train.is_dir():
        raise L2RWError(f"--root {root}: there is no folder {train}; images belong into train/CLASS/... and test/CLASS/...")
    classes = tuple(sorted(p.name for p in train.iterdir() if p.is_dir()))
    if len(classes) < 2:
        raise L2RWError(f"{train}: {len(classes)} folders of images; give one for each class, two or more")
    return DataSet("folder", classes, _split(train, classes, size), _split(Path(root) / "test", classes, size))


def _split(folder: Path, classes: tuple[str, ...], size: int | None) -> ImageSet:
    if not folder.is_dir():
        raise L2RWError(f"{folder}: there is no such folder; images belong into train/CLASS/... and test/CLASS/...")
    unknown = sorted({p.name for p in folder.iterdir() if p.is_dir()} - set(classes))
    if unknown:
        raise L2RWError(f"{folder / unknown[0]}: train has no class of that name")
    files = [
        (path, c)
        for c, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in ENDINGS
    ]
    if not files:
        raise L2RWError(f"{folder}: no images in it (known endings: {', '.join(ENDINGS)})")
    images: list[Tensor] = []
    for path, _ in files:
        images.append(_image(path, size))
        if images[-1].shape != images[0].shape:
            first, other = tuple(images[0].shape[1:]), tuple(images[-1].shape[1:])
            raise L2RWError(f"{path} has {other} pixels, {files[0][0]} {first}: give --image-size N to make them equal")
    labels = torch.tensor([c for _, c in files])
    names = tuple(path.relative_to(folder).as_posix() for path, _ in files)
    return ImageSet(torch.stack(images), labels, labels, names)


def _image(path: Path, size: int | None) -> Tensor:
    """uint8 ``[3, H, W]``, H = W."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise L2RWError(f"{path}: not a readable image ({error}); mend or remove it") from error
    if size is not None:
        scale = size / min(image.size)
        wide, high = (max(size, round(side * scale)) for side in image.size)
        left, top = (wide - size) // 2, (high - size) // 2
        image = image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    elif image.width != image.height:
        raise L2RWError(f"{path} is not square ({image.width} x {image.height} pixels): give --image-size N")
    return torch.from_numpy(numpy.array(image)).permute(2, 0, 1).contiguous()
