"""A fairseq encoder-decoder as the method sees it (:class:`fairseq_l2rw.meta.student.Student`)."""

from __future__ import annotations

from contextlib import nullcontext

import torch

from fairseq_l2rw.meta.student import Examined
from fairseq_l2rw.translation.capture import Capture
from fairseq_l2rw.translation.corruptions import Vocabulary, corrupt
from fairseq_l2rw.translation.own_translations import GENERATED, OwnTranslations


class TranslationStudent:
    """Model and criterion together.

    Args:
        module: the fairseq model, unwrapped.
        criterion: gives ``sentence_losses``.
        vocabulary: for the corruptions.
        capture: watches the states.
        autocast: makes the context that training runs the model in (``--amp``).
        own: the student's own translations of dev pairs; None: it cannot be spoilt by them.
    """

    dev_only = (GENERATED,)

    def __init__(
        self, module, criterion, vocabulary: Vocabulary, capture: Capture, autocast=nullcontext, own: OwnTranslations | None = None
    ):
        self.module, self.criterion, self.vocabulary = module, criterion, vocabulary
        self.capture, self.autocast, self.own = capture, autocast, own
        self.least_loss: float = criterion.least_loss

    def losses(self, batch):
        with self.autocast():
            net_output = self.module(**batch["net_input"])
            losses, _, n_tokens = self.criterion.sentence_losses(self.module, net_output, batch)
        return losses, n_tokens

    def examine(self, batch):
        source = batch["net_input"]["src_tokens"]
        with self.capture.states() as states:
            losses, n_tokens = self.losses(batch)
        lengths = source.ne(self.vocabulary.pad).sum(1)  # both languages pad with the same index, fairseq sees to that
        return Examined(losses, n_tokens, lengths, states.internal(source, batch["target"]))

    def dev_loss(self, batch):
        losses, n_tokens = self.losses(batch)
        return losses.sum() / n_tokens.sum()

    def corrupt(self, batch, kind, seed):
        if kind != GENERATED:
            return corrupt(batch, kind, self.vocabulary, seed)
        with self.autocast():
            return self.own.spoilt(batch)

    def share(self, batch, rank, count):
        """Every ``count``-th sentence."""
        tokens = self.criterion.target_sizes(batch["target"])
        index = torch.arange(len(tokens), device=tokens.device)[rank::count]
        total = int(tokens.sum())
        if len(tokens) < count or total == 0:
            return None
        return self.subset(batch, index), int(tokens[index].sum()) / total

    def subset(self, batch, index):
        """Some sentences, in the order of `index`, without the columns that only others filled."""

        def rows(value):
            if not torch.is_tensor(value):
                return value
            value = value.index_select(0, index)
            # fairseq's lstm needs a batch that is as wide as its longest sentence
            return value[:, value.ne(self.vocabulary.pad).any(0)] if value.dim() == 2 else value

        return {
            **batch,
            "id": rows(batch.get("id")),
            "nsentences": len(index),
            "target": rows(batch["target"]),
            "net_input": {key: rows(value) for key, value in batch["net_input"].items()},
        }
