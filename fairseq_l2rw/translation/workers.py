"""Sums over all workers, and rows of all workers in the order of their ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(rows: Tensor) -> Tensor:
    """Rows ``[N_r, ...]`` of this worker -> rows ``[sum N_r, ...]``, the same on every worker.

    Workers may have different numbers of rows, and none.
    """
    if not several_workers():
        return rows
    world = dist.get_world_size()
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count)
    most = int(torch.cat(counts).max())
    padded = rows.new_zeros((most, *rows.shape[1:]))
    padded[: len(rows)] = rows
    everyone = [torch.zeros_like(padded) for _ in range(world)]
    dist.all_gather(everyone, padded)
    return torch.cat([r[: int(c)] for r, c in zip(everyone, counts)])


def add_up(tensors: list[Tensor]) -> list[Tensor]:
    """Sums over all workers, the same on every worker."""
    if several_workers():
        for tensor in tensors:
            dist.all_reduce(tensor)
    return tensors


def several_workers() -> bool:
    """Is this one of several data-parallel workers?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
