"""Random numbers that are a function of what they are for: nothing to save, so a resumed run draws the same ones."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(purpose: str, *numbers: int) -> int:
    """A seed for one purpose (``"order"``) and the numbers it depends on (seed, epoch), the same on every machine."""
    digest = hashlib.sha256(":".join([purpose, *map(str, numbers)]).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def generator(purpose: str, *numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(purpose, *numbers))
