"""What the trusted images alone say of a label: a linear discriminant on the student's states.

Equations, for class k and the states f of the trusted images in the dev batches of late (with weights that fall by a factor a,
``--teacher-discriminant``, from each batch to the next; n the sum of all weights, n_k that of the images of class k)::

    m_k = sum_{y = k} f / n_k,    S = sum (f - m_y)(f - m_y)' / n,    S' = S + 0.1 tr(S) / H I
    log p(k | f) = f' S'^-1 m_k - m_k' S'^-1 m_k / 2 - log sum_j exp(f' S'^-1 m_j - m_j' S'^-1 m_j / 2)

Wrong labels bend the student's own classifier long before they bend its states. A trusted image must not be judged by
what was learnt from itself, or the teacher would take trusted labels for surer than training labels: the trusted images
are in five parts, and each is judged by what the other four say. (Source: Fisher 1936; on the states of a network that
was trained on noisy labels: Lee et al. 2019, Robust inference via generative classifiers for handling noisy labels.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_l2rw.vision import workers

PARTS = 5
SHRINKAGE = 0.1
#: log p is cut here: how far below makes no difference
FLOOR = -12.0


class Discriminant:
    """Sums over the trusted images, the same on all workers, and what follows from them.

    Args:
        width: H, of the states.
        classes: K.
        decay: a, from 0 to below 1.
        device: of the states.
    """

    def __init__(self, width: int, classes: int, decay: float, device: torch.device | str = "cpu"):
        self.decay = decay
        zeros = lambda *shape: torch.zeros(PARTS, *shape, dtype=torch.float64, device=device)  # noqa: E731
        self.counts, self.sums, self.squares = zeros(classes), zeros(classes, width), zeros(width, width)
        self._solved: tuple[Tensor, Tensor] | None = None

    @property
    def known(self) -> bool:
        """Whether anything was learnt."""
        return bool(self.counts.any())

    def learn(self, states: Tensor, labels: Tensor, index: Tensor) -> None:
        """Takes a dev batch, or this worker's part of it.

        Args:
            states: ``[N, H]``; images with some that are not finite are left out.
            labels: the trusted ones ``[N]``.
            index: which of the trusted images they are ``[N]``.
        """
        finite = torch.isfinite(states).all(1)
        states, labels, part = states[finite].double(), labels[finite], index.to(states.device)[finite] % PARTS
        new = [torch.zeros_like(kept) for kept in (self.counts, self.sums, self.squares)]
        new[0].index_put_((part, labels), torch.ones_like(states[:, 0]), accumulate=True)
        new[1].index_put_((part, labels), states, accumulate=True)
        for number in range(PARTS):
            own = states[part == number]
            new[2][number] = own.t() @ own
        for kept, batch in zip((self.counts, self.sums, self.squares), workers.add_up(new)):
            kept.mul_(self.decay).add_(batch)
        self._solved = None

    def __call__(self, states: Tensor, index: Tensor | None = None) -> Tensor:
        """log p(k | f) ``[N, K]``, nats, not below :data:`FLOOR`, float32; -log K for all before anything was learnt.

        Args:
            states: ``[N, H]``, detached.
            index: which of the trusted images they are ``[N]``; None for other images.
        """
        if not self.known:
            classes = self.counts.shape[1]
            return states.new_full((len(states), classes), 1 / classes, dtype=torch.float32).log()
        if self._solved is None:
            self._solved = self._solve()
        rows, offsets = self._solved
        # the last one is that of all parts
        which = torch.full((len(states),), PARTS, device=states.device) if index is None else index.to(states.device) % PARTS
        logits = torch.stack([states.double() @ r + o for r, o in zip(rows, offsets)])  # [PARTS + 1, N, K]
        chosen = logits[which, torch.arange(len(states), device=states.device)]
        return chosen.log_softmax(1).clamp(min=FLOOR).float()

    def _solve(self) -> tuple[Tensor, Tensor]:
        """S'^-1 m_k ``[PARTS + 1, H, K]`` and -m_k' S'^-1 m_k / 2 ``[PARTS + 1, K]``, without each of the parts and with all."""
        without = lambda kept: torch.cat([kept.sum(0) - kept, kept.sum(0, keepdim=True)])  # noqa: E731
        counts, sums, squares = without(self.counts), without(self.sums), without(self.squares)
        seen = counts > 1e-6
        known = seen.any(1, keepdim=True)
        means = sums / counts.clamp(min=1e-6).unsqueeze(2)  # [PARTS + 1, K, H]
        total = counts.sum(1).clamp(min=1e-6)[:, None, None]
        spread = (squares - means.mT @ (counts.unsqueeze(2) * means)) / total
        width = spread.shape[-1]
        level = spread.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        spread = spread + SHRINKAGE * level[:, None, None] * torch.eye(width, dtype=spread.dtype, device=spread.device)
        rows = torch.linalg.solve(spread, means.mT)
        offsets = -(means.mT * rows).sum(1) / 2
        return rows, offsets.masked_fill(known & ~seen, float("-inf"))

    def state_dict(self) -> dict:
        """Tensors only."""
        return {"counts": self.counts, "sums": self.sums, "squares": self.squares}

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
        self._solved = None
