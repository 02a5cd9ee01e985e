"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels, installed with the library, no download.

Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository, 1998.
"""

from __future__ import annotations

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.data import DataSet, ImageSet

#: the last images are the test set, as in scikit-learn's own examples: other writers than the first ones
TEST = 497


def read() -> DataSet:
    """The digits, pixels scaled from 0..16 to 0..255.

    Raises:
        L2RWError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise L2RWError("--data digits comes with scikit-learn, which is not installed: pip install scikit-learn") from None
    digits = load_digits()
    images = torch.tensor(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    train, test = (ImageSet(some, given, given) for some, given in ((images[:-TEST], labels[:-TEST]), (images[-TEST:], labels[-TEST:])))
    return DataSet("digits", tuple(map(str, range(10))), train, test)
