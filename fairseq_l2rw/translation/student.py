"""A fairseq encoder-decoder as the method sees it (:class:`fairseq_l2rw.meta.student.Student`)."""

from __future__ import annotations

from fairseq_l2rw.translation.corruptions import Vocabulary, corrupt


class TranslationStudent:
    """Model and criterion together.

    Args:
        module: the fairseq model, unwrapped.
        criterion: gives ``sentence_losses``.
        vocabulary: for the corruptions.
    """

    def __init__(self, module, criterion, vocabulary: Vocabulary):
        self.module, self.criterion, self.vocabulary = module, criterion, vocabulary

    def losses(self, batch):
        net_output = self.module(**batch["net_input"])
        losses, _, n_tokens = self.criterion.sentence_losses(self.module, net_output, batch)
        return losses, n_tokens

    def dev_loss(self, batch):
        losses, n_tokens = self.losses(batch)
        return losses.sum() / n_tokens.sum()

    def corrupt(self, batch, kind, seed):
        return corrupt(batch, kind, self.vocabulary, seed)
