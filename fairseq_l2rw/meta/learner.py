"""The teacher's own step: from influences to its parameters.

Equations, for head k, row i with weight w_i^k::

    exact            sum_i dJ/dw_i dw_i^k/d omega, one step
    else             mean_i [ c_i / s w_i^k + tau KL(Bernoulli(w_i^k) || Bernoulli(p)) ], R steps on replayed rows

c_i is a row's own share of the gradient, W dJ/dw_i, s what influences are measured by (nats), tau and p strength and weight of the prior.
The stationary weight is sigmoid(logit p - E[c] / (tau s)).
"""

from __future__ import annotations

import math
from typing import Iterable

import torch
from torch import Tensor, nn

from fairseq_l2rw.meta.config import MetaConfig
from fairseq_l2rw.meta.error_normalizer import ErrorNormalizer
from fairseq_l2rw.meta.features import running_mean
from fairseq_l2rw.meta.replay import ReplayRows

SQUARE_DECAY = 0.95


class Learner:
    """Optimizer and memory of a teacher; one head learns at a time.

    Args:
        teacher: the network.
        config: settings.
        least_loss: h of :class:`ErrorNormalizer`, nats per token.

    Attributes:
        optimizer: AdamW on all that the hypergradient trains.
        replay: the kept rows of each head.
        influence_square: running mean square of each head's influences; None before its first.
        normalizer: None unless ``config.influence_normalization`` asks for one.
    """

    def __init__(self, teacher, config: MetaConfig, least_loss: float = 0.0):
        self.teacher, self.config = teacher, config
        self.optimizer = torch.optim.AdamW(self._groups(), lr=config.lr, weight_decay=config.weight_decay)
        self.replay = [ReplayRows(config.replay_rows, teacher.layout.width) for _ in config.heads]
        self.influence_square: list[float | None] = [None] * len(config.heads)
        asked = config.influence_normalization == "error"
        self.normalizer = ErrorNormalizer(len(config.heads), least_loss) if asked else None

    def _groups(self) -> list[dict]:
        """All parameters that the hypergradient trains in one group, or g's in one of their own where they learn otherwise."""
        config = self.config
        if config.g_lr_factor == 1 and config.g_weight_decay is None:
            return [{"params": self.teacher.own_parameters()}]
        parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, p in self.teacher.nets.named_parameters():  # HEAD.f.…, HEAD.g.… or HEAD.bias
            parts[name.split(".")[1] == "g"].append(p)
        decay = config.weight_decay if config.g_weight_decay is None else config.g_weight_decay
        return [
            {"params": parts[False]},
            {"params": parts[True], "lr": config.lr * config.g_lr_factor, "weight_decay": decay},
        ]

    @property
    def exact(self) -> bool:
        """Neither replay nor prior: the teacher follows the hypergradient itself."""
        return self.config.replay == 0 and self.config.prior_strength == 0

    def follow(self, head: int, inputs: Tensor, gradient: Tensor) -> float:
        """One step along the exact gradient; returns its norm.

        Args:
            inputs: what the weights were made from, standardised ``[N, teacher.width]``.
            gradient: dJ/dw_i ``[N]``.
        """
        return self.step(head, [(inputs, gradient, None)], reduction="sum")

    def learn(self, head: int, rows: Tensor, target: Tensor, scale: float, seed: int) -> float:
        """Keeps the rows and takes R steps on samples of what is kept (R = 0: one on the rows themselves); returns the mean norm of the gradients.

        Args:
            rows: features ``[N, D]``.
            target: c_i ``[N]``, nats.
            scale: s.
            seed: of the draws.
        """
        config, inputs = self.config, self.teacher.inputs
        target = target / scale
        if self.normalizer is not None:
            target = self.normalizer(head, target, rows[:, 0])
        if config.replay == 0:
            return self.step(head, [(inputs(rows), target, config.prior_strength)])
        buffer = self.replay[head]
        buffer.add(rows, target)
        generator = torch.Generator().manual_seed(seed)
        drawn = [buffer.draw(config.replay_batch, generator) for _ in range(config.replay)]
        used, positions = torch.cat(drawn).unique(return_inverse=True)  # a row is mostly drawn more than once
        some, targets = buffer.at(used)
        seen = inputs(some, head)
        return self.step(head, ((seen[i], targets[i], config.prior_strength) for i in positions.split([len(d) for d in drawn])))

    def deviation(self, head: int, influence: Tensor) -> float | None:
        """Running root mean square of a head's influences ``[N]``, these included; None where all were zero."""
        square = running_mean(self.influence_square[head], float(influence.square().mean()), SQUARE_DECAY)
        self.influence_square[head] = square
        return square**0.5 or None

    def step(self, head: int, batches: Iterable[tuple[Tensor, Tensor, float | None]], reduction: str = "mean") -> float:
        """One step for each batch of inputs, targets ``[N]`` and strength of the prior; returns the mean norm of the gradients."""
        norms = []
        parameters = self.teacher.own_parameters()
        for inputs, target, strength in batches:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                logit = self.teacher.logits(inputs, head)
                w = torch.sigmoid(logit)
                per_row = target * w
                if strength:
                    # KL(Bernoulli(w) || Bernoulli(p)) = w (logit w - logit p) + log(1 - w) - log(1 - p)
                    per_row = per_row + strength * (w * (logit - self.config.prior_logit) + nn.functional.logsigmoid(-logit))
                loss = per_row.sum() if reduction == "sum" else per_row.mean()
                loss.backward()
            norm = float(nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or float("inf")))
            if math.isfinite(norm):  # else the teacher would never be a number again
                self.optimizer.step()
                norms.append(norm)
        return sum(norms) / len(norms) if norms else 0.0

    def state_dict(self) -> dict:
        """All but the teacher: tensors and plain Python only."""
        return {
            "teacher_optimizer": self.optimizer.state_dict(),
            "normalizer": None if self.normalizer is None else self.normalizer.state_dict(),
            "replay": [rows.state_dict() for rows in self.replay],
            "influence_square": list(self.influence_square),
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes back what :meth:`state_dict` gave; other entries are left alone.

        Raises:
            ValueError: it is of another number of heads.
        """
        self.optimizer.load_state_dict(state["teacher_optimizer"])
        for rows, saved in zip(self.replay, state["replay"], strict=True):
            rows.load_state_dict(saved)
        self.influence_square = list(state["influence_square"])
        if self.normalizer is not None and state.get("normalizer"):  # another option was given since
            self.normalizer.load_state_dict(state["normalizer"])
