"""``--skip-below T``: pairs that the teacher has settled are left out of the batches, but for a small re-check rate.

A pair is *settled* while the last weight it had was below T. From its next turn on it is left out of its batch, so that the
update costs as much less; one time in twenty it stays in, by a draw that depends on (seed, epoch, pair) alone, and its new
weight decides anew. A first epoch leaves nothing out: no pair has a weight yet, nor has any before --meta-start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

RECHECK = 0.05  # part of the settled pairs that an epoch sees all the same


class SettledPairs:
    """One bit for each pair of the training set; the same on every worker.

    Args:
        threshold: T.
        seed: of the re-checks.
    """

    def __init__(self, threshold: float, seed: int):
        self.threshold, self.seed = threshold, seed
        self._folders: dict[int, np.ndarray] = {}
        self._folder = 0

    def open(self, folder: int, pairs: int) -> None:
        """The pairs to come are those of this data folder (a big corpus is spread over several, one an epoch)."""
        self._folder = folder
        self._folders.setdefault(folder, np.zeros(pairs, dtype=bool))

    def note(self, ids: Tensor, weights: Tensor) -> None:
        """Takes the weights ``[N]`` that pairs ``[N]`` just had."""
        self._folders[self._folder][ids.cpu().numpy()] = (weights < self.threshold).cpu().numpy()

    def staying(self, ids: Tensor, epoch: int) -> np.ndarray:
        """Which pairs of a batch stay in it: bool ``[N]``, at least one."""
        ids = ids.cpu().numpy()
        stay = ~self._folders[self._folder][ids] | (self._draw(ids, epoch) < RECHECK)
        if not stay.any():
            stay[0] = True  # a batch of none cannot be an update
        return stay

    def _draw(self, ids: np.ndarray, epoch: int) -> np.ndarray:
        """A number from 0 to 1 for each pair: the finalizer of splitmix64 on (seed, epoch, pair)."""
        with np.errstate(over="ignore"):
            start = np.uint64(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0])
            x = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) / float(1 << 53)

    def state_dict(self) -> dict:
        """Tensors and plain Python only."""
        return {
            folder: {"pairs": len(bits), "bits": torch.from_numpy(np.packbits(bits))} for folder, bits in self._folders.items()
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave; a folder that has another number of pairs now begins anew."""
        for folder, saved in state.items():
            bits = np.unpackbits(saved["bits"].numpy(), count=saved["pairs"]).astype(bool)
            if len(bits) == len(self._folders.get(folder, bits)):
                self._folders[folder] = bits
