"""Learning to reweight with deep interactions, for fairseq.

``--user-dir fairseq_l2rw`` imports this package from within fairseq, which registers the task
``l2rw_translation`` and the criterion ``l2rw_cross_entropy``. Where fairseq has not been imported yet
nothing of it is loaded: ``fairseq_l2rw.meta`` works without fairseq, and the console command starts
quickly; ``import fairseq_l2rw.translation`` registers both by hand.
"""

import sys

from fairseq_l2rw.version import __version__

__all__ = ["__version__"]

if "fairseq" in sys.modules:
    import fairseq_l2rw.translation  # noqa: F401
