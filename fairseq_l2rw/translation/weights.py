"""Student and teacher of a checkpoint, ready to weigh sentence pairs."""

from __future__ import annotations

import logging
from typing import NamedTuple, Sequence

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import LanguagePairDataset, data_utils
from torch import Tensor

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.capture import Capture
from fairseq_l2rw.translation.corpora import Line
from fairseq_l2rw.translation.freed_memory import keep_freed_memory
from fairseq_l2rw.translation.task import L2RWTranslationTask

logger = logging.getLogger(__name__)

TokenPair = tuple[Tensor, Tensor]


class PairWeight(NamedTuple):
    """One pair.

    Attributes:
        weight: w_i, the product of the heads.
        heads: w_i^k, in the order of ``Weigher.heads``.
        loss: label-smoothed loss, nats per target token.
    """

    weight: float
    heads: tuple[float, ...]
    loss: float


class Weigher:
    """Student and teacher of a checkpoint, in evaluation mode.

    Args:
        data: folder with the dictionaries.
        path: a checkpoint of ``--task l2rw_translation``.
        device: where the student runs; default: the GPU where there is one.

    Attributes:
        heads: names of the teacher's heads.
        updates: student updates that the checkpoint has behind it.
        dictionaries, languages: of source and target.

    Raises:
        L2RWError: no checkpoint of that task, or one without a teacher.
    """

    def __init__(self, data: str, path: str, device: str | None = None):
        overrides = {"data": data}
        state = checkpoint_utils.load_checkpoint_to_cpu(path, overrides)
        saved = state.get("extra_state", {}).get(L2RWTranslationTask.__name__)
        if saved is None:
            raise L2RWError(
                f"--path {path}: there is no teacher in it; give a checkpoint of --task l2rw_translation "
                "that was not trained with --teacher uniform"
            )
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(
            [path], arg_overrides=overrides, state=state
        )
        keep_freed_memory()
        self.task, self.model = task, models[0]
        self.model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.eval()
        self.criterion = task.build_criterion(cfg.criterion)
        self.meta = task.make_meta(self.model, Capture.of(self.model, cfg.task, task.tgt_dict.pad()))
        self.meta.load_state_dict(saved["meta"])
        self.updates = self.meta.updates = state["optimizer_history"][-1]["num_updates"]
        self.heads = self.meta.config.heads
        self.dictionaries = (task.src_dict, task.tgt_dict)
        self.languages = (task.cfg.source_lang, task.cfg.target_lang)
        if self.updates <= self.meta.config.start:
            logger.warning("%s: %d updates, and the teacher learns from %d on: its weights say nothing yet", path, self.updates, self.meta.config.start)
        self._limits = utils.resolve_max_positions(task.max_positions(), self.model.max_positions())

    def fits(self, pair: TokenPair) -> bool:
        """Is the pair short enough for the student?"""
        return all(len(tokens) <= limit for tokens, limit in zip(pair, self._limits))

    def weigh(self, pairs: Sequence[TokenPair], max_tokens: int = 8000) -> list[PairWeight]:
        """Weights of the pairs, in their order.

        They depend in their last digits on which pairs share a batch: the same list gives the same bits.

        Args:
            pairs: source and target, each with its end of sentence, short enough to fit.
            max_tokens: size of a batch, padding included; a longer pair is a batch of its own.
        """
        if not pairs:
            return []
        sizes = np.array([[len(tokens) for tokens in pair] for pair in pairs])
        sides = [[pair[side] for pair in pairs] for side in (0, 1)]
        dataset = LanguagePairDataset(
            sides[0], sizes[:, 0], self.task.src_dict, sides[1], sizes[:, 1], self.task.tgt_dict,
            left_pad_source=self.task.cfg.left_pad_source, left_pad_target=self.task.cfg.left_pad_target, shuffle=False,
        )  # fmt: skip
        # by the longer side first, for a batch is as many pairs as the longest side of its longest one allows; fairseq's own
        # order, by the source alone, pads the targets of 10,000 pairs by a tenth more than those of a whole corpus
        order = np.lexsort((sizes[:, 0], sizes[:, 1], sizes.max(1)))
        batches = data_utils.batch_by_size(
            order, dataset.num_tokens, dataset.num_tokens_vec(order), max_tokens=max(max_tokens, int(sizes.max()))
        )
        numbers = torch.empty(len(pairs), len(self.heads) + 2)
        for batch in batches:
            sample = dataset.collater([dataset[int(i)] for i in batch])
            numbers[sample["id"]] = self._weigh_batch(sample).cpu()
        return [PairWeight(weight, tuple(heads), loss) for weight, *heads, loss in numbers.tolist()]

    @torch.no_grad()
    def _weigh_batch(self, sample) -> Tensor:
        """Of each pair: w_i, w_i^k of all heads, loss: ``[B, K + 2]``."""
        device = next(self.model.parameters()).device
        sample = utils.move_to_cuda(sample, device) if device.type != "cpu" else sample
        source, target = sample["net_input"]["src_tokens"], sample["target"]
        with self.task.capture.states() as states:
            net_output = self.model(**sample["net_input"])
        losses, _, n_tokens = self.criterion.sentence_losses(self.model, net_output, sample)
        lengths = source.ne(self.task.source_dictionary.pad()).sum(1)
        heads = self.meta.teacher(self.meta.features(losses, n_tokens, lengths, states.internal(source, target)))
        return torch.cat([heads.prod(1, keepdim=True), heads, (losses / n_tokens.clamp(min=1)).unsqueeze(1)], dim=1)


class WeightScorer:
    """Cells of ``weights`` for lines of a corpus (see ``corpus.scoring``).

    Args:
        weigher: student and teacher.
        max_tokens: size of a batch.
    """

    def __init__(self, weigher: Weigher, max_tokens: int):
        self._weigher, self._max_tokens = weigher, max_tokens
        self._heads = [f"weight_{head}" for head in weigher.heads]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns of a row."""
        return ("id", "weight", *self._heads, "loss", "reason", "source", "target")

    def score(self, lines: Sequence[Line]) -> list[dict[str, str] | None]:
        """The cells of each line; None where it has a reason. A line that is too long for the student gets one."""
        for line in lines:
            if line.reason is None and not self._weigher.fits(line.tokens):
                line.reason = "too_long"
        weights = iter(self._weigher.weigh([line.tokens for line in lines if line.reason is None], self._max_tokens))
        return [self._cells(next(weights)) if line.reason is None else None for line in lines]

    def _cells(self, pair: PairWeight) -> dict[str, str]:
        heads = zip(self._heads, pair.heads)
        return {"weight": f"{pair.weight:.6g}", **{name: f"{w:.6g}" for name, w in heads}, "loss": f"{pair.loss:.4f}"}
