"""Which training pairs are left out, and why.

The text is read once, in chunks. What has to be remembered of it is eight bytes a pair, for the duplicates (a hash of 64
bits: of a billion different pairs, 0.03 are expected to be taken for another one), and the held-out splits.
"""

import hashlib
from typing import Dict, List, Sequence

import numpy as np

from fairseq_l2rw.corpus.bitext import Pair

#: what a byte of the status of a raw line stands for; 0: it is kept
REASONS = ("kept", "empty", "in_valid", "in_test", "in_meta", "duplicate", "too_long", "ratio")
KEPT = 0


class SeenPairs:
    """A set of 64-bit hashes in eight bytes each (20 at most, while two parts are merged).

    It is a list of sorted parts, each less than half as large as the one before, so that there are few of them and a hash
    is moved only a few times.
    """

    def __init__(self):
        self._parts: List[np.ndarray] = []

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Adds uint64 [N]; returns bool [N], true at the first occurrence of a hash that was not there before."""
        values, first = np.unique(hashes, return_index=True)
        new = np.ones(len(values), dtype=bool)
        for part in self._parts:
            places = np.minimum(np.searchsorted(part, values), len(part) - 1)
            new &= part[places] != values
        is_new = np.zeros(len(hashes), dtype=bool)
        is_new[first[new]] = True
        if new.any():
            self._parts.append(values[new])
        while len(self._parts) > 1 and len(self._parts[-2]) < 2 * len(self._parts[-1]):
            merged = np.concatenate([self._parts.pop(), self._parts.pop()])
            merged.sort(kind="stable")  # two sorted runs: one pass
            self._parts.append(merged)
        return is_new

    @property
    def nbytes(self) -> int:
        """Memory of the hashes."""
        return sum(part.nbytes for part in self._parts)


class Cleaner:
    """Finds the pairs that must go before the text is cut into pieces.

    Args:
        held_out: pair -> ``in_valid``, ``in_test`` or ``in_meta``: pairs of other splits.
        duplicates: do pairs that were there before go as well?
    """

    def __init__(self, held_out: Dict[Pair, str], duplicates: bool):
        self._held_out = {pair: REASONS.index(reason) for pair, reason in held_out.items()}
        self._seen = SeenPairs() if duplicates else None

    def reasons(self, pairs: Sequence[Pair]) -> np.ndarray:
        """The next pairs' places in `REASONS`: uint8 [N]."""
        found = np.fromiter(map(self._reason, pairs), dtype=np.uint8, count=len(pairs))
        if self._seen is not None:
            rows = np.flatnonzero(found == KEPT)
            hashes = np.fromiter((_hash(pairs[row]) for row in rows), dtype=np.uint64, count=len(rows))
            found[rows[~self._seen.add(hashes)]] = REASONS.index("duplicate")
        return found

    def _reason(self, pair: Pair) -> int:
        if not (pair[0].strip() and pair[1].strip()):
            return REASONS.index("empty")
        return self._held_out.get(pair, KEPT)


def length_reason(lengths: Sequence[int], max_pieces: int, max_ratio: float) -> int:
    """The place in `REASONS` of a pair with so many pieces on each side; 0 switches a limit off."""
    if not min(lengths):
        return REASONS.index("empty")  # nothing but characters that sentencepiece drops
    if max_pieces and max(lengths) > max_pieces:
        return REASONS.index("too_long")
    if max_ratio and max(lengths) > max_ratio * min(lengths):
        return REASONS.index("ratio")
    return KEPT


def _hash(pair: Pair) -> int:
    return int.from_bytes(hashlib.blake2b("\n".join(pair).encode(), digest_size=8).digest(), "little")
