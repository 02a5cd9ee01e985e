"""Data-parallel workers: rows and sums of all of them."""

from __future__ import annotations

import atexit
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Workers:
    """What the method asks of the workers; this class is the case of one alone.

    Attributes:
        rank: which one this is, from 0.
        count: how many there are.
    """

    rank, count = 0, 1

    def gather(self, rows: Tensor) -> Tensor:
        """Rows ``[N_r, ...]`` of this worker -> those of all ``[sum N_r, ...]``, in the order of ranks, the same on each."""
        return rows

    def rows(self, tensors: list[Tensor], device: torch.device, *shape: int, dtype: torch.dtype = torch.float) -> Tensor:
        """Rows of all workers ``[N, *shape]`` from those of this one's micro-batches, of which there may be none."""
        return self.gather(torch.cat(tensors) if tensors else torch.zeros(0, *shape, dtype=dtype, device=device))

    def anywhere(self, here: bool, device: torch.device) -> bool:
        """Is it so on any worker?"""
        return bool(self.gather(torch.tensor([float(here)], device=device)).any())

    def gather_list(self, items: list[Any]) -> list[Any]:
        """The same for a list of anything that can be pickled."""
        return items

    def add_up(self, tensors: list[Tensor]) -> list[Tensor]:
        """Sums over all workers, the same on each to the bit."""
        return tensors


class DistributedWorkers(Workers):
    """All processes of torch's default group."""

    def __init__(self):
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def gather(self, rows: Tensor) -> Tensor:
        """Workers may have different numbers of rows, and none."""
        count = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.zeros_like(count) for _ in range(self.count)]
        dist.all_gather(counts, count)
        most = int(torch.cat(counts).max())
        padded = rows.new_zeros((most, *rows.shape[1:]))
        padded[: len(rows)] = rows
        everyone = [torch.zeros_like(padded) for _ in range(self.count)]
        dist.all_gather(everyone, padded)
        return torch.cat([r[: int(c)] for r, c in zip(everyone, counts)])

    def gather_list(self, items: list) -> list:
        everyone: list = [None] * self.count
        dist.all_gather_object(everyone, items)
        return [item for own in everyone for item in own]

    def add_up(self, tensors: list[Tensor]) -> list[Tensor]:
        # one exchange for all tensors of a type
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            alike = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.flatten() for t in alike])
            dist.all_reduce(flat)
            for tensor, total in zip(alike, flat.split([t.numel() for t in alike])):
                tensor.copy_(total.view_as(tensor))
        return tensors


def workers() -> Workers:
    """The workers of this training."""
    return DistributedWorkers() if several_workers() else Workers()


def several_workers() -> bool:
    """Is this one of several data-parallel workers?"""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def leave_at_exit() -> None:
    """Has this process leave gloo's group before Python ends, which fairseq does not.

    Else a worker whose peers were gone first can abort at its very end ("terminate called without an active exception"), and a training
    that went well is told to have failed.
    """
    if several_workers() and dist.get_backend() == "gloo":
        atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)
