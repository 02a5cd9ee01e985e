"""The data set that the options name."""

from __future__ import annotations

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision import cifar, digits, folder, labels
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import DataSet


def read(config: VisionConfig) -> DataSet:
    """Reads ``--data``, and ``--labels`` where they are given.

    Raises:
        L2RWError: options do not fit each other, or a file is missing or damaged.
    """
    if config.labels and config.noise != "none":
        raise L2RWError("--labels and --noise: labels that people gave have noise of their own; give one of the two")
    if config.data == "digits":
        data = digits.read()
    elif config.data == "folder":
        data = folder.read(config.root, config.image_size)
    else:
        data = cifar.read(config.data, config.root, config.download)
    return labels.join(data, config.labels, config.label_column) if config.labels else data
