"""Late interactions of source and target: do their tokens find each other in the student's vector space?

Equations, for a pair with target tokens y_t, encoder states h_s, cross-attention outputs a_t of the decoder's last layer, and
e(y) the row of the output projection for token y; padding excluded, cos the cosine::

    context = mean_t cos(a_t, e(y_t))            what the decoder reads from the source, against the token that is there
    target  = mean_t max_s cos(e(y_t), h_s)      is every target token found in the source?
    source  = mean_s max_t cos(h_s, e(y_t))      is every source token found in the target?

Means of states forget which token stood where; these numbers do not. Three numbers are little to fit noise with.

Source of the form mean_t max_s: late interaction, ColBERT (Khattab and Zaharia 2020, equation 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def late_interactions(
    encoder: Tensor, padded_source: Tensor, attended: Tensor | None, embedding: Tensor, target: Tensor, padded_target: Tensor
) -> Tensor:
    """``[B, 3]``, float32, detached: context, target and source; 0 where there is nothing to compare.

    Args:
        encoder: h, ``[B, S, H]``.
        padded_source: ``[B, S]``.
        attended: a, ``[B, T, H]``; None where no layer attends.
        embedding: e, ``[V, H]``.
        target: y, tokens ``[B, T]``.
        padded_target: ``[B, T]``.
    """
    with torch.no_grad(), torch.autocast(encoder.device.type, enabled=False):
        words = _unit(F.embedding(target, embedding))  # [B, T, H]
        similarity = torch.einsum("bth,bsh->bts", words, _unit(encoder))
        nowhere = padded_source.unsqueeze(1) | padded_target.unsqueeze(2)  # [B, T, S]
        similarity = similarity.masked_fill(nowhere, -1.0)
        context = similarity.new_zeros(target.shape) if attended is None else (words * _unit(attended)).sum(2)
        return torch.stack(
            [
                _mean(context, padded_target),
                _mean(similarity.amax(2), padded_target),
                _mean(similarity.amax(1), padded_source),
            ],
            dim=1,
        )


def output_embedding(decoder: nn.Module, projection: nn.Module | None) -> Tensor | None:
    """e: the weights of the output projection ``[V, H]``, which may be those of the input embedding; None without either."""
    if projection is None:
        projection = getattr(decoder, "embed_tokens", None)
    weight = getattr(projection, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.dim() == 2 else None


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.detach().float(), dim=-1)


def _mean(values: Tensor, padded: Tensor) -> Tensor:
    # filled, not multiplied by 0: in half precision a padded position may have overflowed
    return values.masked_fill(padded, 0.0).sum(1) / (~padded).sum(1).clamp(min=1)
