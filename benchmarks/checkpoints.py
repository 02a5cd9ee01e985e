"""Reading a checkpoint of a training that a benchmark has run."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read_checkpoint(path: Path) -> dict[str, Any]:
    """All of it, by torch's safe loader."""
    import torch

    # the safe loader's allow-list. torch's context manager for that would take off it, at its end, what was there before
    import fairseq_l2rw.translation  # noqa: F401

    return torch.load(path, map_location="cpu", weights_only=True)
