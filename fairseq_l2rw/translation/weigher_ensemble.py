"""Several students with their teachers, weighing together.

w_i = mean_m w_i(m), and so for the heads and the loss. Two trainings reject different ones of the difficult clean pairs, so
their mean tells noise from them better than either does.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.weights import PairWeight, TokenPair, Weigher


class WeigherEnsemble:
    """The mean of several weighers; it has what :class:`~fairseq_l2rw.translation.weights.Weigher` has to weigh by.

    Args:
        data, device: as ``Weigher``'s.
        paths: of checkpoints whose teachers have the same heads.

    Raises:
        L2RWError: their heads or dictionaries differ, or one of them is no checkpoint with a teacher.
    """

    def __init__(self, data: str, paths: Sequence[str], device: str | None = None):
        self._members = [Weigher(data, path, device) for path in paths]
        first = self._members[0]
        for path, member in zip(paths, self._members):
            if member.heads != first.heads:
                raise L2RWError(
                    f"--path {path}: its heads are {', '.join(member.heads)}, those of {paths[0]} {', '.join(first.heads)}; "
                    "give checkpoints with the same --meta-contrast"
                )
            if member.languages != first.languages:
                raise L2RWError(f"--path {path}: from {' to '.join(member.languages)}, but {paths[0]} from {' to '.join(first.languages)}")  # fmt: skip
        self.heads, self.dictionaries, self.languages = first.heads, first.dictionaries, first.languages

    def fits(self, pair: TokenPair) -> bool:
        """Is the pair short enough for all students?"""
        return all(member.fits(pair) for member in self._members)

    def weigh(self, pairs: Sequence[TokenPair], max_tokens: int = 8000) -> list[PairWeight]:
        """Means over the members, of the pairs in their order; ``max_tokens`` as ``Weigher.weigh``'s."""
        of_members = [member.weigh(pairs, max_tokens) for member in self._members]
        return [
            PairWeight(
                fmean(one.weight for one in of_pair),
                tuple(fmean(heads) for heads in zip(*(one.heads for one in of_pair))),
                fmean(one.loss for one in of_pair),
            )
            for of_pair in zip(*of_members)
        ]
