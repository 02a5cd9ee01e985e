"""Data-parallel workers that torchrun started: who this one is, and sums and rows of all."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def start(cpu: bool) -> torch.device:
    """Joins the other workers where torchrun started several; returns the device of this one."""
    cuda = torch.cuda.is_available() and not cpu
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def stop() -> None:
    if count() > 1:
        dist.destroy_process_group()


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if count() > 1 else 0


def gather(rows: Tensor) -> Tensor:
    """Rows ``[N, ...]``, as many on each worker, of all workers in the order of their ranks."""
    if count() == 1:
        return rows
    everyone = [torch.zeros_like(rows) for _ in range(count())]
    dist.all_gather(everyone, rows.contiguous())
    return torch.cat(everyone)


def add_up(tensors: list[Tensor]) -> list[Tensor]:
    """Sums over all workers, in place."""
    if count() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
    return tensors


def average(tensors: list[Tensor]) -> None:
    """Means over all workers, in place."""
    for tensor in add_up(tensors) if count() > 1 else ():
        tensor /= count()
