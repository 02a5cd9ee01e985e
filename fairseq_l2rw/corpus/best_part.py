"""Which lines are the best part of a corpus: an exact selection whose memory does not grow with it.

The numbers lie in a nameless file on the disk (12 bytes a line). A double, its bits read as a whole number and turned so
that their order is that of the numbers, is found 16 bits at a time: four passes with a histogram of 65,536 places each give
the smallest number that is kept, to the last bit. Where lines that share it do not all fit, the first ones do.
"""

import math
import tempfile
from typing import Iterator, Optional

BLOCK = 1 << 16  # lines in memory at a time


class BestPart:
    """The lines with the highest numbers, as many as the budget allows.

    Args:
        folder: where the file may lie.
    """

    def __init__(self, folder: Optional[str] = None):
        from array import array

        self._file = tempfile.TemporaryFile(dir=folder)
        self._costs = tempfile.TemporaryFile(dir=folder)
        self._numbers, self._cost = array("d"), array("i")
        self.lines = 0

    def add(self, number: float, cost: int = 1) -> None:
        """Notes the next line; one with NaN for a number is never chosen."""
        self._numbers.append(number)
        self._cost.append(cost)
        self.lines += 1
        if len(self._numbers) == BLOCK:
            self._flush()

    def _flush(self) -> None:
        self._numbers.tofile(self._file)
        self._cost.tofile(self._costs)
        del self._numbers[:], self._cost[:]

    def chosen(self, budget: int) -> Iterator[bool]:
        """For each line in order: is it among those with the highest numbers whose costs sum to `budget` at most?

        Lines are taken from the highest number down, and none after the first one that does not fit.
        """
        self._flush()
        threshold, left = self._threshold(budget)
        for keys, costs in self._blocks():
            for key, cost in zip(keys.tolist(), costs.tolist()):
                if key == threshold:
                    left -= cost  # below zero: this one does not fit, nor does any after it
                    if left < 0:
                        left = -math.inf
                yield key > threshold or (key == threshold != 0 and left >= 0)

    def _threshold(self, budget: int):
        """The key at which the budget ends, and what is left of it for the lines with that key."""
        import numpy as np

        prefix, left = 0, budget
        for shift in (48, 32, 16, 0):
            sums = np.zeros(1 << 16, dtype=np.int64)
            for keys, costs in self._blocks():
                if shift < 48:
                    same = keys >> np.uint64(shift + 16) == np.uint64(prefix)
                    keys, costs = keys[same], costs[same]
                places = ((keys >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.int64)
                np.add.at(sums, places, costs)
            from_above = np.cumsum(sums[::-1])  # cost of all places down to each
            over = int(np.searchsorted(from_above, left, side="right"))
            place = (1 << 16) - 1 - over
            if place < 0:  # all fit: what is left is no matter
                return 0, left
            left -= int(from_above[over - 1]) if over else 0
            prefix = prefix << 16 | place
        return prefix, left

    def _blocks(self):
        """(keys uint64, costs int64) of all lines; key 0 stands for NaN."""
        import numpy as np

        for start in range(0, self.lines, BLOCK):
            count = min(BLOCK, self.lines - start)
            numbers = self._read(self._file, np.float64, start, count) + 0.0  # -0.0 is 0.0
            bits = numbers.view(np.uint64)
            top = np.uint64(1 << 63)
            keys = np.where(bits & top, ~bits, bits | top)
            yield np.where(np.isnan(numbers), np.uint64(0), keys), self._read(self._costs, np.int32, start, count).astype(np.int64)

    @staticmethod
    def _read(file, dtype, start: int, count: int):
        import numpy as np

        size = np.dtype(dtype).itemsize
        file.seek(start * size)
        return np.frombuffer(file.read(count * size), dtype=dtype)
