"""CIFAR-10 and CIFAR-100 in the python archives that their authors give out, or in the folder these unpack to.

Source: A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision import safe_pickle
from fairseq_l2rw.vision.data import DataSet, ImageSet

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class Official:
    """What the dataset's page offers: MD5 sums of the archive and of the files in it."""

    archive: str
    archive_md5: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels: bytes
    class_names: bytes

    @property
    def url(self) -> str:
        return f"https://www.cs.toronto.edu/~kriz/{self.archive}"


OFFICIAL = {
    "cifar10": Official(
        "cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
        "cifar-10-batches-py",
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        {"test_batch": "40351d587109b95175f43aff81a1287e"},
        {"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        b"labels",
        b"label_names",
    ),
    "cifar100": Official(
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
        "cifar-100-python",
        {"train": "16019d7e3df5f24257cddd939b257f8d"},
        {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        {"meta": "7973b15100ade9c7d40fb424638fde48"},
        b"fine_labels",
        b"fine_label_names",
    ),
}


def read(name: str, root: str | None, download: bool = False) -> DataSet:
    """CIFAR-10 or CIFAR-100 below ``root``: the archive, its folder, or ``root`` being that folder.

    Args:
        name: ``cifar10`` or ``cifar100``.
        download: fetch the archive into ``root`` where neither is there; without it the network is never tried.

    Raises:
        L2RWError: a file is missing, or is not the official one.
    """
    official = OFFICIAL[name]
    if root is None:
        raise L2RWError(f"--data {name}: give --root, the folder with {official.archive} or {official.folder}/ ({PAGE})")
    contents = _contents(official, Path(root), download)
    (meta,) = (safe_pickle.loads(contents[file], file) for file in official.meta)
    classes = _field(meta, official.class_names, "batches.meta")
    names = tuple(c.decode("ascii") if isinstance(c, bytes) else str(c) for c in classes)
    return DataSet(
        name,
        names,
        _images(official, official.train, contents, len(names)),
        _images(official, official.test, contents, len(names)),
    )


def _contents(official: Official, root: Path, download: bool) -> dict[str, bytes]:
    """The bytes of all files, checked by MD5."""
    sums = {**official.train, **official.test, **official.meta}
    folders = [root / official.folder, root]
    folder = next((f for f in folders if (f / next(iter(official.train))).is_file()), None)
    archive = root / official.archive
    if folder is None and not archive.is_file():
        if not download:
            raise L2RWError(
                f"{official.archive} is not in {root}, nor is the folder {official.folder} that it unpacks to; get it from "
                f"{PAGE} (its 'python version'), or give --download"
            )
        _download(official, archive)
    if folder is not None:
        return {file: _checked(folder / file, _bytes(folder / file), md5) for file, md5 in sums.items()}
    try:
        with tarfile.open(archive) as tar:
            found = {}
            for member in tar:
                file = member.name.removeprefix("./").removeprefix(official.folder + "/")
                if member.isfile() and file in sums:
                    found[file] = _checked(f"{archive}: {member.name}", tar.extractfile(member).read(), sums[file])
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise L2RWError(f"{archive}: not a readable archive ({error}); get it anew from {PAGE}") from error
    missing = [file for file in sums if file not in found]
    if missing:
        raise L2RWError(f"{archive}: {official.folder}/{missing[0]} is not in it; get it anew from {PAGE}")
    return found


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise L2RWError(f"{path}: missing; unpack the official archive ({PAGE}) anew")
    return path.read_bytes()


def _checked(file, content: bytes, md5: str) -> bytes:
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise L2RWError(f"{file}: not the official file (its MD5 sum is not {md5}); get it anew from {PAGE}")
    return content


def _download(official: Official, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part{os.getpid()}")
    try:
        urllib.request.urlretrieve(official.url, part)
        _checked(official.url, part.read_bytes(), official.archive_md5)
        part.replace(archive)
    except OSError as error:
        raise L2RWError(f"--download: {official.url} could not be fetched ({error}); put it into {archive.parent} by hand") from error
    finally:
        part.unlink(missing_ok=True)


def _images(official: Official, files, contents, classes: int) -> ImageSet:
    images, labels, names = [], [], []
    for file in files:
        batch = safe_pickle.loads(contents[file], file)
        data = _field(batch, b"data", file)
        if not isinstance(data, numpy.ndarray) or data.dtype != numpy.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise L2RWError(f"{file}: its data are not rows of 3,072 bytes")
        some = torch.tensor(_field(batch, official.labels, file), dtype=torch.int64)
        if len(some) != len(data) or some.min() < 0 or some.max() >= classes:
            raise L2RWError(f"{file}: its labels do not fit its {len(data)} images and {classes} classes")
        images.append(torch.from_numpy(data.copy()).view(-1, 3, 32, 32))
        labels.append(some)
        names += [n.decode("utf-8") if isinstance(n, bytes) else str(n) for n in _field(batch, b"filenames", file)]
    truth: Tensor = torch.cat(labels)
    return ImageSet(torch.cat(images), truth, truth, tuple(names))


def _field(batch: dict, name: bytes, file: str):
    if name not in batch:
        raise L2RWError(f"{file}: it has no field {name.decode()}")
    return batch[name]
