"""What the method needs to know of the model that is trained."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn


class Examined(NamedTuple):
    """What a forward pass over a dev batch shows.

    Attributes:
        losses: token-summed, nats, attached ``[N]``.
        n_tokens: target tokens ``[N]``.
        source_lengths: ``[N]``.
        internal: states, detached, one ``[N, H]`` for each block of the layout.
    """

    losses: Tensor
    n_tokens: Tensor
    source_lengths: Tensor
    internal: list[Tensor]


class Student(Protocol):
    """The model that is trained, seen by the method.

    A student may have one method more, ``examine(batch) -> Examined``: then the teacher sees the states through probes
    (:mod:`fairseq_l2rw.meta.probe`), and J on a dev batch is sum of ``losses`` / sum of ``n_tokens``. Where an attribute ``one_pass`` is
    true, the graph of the pass over a sound dev batch lives until the spoilt one has been judged, which may then share it.
    With ``subset(batch, index)``, the examples of a training batch at ``index`` ``[M]``, in the form of a dev batch, influences can be measured by
    the distance between sound and spoilt training examples (:mod:`fairseq_l2rw.meta.train_scale`); with ``whole(batch, gather)``, the training
    batch of all workers on each of them, from the rows that :meth:`Workers.gather` puts together, these are chosen and spoilt among all, else among each worker's own.

    An attribute ``dev_only`` names the kinds that dev batches alone can be spoilt in: their scale is the dev set's.

    An attribute ``least_loss`` tells what the loss of an example cannot fall below, nats per token; it is 0 where there is none.

    Attributes:
        module: the network; its parameters are theta.
    """

    module: nn.Module

    def losses(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Token-summed losses (nats, attached) and target tokens of each example: ``[N], [N]``.

        Runs in whatever mode ``module`` is in and draws its dropout masks from
        torch's global generator, as the training step did.
        """

    def dev_loss(self, batch: Any) -> Tensor:
        """J on a dev batch: nats per token, a scalar, attached; dropout off."""

    def corrupt(self, batch: Any, kind: str, seed: int) -> Any | None:
        """The same dev batch spoilt in one way, or None where that is not possible."""

    def share(self, batch: Any, rank: int, count: int) -> tuple[Any, float] | None:
        """Every ``count``-th example of a dev batch from ``rank`` on, and their share of the batch's tokens.

        None, for all ranks alike, where not everyone would get one. Needed only where there are several workers.
        """
