"""A probe for each kind of noise: do the student's states look like those of a sound or of a spoilt pair?

Equations, for kind k, x the lengths and states of an example (never its loss: training examples are partly learnt by
heart, dev examples are not)::

    min over P_k:   E_sound log(1 + exp(-P_k(m x)))  +  E_spoilt log(1 + exp(P_k(m x)))
    s_k(x) = P_k(x) / 3,  between -3 and 3

m is dropout on the inputs (0.3): a few hundred dev pairs are little for as many inputs. P_k is an MLP trained by logistic regression on the dev batches that the contrastive objective runs through the student
anyway, sound and spoilt. The teacher's heads see s_k in place of the states: one number, learnt from labels that cost
nothing, where hundreds of inputs fit the noise of single influences. What that number is worth as a weight, the
hypergradient alone decides.

A head's turn comes seldom, and by its turns alone a probe would know little for hundreds of student updates, in which the
heads would learn from scores that mean nothing. So it begins with a look at a number of dev batches at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta.features import LOSS_COLUMNS, FeatureLayout
from fairseq_l2rw.meta.networks import Standardizer, interactions, mlp
from fairseq_l2rw.meta.replay import ReplayRows

#: surface columns that a probe sees: lengths and their ratio
LENGTHS = slice(LOSS_COLUMNS, LOSS_COLUMNS + 3)
TEMPERATURE, LIMIT = 3.0, 3.0
#: in 256ths: a random byte decides
DROPPED = 77
#: Adam steps for each kind at the beginning, before a score is asked for
BEGINNING = 300


class Probe(nn.Module):
    """P_k for all kinds, on raw rows ``[N, D]`` of a :class:`FeatureLayout`.

    Args:
        layout: widths of the internal states.
        kinds: number of kinds of noise.
        hidden: width of the hidden layers.

    Attributes:
        decay: a of the history (:mod:`~fairseq_l2rw.meta.history`), where the layout has columns for it.
    """

    decay = 0.0

    def __init__(self, layout: FeatureLayout, kinds: int, hidden: int):
        super().__init__()
        self.layout = layout
        self.standardizer = Standardizer(layout.width)
        width = self._inputs(torch.zeros(1, layout.width)).shape[1]
        self.nets = nn.ModuleList(mlp(width, hidden) for _ in range(kinds))

    def _inputs(self, rows: Tensor) -> Tensor:
        surface, internal = self.layout.split(self.standardizer(rows))
        return torch.cat([surface[:, LENGTHS], *interactions(internal)], dim=1)

    def logit(self, rows: Tensor, kind: int, generator: torch.Generator | None = None) -> Tensor:
        """P_k, ``[N]``, attached; of inputs under dropout, drawn from the generator (of the CPU) where there is one."""
        inputs = self._inputs(rows)
        if generator is not None:
            kept = (_random_bytes(inputs.shape, generator) >= DROPPED).to(inputs)
            inputs = inputs * kept.mul_(256 / (256 - DROPPED))
        return self.nets[kind](inputs).squeeze(1)

    @torch.no_grad()
    def forward(self, rows: Tensor, only: int | None = None) -> Tensor:
        """s_k, averaged with the past ones of the row, for every kind, or for ``only`` one: ``[N, K]``, detached."""
        inputs = self._inputs(rows)
        zero = rows.new_zeros(len(rows), 1)
        logits = torch.cat([net(inputs) if only in (None, k) else zero for k, net in enumerate(self.nets)], dim=1)
        scores = (logits / TEMPERATURE).clamp(-LIMIT, LIMIT)
        if not self.layout.past:
            return scores
        past = rows[:, -self.layout.past :].to(scores)
        return torch.where(past == 0, scores, torch.lerp(scores, past, self.decay))


class ProbeTrainer:
    """Trains a :class:`Probe` on rows of dev batches, of which the last few thousand are kept.

    Args:
        probe: what is trained.
        seed: of the samples.
        steps: Adam steps for each dev batch.
        batch: rows of one step.
        capacity: rows kept for each kind, sound and spoilt together.
    """

    def __init__(self, probe: Probe, seed: int, steps: int = 4, batch: int = 512, capacity: int = 4000):
        self.probe, self.seed, self.steps, self.batch, self.capacity = probe, seed, steps, batch, capacity
        self.rows = [ReplayRows(capacity, probe.layout.width) for _ in probe.nets]
        self.optimizer = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=0.01)
        self.turn = 0

    def learn(self, kind: int, sound: Tensor, spoilt: Tensor) -> None:
        """Takes raw rows ``[N, D]`` of a dev batch and of the same batch spoilt in the way of ``kind``."""
        if self._take(kind, sound, spoilt):
            self._train(kind, self.steps)

    def begin(self, kind: int, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Learns from several dev batches at once, each as for :meth:`learn`, before a score is asked for."""
        taken = [self._take(kind, *pair) for pair in pairs]
        if any(taken):
            self._train(kind, BEGINNING)

    def _take(self, kind, sound, spoilt) -> bool:
        """Keeps the rows that are finite; False where there are none."""
        rows = torch.cat([sound, spoilt])
        is_sound = torch.cat([torch.ones(len(sound)), torch.zeros(len(spoilt))]).to(rows)
        finite = torch.isfinite(rows).all(1)
        if not finite.any():
            return False
        self.probe.standardizer.update(rows[finite])
        self.rows[kind].add(rows[finite], is_sound[finite])
        return True

    def _train(self, kind, steps) -> None:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.turn)
        self.turn += 1
        for _ in range(steps):
            some, label = self.rows[kind].sample(self.batch, generator)
            with torch.enable_grad():
                logit = self.probe.logit(some, kind, generator)
                loss = nn.functional.binary_cross_entropy_with_logits(logit, label.to(logit))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
            self.optimizer.step()

    def state_dict(self) -> dict:
        """All but the probe itself."""
        return {
            "turn": self.turn,
            "optimizer": self.optimizer.state_dict(),
            "rows": [rows.state_dict() for rows in self.rows],
        }

    def load_state_dict(self, state: dict) -> None:
        self.turn = state["turn"]
        self.optimizer.load_state_dict(state["optimizer"])
        for rows, saved in zip(self.rows, state["rows"], strict=True):
            rows.load_state_dict(saved)


def _random_bytes(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Eight at a time: a draw for each would take as long as the network itself."""
    count = shape.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[:count].view(shape)
