"""Self-paced learning: easy pairs first, and a threshold on the loss that grows until all are in.

Equations, with f_i = l_i / n_i the loss per token and t the student updates done::

    w_i = 1 if f_i < lambda_t, else 0                       (the minimum over w of sum_i w_i f_i - lambda_t sum_i w_i)
    lambda_t = share * mean * growth^floor((t - start) / interval)

``mean`` is the running mean of f when the weights begin (``--meta-start``; the original's warm-up), so that about half of the
pairs are in at first, as in the original. Options: ``--self-paced-share`` (1), ``--self-paced-growth`` (1.3, the original's mu) and
``--self-paced-interval`` (student updates between two growths; the original trains to convergence in between).

Source: Kumar, Packer, Koller 2010, "Self-Paced Learning for Latent Variable Models", algorithm 1, with lambda = 1 / K.
It has no network and needs no dev set.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairseq_l2rw.meta.reweighters import register_rule
from fairseq_l2rw.meta.reweighters.rule import Rule


@register_rule("self_paced")
class SelfPaced(Rule):
    """A threshold on the loss per token."""

    first: Tensor
    threshold: Tensor

    def __init__(self, student, parameters, config):
        super().__init__(student, parameters, config)
        #: lambda at ``--meta-start``, and now; not a number until the mean loss is known: then every weight is 1
        self.register_buffer("first", torch.tensor(float("nan"), dtype=torch.float64))
        self.register_buffer("threshold", torch.tensor(float("nan"), dtype=torch.float64))

    def begin_update(self, updates, dev_batch, running):
        if self.first.isnan() and running.loss is not None:
            self.first.fill_(self.config.paced_share * running.loss)
        grown = (updates - self.config.start) // self.config.paced_interval
        self.threshold.copy_(self.first * self.config.paced_growth**grown)

    def weights(self, record):
        return self._below(record.losses / record.n_tokens.clamp(min=1)).to(record.losses)

    def forward(self, rows):
        return self._below(rows[:, :1]).to(rows)

    def _below(self, per_token):
        return (per_token < self.threshold) | self.threshold.isnan()
