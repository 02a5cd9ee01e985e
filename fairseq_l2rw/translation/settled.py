"""``--skip-below T``: pairs that the teacher has settled are left out of the batches, but for a small re-check rate.

A pair is *settled* while the last weight it had was below T. When the batches of an epoch are made it is left out, and the
batches are filled with those that stay: what the noise took up of each update is for the others. One time in twenty it
stays in, by a draw that depends on (seed, epoch, pair) alone, and its new weight decides anew. A first epoch leaves nothing
out: no pair has a weight yet, nor has any before --meta-start.
"""

from __future__ import annotations

import numpy as np
import torch
from fairseq.data import BaseWrapperDataset
from torch import Tensor

RECHECK = 0.05  # part of the settled pairs that an epoch sees all the same


class Staying(BaseWrapperDataset):
    """A training set whose batches are made of some of its pairs alone.

    Args:
        dataset: all of it.
        stay: which pairs, bool ``[pairs]``.
    """

    def __init__(self, dataset, stay: np.ndarray):
        super().__init__(dataset)
        self.stay = stay

    def ordered_indices(self):
        """As of the whole set, without the others."""
        indices = super().ordered_indices()
        return indices[self.stay[indices]]


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
        self._begun: tuple[int, np.ndarray] | None = None

    def open(self, folder: int, pairs: int) -> None:
        """The pairs to come are those of this data folder (a big corpus is spread over several, one an epoch)."""
        self._folder = folder
        if len(self._folders.get(folder, ())) != pairs:
            self._folders[folder] = np.zeros(pairs, dtype=bool)

    def note(self, ids: Tensor, weights: Tensor) -> None:
        """Takes the weights ``[N]`` that pairs ``[N]`` just had."""
        self._folders[self._folder][ids.cpu().numpy()] = (weights < self.threshold).cpu().numpy()

    def staying(self, epoch: int) -> np.ndarray:
        """Which pairs this epoch's batches are made of: bool ``[pairs]``, at least one.

        A training that is resumed within the epoch gets the answer of its beginning, whatever the pairs weighed since.
        """
        bits = self._folders[self._folder]
        if self._begun is None or self._begun[0] != epoch or len(self._begun[1]) != len(bits):
            self._begun = (epoch, bits.copy())
        stay = ~self._begun[1] | (self._draw(np.arange(len(bits)), epoch) < RECHECK)
        if not stay.any():
            stay[0] = True  # an epoch of no batch cannot end
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
        epoch, bits = self._begun or (0, np.zeros(0, dtype=bool))
        return {"folders": {folder: _packed(bits) for folder, bits in self._folders.items()}, "epoch": epoch, "begun": _packed(bits)}

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave; a folder that has another number of pairs now begins anew."""
        for folder, saved in state.get("folders", {}).items():
            bits = _unpacked(saved)
            if len(bits) == len(self._folders.get(folder, bits)):
                self._folders[folder] = bits
        self._begun = (state["epoch"], _unpacked(state["begun"])) if state.get("epoch") else None


def _packed(bits):
    return {"pairs": len(bits), "bits": torch.from_numpy(np.packbits(bits))}


def _unpacked(saved):
    return np.unpackbits(saved["bits"].numpy(), count=saved["pairs"]).astype(bool)
