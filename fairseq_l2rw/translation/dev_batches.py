"""Dev batches for the hypergradient: endless, shuffled anew each epoch, the same on every worker, resumable."""

from __future__ import annotations

import numpy as np
from fairseq.data import data_utils


class DevBatches:
    """Batches of a dataset, in an order that depends on (seed, epoch) alone.

    Args:
        dataset: a fairseq dataset (``collater``, ``size``).
        max_tokens: size of a batch in tokens, padding included, or None.
        max_sentences: size of a batch in sentences, or None.
        max_positions: (source, target) limits; longer pairs are left out.
        seed: of the order.
    """

    def __init__(self, dataset, max_tokens, max_sentences, max_positions, seed: int):
        self.dataset, self.seed = dataset, seed
        self.max_tokens, self.max_sentences = max_tokens, max_sentences
        indices = np.arange(len(dataset), dtype=np.int64)
        self.indices, self.left_out = dataset.filter_indices_by_size(indices, max_positions)
        self.epoch, self.position = 0, 0
        self._batches: list = []

    def __call__(self) -> dict:
        """The next batch, collated, on the CPU."""
        if not self._batches:
            self._batches = self._epoch_batches()
        if self.position >= len(self._batches):
            self.epoch, self.position = self.epoch + 1, 0
            self._batches = self._epoch_batches()
        batch = self._batches[self.position]
        self.position += 1
        return self.dataset.collater([self.dataset[int(i)] for i in batch])

    def few(self) -> dict:
        """A batch of two pairs at most, the same ones at any time; the order of the others is not disturbed."""
        return self.dataset.collater([self.dataset[int(i)] for i in self.indices[:2]])

    def _epoch_batches(self):
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(self.indices)
        # pairs of like length together, as in training; ties in random order
        lengths = np.array([max(self.dataset.size(int(i))) for i in order])
        order = order[np.argsort(lengths, kind="stable")]
        batches = data_utils.batch_by_size(
            order, num_tokens_fn=self.dataset.num_tokens, max_tokens=self.max_tokens, max_sentences=self.max_sentences
        )
        return [batches[i] for i in rng.permutation(len(batches))]

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.position, self._batches = state["epoch"], state["position"], []
