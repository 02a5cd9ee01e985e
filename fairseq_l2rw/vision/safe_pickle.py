"""Reads the pickles of the CIFAR archives without executing anything that a stranger wrote into them."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy

from fairseq_l2rw.errors import L2RWError


def _encode(text: str, encoding: str) -> bytes:
    """What ``_codecs.encode`` is used for in pickles of bytes that Python 3 wrote in an old protocol; no other codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")


_reconstruct = numpy.array(0).__reduce__()[0]

#: all that a pickle may name; lists, dicts, numbers, text and bytes need no name
ALLOWED = {
    ("numpy", "ndarray"): numpy.ndarray,
    ("numpy", "dtype"): numpy.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # numpy 1, as in the official archives
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,  # numpy 2
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def loads(content: bytes, file: str) -> dict:
    """The dict in a pickle; its text of Python 2 is bytes.

    Raises:
        L2RWError: it is damaged, it holds something other than numpy arrays and plain Python, or it is no dict.
    """
    try:
        value = _Restricted(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise almost anything
        raise L2RWError(f"{file}: not read, because it is no pickle of arrays and plain Python: {error}") from error
    if not isinstance(value, dict):
        raise L2RWError(f"{file}: not read, because it holds a {type(value).__name__}, not a dict")
    return value
