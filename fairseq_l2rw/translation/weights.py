"""The teacher's weight of every pair of a binarised split, in corpus order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.capture import Capture, parse_layers
from fairseq_l2rw.translation.task import L2RWTranslationTask


@dataclass(frozen=True)
class PairWeight:
    """One pair.

    Attributes:
        index: number in the binarised split.
        weight: w_i, the product of the heads.
        heads: w_i^k, in the order of ``Weigher.heads``.
        loss: label-smoothed loss, nats per target token.
        source, target: token indices.
    """

    index: int
    weight: float
    heads: tuple[float, ...]
    loss: float
    source: torch.Tensor
    target: torch.Tensor


class Weigher:
    """Student and teacher of a checkpoint, in evaluation mode.

    Args:
        data: folder of binarised data.
        path: a checkpoint of ``--task l2rw_translation``.
        cpu: stay off the GPU.

    Raises:
        L2RWError: no checkpoint of that task, or one without a teacher.
    """

    def __init__(self, data: str, path: str, cpu: bool = False):
        state = checkpoint_utils.load_checkpoint_to_cpu(path)
        saved = state.get("extra_state", {}).get(L2RWTranslationTask.__name__)
        if saved is None:
            raise L2RWError(
                f"--path {path}: there is no teacher in it; give a checkpoint of --task l2rw_translation "
                "that was not trained with --teacher uniform"
            )
        models, cfg, task = checkpoint_utils.load_model_ensemble_and_task(
            [path], arg_overrides={"data": data}, state=state
        )
        self.task, self.model = task, models[0]
        if torch.cuda.is_available() and not cpu:
            self.model.cuda()
        self.model.eval()
        self.criterion = task.build_criterion(cfg.criterion)
        self.meta = task.make_meta(self.model, Capture(self.model, parse_layers(cfg.task.teacher_layers), task.tgt_dict.pad()))
        self.meta.load_state_dict(saved["meta"])
        self.meta.updates = state["optimizer_history"][-1]["num_updates"]
        self.heads = self.meta.config.heads

    def weigh(self, split: str, max_tokens: int = 8000, chunk: int = 10_000) -> Iterator[PairWeight]:
        """Yields the pairs of a split in order.

        Args:
            split: name of a binarised split.
            max_tokens: size of a batch.
            chunk: pairs that are sorted by length together; what is held in memory.
        """
        self.task.load_dataset(split, combine=False, epoch=1)
        dataset = self.task.dataset(split)
        for first in range(0, len(dataset), chunk):
            indices = sorted(range(first, min(first + chunk, len(dataset))), key=lambda i: max(dataset.size(i)))
            longest = max(max(dataset.size(i)) for i in indices)
            done = {}
            for batch in data_utils.batch_by_size(
                indices, num_tokens_fn=dataset.num_tokens, max_tokens=max(max_tokens, longest)
            ):
                sample = dataset.collater([dataset[int(i)] for i in batch])
                done.update((pair.index, pair) for pair in self._weigh_batch(sample, dataset))
            yield from (done[i] for i in sorted(done))

    @torch.no_grad()
    def _weigh_batch(self, sample, dataset):
        if next(self.model.parameters()).is_cuda:
            sample = utils.move_to_cuda(sample)
        source, target = sample["net_input"]["src_tokens"], sample["target"]
        with self.task.capture.states() as states:
            net_output = self.model(**sample["net_input"])
        losses, _, n_tokens = self.criterion.sentence_losses(self.model, net_output, sample)
        lengths = source.ne(self.task.source_dictionary.pad()).sum(1)
        rows = self.meta.features(losses, n_tokens, lengths, states.means(source, target))
        heads = self.meta.teacher(rows)
        columns = zip(
            sample["id"].tolist(), heads.prod(1).tolist(), heads.tolist(), (losses / n_tokens.clamp(min=1)).tolist()
        )
        for index, weight, per_head, loss in columns:
            pair = dataset[index]
            yield PairWeight(index, weight, tuple(per_head), loss, pair["source"], pair["target"])
