"""Reading fairseq's checkpoints with torch's safe loader.

Since torch 2.6 ``torch.load`` executes nothing but what is on an allow-list (``weights_only=True``), and
fairseq's own checkpoints hold a few objects that are not on torch's. Those few are named here, each with its
reason; the safe loader is never switched off.
"""

from __future__ import annotations

import argparse

import torch

#: what fairseq writes into a checkpoint besides tensors and plain Python
SAFE_GLOBALS = (
    argparse.Namespace,  # cfg.model, cfg.task of architectures and tasks without a dataclass; holds attributes only
)


def allow_fairseq_globals() -> None:
    """Adds :data:`SAFE_GLOBALS` to torch's allow-list; calling it again changes nothing."""
    torch.serialization.add_safe_globals(list(SAFE_GLOBALS))
