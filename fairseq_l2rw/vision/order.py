"""Which images an epoch sees, and in which order; ``--skip-below T`` mostly leaves out those whose label the teacher takes for wrong.

When an epoch begins, the images whose last weight was below T are judged anew, in one forward pass, and one that weighs w now
stays with probability (w / T)^P (``--skip-power P``). The epoch takes as many images as ever, but from those that stay alone, which it
goes through more than once, each time in another order: what wrong labels took up of each batch is for the others. Since it is a draw,
the teacher goes on learning from images of every kind, and no image is lost for good by being hard. The same for translation, where an
epoch gets shorter instead, and a few of those that are left out are trained on again to see them anew:
:mod:`fairseq_l2rw.translation.settled`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_l2rw.vision.seeds import generator


def epoch_order(images: int, take: int, seed: int, epoch: int, stay: Tensor | None = None) -> Tensor:
    """Numbers of the images that an epoch sees, one after another ``[take]``.

    Args:
        images: N, how many there are.
        take: how many it sees.
        seed: of the run.
        epoch: from 0.
        stay: which images it may see, bool ``[N]``, at least one: each of them once, then in another order, and so on; all by default.
    """
    order = torch.empty(0, dtype=torch.long)
    turn = 0
    while len(order) < take:
        drawn_for = (seed, epoch, turn) if turn else (seed, epoch)
        more = torch.randperm(images, generator=generator("order", *drawn_for))
        order = torch.cat([order, more if stay is None else more[stay[more]]])
        turn += 1
    return order[:take]
