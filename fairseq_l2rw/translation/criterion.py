"""``--criterion l2rw_cross_entropy``: weighted, label-smoothed cross-entropy.

    L(theta; omega) = sum_i w_i l_i(theta) / sum_i w_i n_i      (normalisation `batch`)
                    = sum_i w_i l_i(theta) / sum_i n_i          (normalisation `tokens`)

It returns the numerator and, as sample size, the denominator; fairseq's trainer divides by the sample size
over all workers and micro-batches, so data parallelism and --update-freq are right by construction. With
--sentence-avg, n_i is 1. In evaluation, and until --meta-start, the weights are 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from fairseq.logging import metrics
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.functional import RandomState
from fairseq_l2rw.meta.weighting import effective_sample_size

NAME = "l2rw_cross_entropy"
#: criterions that the task replaces by this one with the same settings
REPLACED = ("cross_entropy", "label_smoothed_cross_entropy")


def check_name(name: str) -> None:
    """Raises L2RWError unless the task takes this criterion."""
    if name not in (NAME, *REPLACED):
        raise L2RWError(
            f"--criterion {name}: l2rw_translation weights the loss of {NAME}; leave --criterion out, or give "
            f"{NAME} or one of {', '.join(REPLACED)}, which it replaces"
        )


@dataclass
class L2RWCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """Options of ``l2rw_cross_entropy``: those of ``label_smoothed_cross_entropy``."""


def smoothed_losses(lprobs: Tensor, target: Tensor, epsilon: float, padding: int) -> tuple[Tensor, Tensor]:
    """Label-smoothed and plain negative log-likelihood of each sentence, summed over its tokens, nats.

    Args:
        lprobs: log-probabilities ``[B, T, V]``.
        target: ``[B, T]``.
        epsilon: label smoothing.
        padding: target index that does not count.

    Returns:
        ``(losses [B], nll [B])``.
    """
    each = epsilon / (lprobs.size(-1) - 1)
    return _SmoothedLosses.apply(lprobs, target, target.eq(padding), each, 1.0 - epsilon - each)


def least_smoothed_loss(epsilon: float, words: int) -> float:
    """What the label-smoothed loss of a token cannot fall below, nats: the entropy of the smoothed target.

    Args:
        epsilon: label smoothing.
        words: V, in the target dictionary.
    """
    parts = ((1, 1 - epsilon), (words - 1, epsilon / (words - 1)))
    return -sum(count * p * math.log(p) for count, p in parts if p > 0)


class _SmoothedLosses(torch.autograd.Function):
    """Linear in the log-probabilities, so that both derivatives are known. Autograd would make several gradients of their
    size and add them up; here it is one. It is the largest tensor of a training step."""

    @staticmethod
    def forward(lprobs, target, padded, each, own):
        nll = -lprobs.gather(-1, target.unsqueeze(-1)).squeeze(-1).masked_fill(padded, 0.0).sum(1)
        smooth = -lprobs.sum(-1).masked_fill(padded, 0.0).sum(1)
        return own * nll + each * smooth, nll

    @staticmethod
    def setup_context(ctx, inputs, output):
        lprobs, target, padded, ctx.each, ctx.own = inputs
        ctx.words = lprobs.size(-1)
        ctx.save_for_backward(target, padded)
        ctx.save_for_forward(target, padded)

    @staticmethod
    def backward(ctx, of_loss, of_nll):
        target, padded = ctx.saved_tensors

        def of_token(value):
            return value.unsqueeze(1).expand_as(target).masked_fill(padded, 0.0).unsqueeze(-1)

        any_word = of_token(-ctx.each * of_loss)
        gradient = any_word.repeat(1, 1, ctx.words)
        right_word = any_word + of_token(-ctx.own * of_loss - of_nll)
        return gradient.scatter_(-1, target.unsqueeze(-1), right_word), None, None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return _SmoothedLosses.forward(tangent, *ctx.saved_tensors, ctx.each, ctx.own)


@register_criterion(NAME, dataclass=L2RWCrossEntropyConfig)
class L2RWCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """Weighted, label-smoothed cross-entropy."""

    def __init__(self, task, sentence_avg, label_smoothing, ignore_prefix_size=0, report_accuracy=False):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        self.task = task
        self.least_loss = least_smoothed_loss(self.eps, len(task.target_dictionary))

    def forward(self, model, sample, reduce=True):
        """As fairseq's criterions: ``(loss, sample_size, logging_output)``."""
        meta = getattr(self.task, "meta", None)
        if meta is None or not model.training:
            return super().forward(model, sample, reduce=reduce)
        return self._weighted(meta, model, sample)

    def _weighted(self, meta, model, sample):
        random_state = RandomState.capture()
        with meta.watched(), self.task.capture.states() as states:
            net_output = model(**sample["net_input"])
            losses, nll, n_tokens = self.sentence_losses(model, net_output, sample)
        source = sample["net_input"]["src_tokens"]
        source_lengths = source.ne(self.task.source_dictionary.pad()).sum(1)
        internal = states.internal(source, sample["target"])
        features, weights = meta.weigh(losses, n_tokens, source_lengths, internal, sample, random_state)
        # as fairseq's sample size: prefix tokens that --ignore-prefix-size leaves out of the loss are counted
        target_lengths = sample["target"].ne(self.padding_idx).sum(1)
        sizes = torch.ones_like(losses) if self.sentence_avg else target_lengths.to(losses.dtype)
        meta.record(sample, features, weights, losses, sizes, n_tokens, random_state)

        loss = (weights * losses).sum()
        if meta.config.normalization == "batch":
            sample_size = (weights * sizes).sum()
        else:
            sample_size = len(losses) if self.sentence_avg else sample["ntokens"]
        logging_output = {
            "loss": loss.data,
            "nll_loss": nll.data.sum(),
            "ntokens": sample["ntokens"],
            "nsentences": len(losses),
            "sample_size": sample_size,
            "w_sum": weights.sum(),
            "w_square_sum": weights.square().sum(),
        }
        if self.report_accuracy:
            n_correct, total = self.compute_accuracy(model, net_output, sample)
            logging_output["n_correct"], logging_output["total"] = n_correct.item(), total.item()
        return loss, sample_size, logging_output

    def sentence_losses(self, model, net_output, sample) -> tuple[Tensor, Tensor, Tensor]:
        """Label-smoothed loss, negative log-likelihood and target tokens of each sentence: ``[B]`` each, nats."""
        logits = net_output[0]
        if torch.is_tensor(logits) and logits.dtype == torch.float64:
            lprobs = F.log_softmax(logits, dim=-1)  # fairseq's is float32 whatever comes in
        else:
            lprobs = model.get_normalized_probs(net_output, log_probs=True)
        target = model.get_targets(sample, net_output)
        if self.ignore_prefix_size > 0:
            lprobs = lprobs[:, self.ignore_prefix_size :, :].contiguous()
            target = target[:, self.ignore_prefix_size :].contiguous()
        losses, nll = smoothed_losses(lprobs, target, self.eps, self.padding_idx)
        return losses, nll, target.ne(self.padding_idx).sum(1)

    def target_sizes(self, target: Tensor) -> Tensor:
        """Target tokens of each sentence that count for the loss: ``[B]``."""
        return target[:, self.ignore_prefix_size :].ne(self.padding_idx).sum(1)

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """fairseq's metrics, and mean, deviation and effective sample size of the weights of an update."""
        super().reduce_metrics(logging_outputs)
        weighted = [log for log in logging_outputs if "w_sum" in log]
        count = sum(log["nsentences"] for log in weighted)
        if not count:
            return
        total = float(sum(log["w_sum"] for log in weighted))
        square = float(sum(log["w_square_sum"] for log in weighted))
        mean = total / count
        metrics.log_scalar("w_mean", mean, count, priority=310, round=3)
        metrics.log_scalar("w_std", math.sqrt(max(square / count - mean * mean, 0.0)), count, priority=311, round=3)
        metrics.log_scalar("ess", effective_sample_size(total, square, count), count, priority=312, round=3)
