"""``--task l2rw_translation``: fairseq's ``translation``, with a teacher that learns beside the student.

The task adds hooks of fairseq's own and nothing else: ``build_criterion`` (the criterion is replaced by ours),
``begin_epoch`` (the teacher is built), ``train_step`` and ``optimizer_step`` (an update begins, ends), and
``get_checkpoint_dict`` / ``set_checkpoint_dict`` (saved and restored). One method is wrapped, on the optimizer
instance alone: ``clip_grad_norm``, because fairseq keeps the norm before clipping to itself; with --skip-below also
``load_state_dict`` of the training set's iterator, because fairseq makes the batches before the task knows what stays.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from contextlib import nullcontext

import numpy as np
import torch
from fairseq import utils
from fairseq.data import indexed_dataset
from fairseq.distributed.utils import get_global_rank
from fairseq.logging import metrics
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, FairseqEncoderModel, FairseqLanguageModel
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationTask
from omegaconf import OmegaConf

from fairseq_l2rw.corpus.influence_log import InfluenceLog
from fairseq_l2rw.corpus.lines import line_map
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import FeatureLayout, MetaTrainer, RuleTrainer
from fairseq_l2rw.meta.reweighters import rule_class
from fairseq_l2rw.meta.workers import leave_at_exit, several_workers, workers
from fairseq_l2rw.translation.capture import Capture, parse_inputs
from fairseq_l2rw.translation.command_line import TASK
from fairseq_l2rw.translation.config import L2RWTranslationConfig, check_way_of_training, meta_config, skip_threshold
from fairseq_l2rw.translation.corruptions import Vocabulary
from fairseq_l2rw.translation.criterion import NAME as CRITERION
from fairseq_l2rw.translation.criterion import REPLACED, check_name
from fairseq_l2rw.translation.dev_batches import DevBatches
from fairseq_l2rw.translation.own_translations import OwnTranslations
from fairseq_l2rw.translation.precision import masters_of
from fairseq_l2rw.translation.settled import SettledPairs, Staying
from fairseq_l2rw.translation.student import TranslationStudent

logger = logging.getLogger(__name__)

#: a dev batch is this part of a training batch, but has so many tokens at least
DEV_SHARE, SMALLEST_DEV_BATCH = 0.2, 400
#: what fairseq's --amp runs the model in
autocast = functools.partial(torch.autocast, "cuda")


@register_task(TASK, dataclass=L2RWTranslationConfig)
class L2RWTranslationTask(TranslationTask):
    """Translation with learned weights of sentence pairs."""

    cfg: L2RWTranslationConfig

    def __init__(self, cfg, src_dict, tgt_dict):
        super().__init__(cfg, src_dict, tgt_dict)
        self.meta: MetaTrainer | RuleTrainer | None = None
        self.capture: Capture | None = None
        self.dev_batches: DevBatches | None = None
        self.own: OwnTranslations | None = None
        self._criterion = None
        self.influence_log: InfluenceLog | None = None
        self._raw_ids: np.ndarray | None = None
        threshold = skip_threshold(cfg)
        self.settled = None if threshold is None else SettledPairs(threshold, cfg.seed)
        self._weighed: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._left_out = 0.0
        self._folder = 0
        self._resumed: tuple | None = None
        self._saved: dict | None = None
        self._restored = self._was_started = False
        self._accumulating = False
        self._clipping = (None, 0.0)

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """As ``translation``; options are checked here, before anything is read or written."""
        meta_config(cfg)
        if cfg.teacher != "uniform":
            check_way_of_training(cfg, begun=False)
        return super().setup_task(cfg, **kwargs)

    @property
    def learns(self) -> bool:
        """Is there a teacher to train?"""
        return self.cfg.teacher != "uniform"

    # ---- start-up -----------------------------------------------------------

    def build_model(self, cfg, from_checkpoint=False):
        """As ``translation``; a model that is known to be half an encoder-decoder is refused before fairseq trips over it."""
        name = getattr(cfg, "_name", None) or getattr(cfg, "arch", None)
        kind = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)
        if kind is not None and issubclass(kind, (FairseqLanguageModel, FairseqEncoderModel)):
            lacks = "encoder" if issubclass(kind, FairseqLanguageModel) else "decoder"
            raise L2RWError(
                f"--arch {name}: {kind.__name__} has no {lacks}; l2rw_translation trains encoder-decoder models, "
                "for example --arch transformer"
            )
        return super().build_model(cfg, from_checkpoint)

    def build_criterion(self, cfg):
        name = cfg._name if "_name" in cfg else None
        if name in REPLACED:
            logger.info("criterion %s is replaced by %s with the same settings", name, CRITERION)
            settings = OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else dict(vars(cfg))
            cfg = OmegaConf.create({**settings, "_name": CRITERION})
        else:
            check_name(name)
        self._criterion = super().build_criterion(cfg)
        return self._criterion

    def begin_epoch(self, epoch, model):
        super().begin_epoch(epoch, model)
        if self.learns and self.meta is None:
            self._build_meta(model)

    def _build_meta(self, model) -> None:
        check_way_of_training(self.cfg)
        if self.cfg.meta_gradient == "unrolled" and several_workers():
            raise L2RWError("--meta-gradient unrolled works with one worker only; give forward, or train with one")
        leave_at_exit()
        capture = Capture.of(model, self.cfg, self.tgt_dict.pad())
        self.dev_batches = self._build_dev_batches(model)
        self.meta = self.make_meta(model, capture)
        never = 0 < self.cfg.max_update <= self.cfg.meta_start
        if isinstance(self.meta, MetaTrainer) and not never:
            self.meta.check_student(self._on_device(self.dev_batches.few()))
        saved = self._saved
        if saved is not None:
            self._restore(saved)
            self._saved, self._restored = None, True
        if self.cfg.influence_log is not None and get_global_rank() == 0:
            self.influence_log = InfluenceLog(self.cfg.influence_log, (saved or {}).get("influence_log"))
        if never:
            logger.warning(
                "--meta-start %d is not before --max-update %d: the teacher never learns, all weights stay 1",
                self.cfg.meta_start, self.cfg.max_update,
            )  # fmt: skip
        logger.info(
            "teacher %s: %d parameters, heads %s, dev batches from '%s' (%d pairs)",
            self.cfg.teacher, sum(p.numel() for p in self.meta.teacher.parameters()),
            ", ".join(self.meta.config.heads), self.meta_subset, len(self.dev_batches.indices),
        )  # fmt: skip

    def make_meta(self, model, capture: Capture) -> MetaTrainer | RuleTrainer:
        """A teacher for this model, new; ``build_criterion`` has been called before."""
        self.capture = capture
        # a model may have fewer positions than its option says (fairseq's fconv)
        longest = utils.resolve_max_positions(self.max_positions(), model.max_positions())[1]
        vocabulary = Vocabulary.of(self.src_dict, self.tgt_dict, self.cfg.left_pad_target, longest)
        context = autocast if self.cfg.amp else nullcontext
        self.own = OwnTranslations(model, self.tgt_dict, vocabulary, workers())
        student = TranslationStudent(model, self._criterion, vocabulary, capture, context, self.own)
        half = self.cfg.fp16 or self.cfg.bf16 or self.cfg.amp
        layout = FeatureLayout(capture.widths())
        identify = self._raw_lines if self.cfg.influence_log is not None else None
        observe = None if self.settled is None else lambda sample, w: self._weighed.append((sample["id"], w))
        if rule_class(self.cfg.teacher) is not None:
            if half:
                raise L2RWError(
                    f"--teacher {self.cfg.teacher} needs single precision; leave out --fp16, --bf16 or --amp"
                )
            return RuleTrainer(student, layout, meta_config(self.cfg), self.cfg.teacher, workers(), identify, observe)
        return MetaTrainer(
            student,
            layout,
            meta_config(self.cfg),
            teacher=self.cfg.teacher,
            inputs=parse_inputs(self.cfg.teacher_inputs)[0],
            hidden=self.cfg.teacher_hidden_dim,
            workers=workers(),
            identify=identify,
            observe=observe,
            half=half,
            number=self._numbers,
        )

    @property
    def meta_subset(self) -> str:
        """The split that dev batches come from: as told, else ``meta`` where there is one, else ``valid``."""
        if self.cfg.meta_subset:
            return self.cfg.meta_subset
        return "valid" if self._split_prefix("meta") is None else "meta"

    def _split_prefix(self, split, epoch=1) -> str | None:
        """Path of a binarised split without the languages at the ends of its files; None where there is no such split."""
        langs = (self.cfg.source_lang, self.cfg.target_lang)
        for a, b in (langs, langs[::-1]):
            prefix = os.path.join(self._data_folder(split, epoch), f"{split}.{a}-{b}.")
            if indexed_dataset.dataset_exists(prefix + self.cfg.source_lang, impl=self.cfg.dataset_impl):
                return prefix
        return None

    def _data_folder(self, split, epoch=1) -> str:
        """As ``translation`` has it: the training data alone may be spread over several folders, one an epoch."""
        folders = utils.split_paths(self.cfg.data)
        return folders[(epoch - 1) % len(folders)] if split == self.cfg.train_subset else folders[0]

    def load_dataset(self, split, epoch=1, combine=False, **kwargs):
        """As ``translation``.

        Raises:
            L2RWError: there is no such split, or it is empty.
        """
        prefix = self._split_prefix(split, epoch)
        if prefix is None:
            raise L2RWError(
                f"{self._data_folder(split, epoch)}: no binarised split '{split}' for {self.cfg.source_lang} and "
                f"{self.cfg.target_lang}; binarise one under that name, or name another split"
            )
        for lang in (self.cfg.source_lang, self.cfg.target_lang):
            path = indexed_dataset.data_file_path(prefix + lang)
            if os.path.isfile(path) and os.path.getsize(path) == 0:
                raise L2RWError(f"{path}: the split '{split}' is empty; binarise it anew from text with sentence pairs")
        super().load_dataset(split, epoch, combine, **kwargs)
        if split != self.cfg.train_subset:
            return
        self._folder = (epoch - 1) % len(utils.split_paths(self.cfg.data))
        if self.cfg.influence_log is not None:
            self._raw_ids = self._map_to_raw_lines(split, epoch)
        if self.settled is not None:
            self.settled.open(self._folder, len(self.datasets[split]))

    def _map_to_raw_lines(self, split, epoch) -> np.ndarray | None:
        """Raw line of each pair of the training set; None where a pair's own number has to do."""
        numbers, pairs = line_map(self._data_folder(split, epoch), split), len(self.datasets[split])
        if numbers is not None and len(numbers) != pairs:
            logger.warning("--influence-log: %d pairs, but raw lines of %d; ids are numbers of pairs", pairs, len(numbers))
            return None
        return numbers

    def _raw_lines(self, sample) -> torch.Tensor:
        """Raw line of each pair of a batch ``[B]``."""
        if "raw_line" in sample:
            return sample["raw_line"]
        ids = sample["id"].cpu().numpy()
        return torch.from_numpy(ids if self._raw_ids is None else self._raw_ids[ids])

    def _numbers(self, sample) -> torch.Tensor:
        """Which pairs of the corpus a batch has ``[B]``, over all its data folders."""
        folders = len(utils.split_paths(self.cfg.data))
        return sample["id"] * folders + self._folder

    def _build_dev_batches(self, model) -> DevBatches:
        split = self.meta_subset
        if self._split_prefix(split) is None:
            raise L2RWError(
                f"--meta-subset {split}: no such split in {self._data_folder(split)}; "
                "binarise a trusted dev set under that name, or name another split"
            )
        if split == self.cfg.train_subset:
            logger.warning("--meta-subset %s is the training set: the teacher cannot tell noise by it", split)
        if split not in self.datasets:
            self.load_dataset(split, combine=False, epoch=1)
        max_tokens, batch_size = self.cfg.meta_max_tokens, None
        if max_tokens is None:
            max_tokens = _part(self.cfg.train_max_tokens, SMALLEST_DEV_BATCH)
            batch_size = _part(self.cfg.train_batch_size, SMALLEST_DEV_BATCH // 10)
        max_positions = utils.resolve_max_positions(self.max_positions(), model.max_positions(), max_tokens)
        batches = DevBatches(
            self.datasets[split],
            max_tokens,
            batch_size,
            max_positions,
            self.cfg.seed,
        )
        if len(batches.indices) == 0:
            raise L2RWError(
                f"--meta-subset {split}: every pair is longer than {max_positions}; give a trusted dev set with usable pairs"
            )
        return batches

    # ---- training -----------------------------------------------------------

    def get_batch_iterator(self, dataset, *args, epoch=1, disable_iterator_cache=False, update_epoch_batch_itr=False, **kwargs):
        """As ``translation``. fairseq keeps the batches of the first epoch for all later ones, but draws others when it is
        resumed in a later one; here a resumed training has those of the first epoch as well. With --skip-below each epoch's
        are made anew, in the same order, of what stays."""
        keeps = not disable_iterator_cache and not update_epoch_batch_itr and self.can_reuse_epoch_itr(dataset)
        whole = dataset
        if self.settled is not None and dataset is self.datasets.get(self.cfg.train_subset):
            stay = self.settled.staying(epoch)
            dataset, disable_iterator_cache, self._left_out = Staying(dataset, stay), True, float(1 - stay.mean())
            if not stay.all():
                logger.info("epoch %d: %d of %d pairs are left out (--skip-below)", epoch, (~stay).sum(), len(stay))
        known = dataset in self.dataset_to_epoch_iter
        iterator = super().get_batch_iterator(
            dataset, *args, epoch=1 if keeps else epoch, disable_iterator_cache=disable_iterator_cache,
            update_epoch_batch_itr=update_epoch_batch_itr, **kwargs,
        )  # fmt: skip
        if keeps and not known:
            iterator.epoch = max(epoch, 1)
        if dataset is not whole:
            again = functools.partial(self.get_batch_iterator, whole, *args, epoch=epoch, **kwargs)
            self._note_place(iterator, again)
        return iterator

    def _note_place(self, iterator, again) -> None:
        load_state_dict = iterator.load_state_dict

        def noted(state):
            self._resumed = (iterator, again, state)
            load_state_dict(state)

        iterator.load_state_dict = noted

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        if self.meta is not None:
            if not self.meta.attached:
                masters = masters_of(optimizer, self.meta.parameters)
                self.meta.attach(getattr(optimizer, "optimizer", optimizer), masters)
                self._note_clipping(optimizer)
                if update_num > 0 and not self._restored:
                    logger.warning("no teacher in the checkpoint of %d updates: the teacher begins anew", update_num)
            if not self._accumulating:
                # an update that never came to its step (overflow, out of memory) left records: dropped here
                self.meta.begin_update(update_num, self._next_dev_batch)
                self._accumulating, self._weighed = True, []
            if self.settled is not None:
                metrics.log_scalar("skipped", self._left_out, priority=313, round=3)
            if self.cfg.influence_log is not None:
                sample["raw_line"] = self._raw_lines(sample)  # a window may outlive the folder that an epoch reads
        try:
            result = super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
        except RuntimeError:
            # out of memory: fairseq forgets the gradients so far, and one worker alone gives up the update, too
            if self.meta is not None:
                self.meta.drop_records()
                self._accumulating = several_workers()
            raise
        if self.meta is not None and ignore_grad:
            self.meta.ignore()
        return result

    def _note_weights(self) -> None:
        """What the teacher said in this update, of all workers."""
        none = torch.zeros(0, device=self.meta.parameters[0].device)
        ids, weights = zip(*([(none.long(), none), *self._weighed]))
        gather = workers().gather
        self.settled.note(gather(torch.cat(ids)), gather(torch.cat(weights).float()))
        self._weighed = []

    def _note_clipping(self, optimizer) -> None:
        clip_grad_norm = optimizer.clip_grad_norm

        def noted(max_norm, aggregate_norm_fn=None):
            self._accumulating = False
            norm = clip_grad_norm(max_norm, aggregate_norm_fn)
            self._clipping = (float(norm), float(max_norm))
            return norm

        optimizer.clip_grad_norm = noted

    def optimizer_step(self, optimizer, model, update_num):
        if self.meta is None:
            return super().optimizer_step(optimizer, model, update_num)
        if not math.isfinite(self._clipping[0]):  # --amp: its loss scaler is told, and makes no step
            super().optimizer_step(optimizer, model, update_num)
            self.meta.drop_records()
            return
        self.meta.before_step(*self._clipping)
        super().optimizer_step(optimizer, model, update_num)
        if self.settled is not None:
            self._note_weights()
        report = self.meta.after_step(self._next_dev_batch)
        if self.meta.started:
            metrics.log_scalar("meta_skipped", self.meta.skipped, weight=0, priority=302, round=0)
        if report is not None:
            if report.meta_loss is not None:
                metrics.log_scalar("meta_loss", report.meta_loss / math.log(2), priority=300, round=3)
            metrics.log_scalar("teacher_gnorm", report.gradient_norm, priority=301, round=4)
            for kind, scale in report.scales.items():
                metrics.log_scalar(f"scale_{kind}", scale, priority=303, round=2)
            if self.influence_log is not None:
                columns = (report.ids, report.weights, report.influence, report.shares)
                self.influence_log.write(self.meta.updates + 1, report.head, *(column.tolist() for column in columns))

    def _next_dev_batch(self):
        return self._on_device(self.dev_batches())

    def _on_device(self, batch):
        device = self.meta.parameters[0].device
        return utils.move_to_cuda(batch, device) if device.type != "cpu" else batch

    # ---- checkpoints --------------------------------------------------------

    def get_checkpoint_dict(self):
        """What fairseq adds to the checkpoint; read back by :meth:`set_checkpoint_dict`."""
        if self.meta is None:
            # not yet built (a save before the first update): what was read is handed on
            return {type(self).__name__: self._saved} if self._saved is not None and self.learns else {}
        state = {
            "teacher": self.cfg.teacher,
            "started": self._was_started or self.meta.started,
            "meta": self.meta.state_dict(),
            "dev_batches": self.dev_batches.state_dict(),
            "own_translations": self.own.state_dict(),
        }
        if self.influence_log is not None:
            state["influence_log"] = self.influence_log.state_dict()
        if self.settled is not None:
            state["settled"] = self.settled.state_dict()
        # fairseq moves what is its own; from a GPU's tensors a checkpoint could not be read on a machine without one
        return {type(self).__name__: utils.apply_to_sample(lambda tensor: tensor.cpu(), state)}

    def set_checkpoint_dict(self, state):
        """Takes the saved state; it is restored as soon as the teacher has been built, and what the batches need at once."""
        self._saved = state
        if self.settled is not None and "settled" in state:
            self.settled.load_state_dict(state["settled"])
            if self._resumed is not None:
                iterator, again, place = self._resumed
                if not self.settled.staying(iterator.epoch).all():
                    # fairseq has made the batches without knowing what stays, and gone to its place in them already
                    iterator._frozen_batches = again().frozen_batches
                    iterator.load_state_dict(place)

    def _restore(self, saved) -> None:
        """The teacher and its dev batches; where all weights have been 1 so far, any teacher may go on from there."""
        self.dev_batches.load_state_dict(saved["dev_batches"])
        self._was_started = saved.get("started", True)
        if not self._was_started:
            self.meta.load_statistics(saved["meta"])
            logger.info("the checkpoint is from before --meta-start: its running statistics are restored")
            return
        if saved["teacher"] != self.cfg.teacher:
            raise L2RWError(
                f"--teacher {self.cfg.teacher}: the checkpoint was trained with --teacher {saved['teacher']}; "
                "give that one, or --reset-dataloader to begin with a new teacher"
            )
        self.meta.load_state_dict(saved["meta"])
        if "own_translations" in saved:  # older checkpoints lack it
            self.own.load_state_dict(saved["own_translations"])
        logger.info("teacher and dev batches are restored")


def _part(whole: int | None, smallest: int) -> int | None:
    """The dev batch's share of a training batch's size, where that is given."""
    return None if whole is None else max(int(DEV_SHARE * whole), min(whole, smallest))
