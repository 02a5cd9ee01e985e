"""Updates in which a reweighter came to nothing: the student goes on, they are counted, and many in a row stop the run."""

from __future__ import annotations

from typing import Any

from fairseq_l2rw.errors import L2RWError

#: updates in a row that may come to nothing before the run is stopped
MOST_SKIPPED_IN_A_ROW = 10


class CountsSkipped:
    """Attributes: ``skipped``, how many updates came to nothing; ``skipped_in_a_row``, how many of them since the last good one."""

    skipped = skipped_in_a_row = 0

    def _skip(self, reason: str) -> Any:
        """Counts an update that came to nothing, and returns None, which is its report.

        Raises:
            L2RWError: it is one of many in a row.
        """
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise L2RWError(f"{self.skipped_in_a_row} teacher updates in a row came to nothing; the last: {reason}")
        return None
