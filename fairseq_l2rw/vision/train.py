"""Trains one classifier: epochs, batches, the step around which a method weighs, and what is measured after each epoch."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import RandomState
from fairseq_l2rw.meta.functional import evaluating, untracked
from fairseq_l2rw.meta.weighting import effective_sample_size
from fairseq_l2rw.vision import checkpoint, methods, models, workers
from fairseq_l2rw.vision.augment import crop_and_flip
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import ImageSet, Parts
from fairseq_l2rw.vision.detection import area_under_curve
from fairseq_l2rw.vision.metrics import Metrics, histogram
from fairseq_l2rw.vision.order import epoch_order
from fairseq_l2rw.vision.seeds import derived_seed, generator
from fairseq_l2rw.vision.student import Batch, ImageStudent

logger = logging.getLogger(__name__)

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
#: of images and filters: convolutions are fastest with the channels of a pixel side by side
LAYOUT = torch.channels_last


class Training:
    """One run, from its first batch to its last.

    What is random is a function of the seed and of the number of the epoch or update, so a run that goes on from a
    checkpoint draws what it would have drawn.

    Args:
        config: settings.
        parts: the data, with their noise.
        device: where to compute.
    """

    def __init__(self, config: VisionConfig, parts: Parts, device: torch.device | str = "cpu"):
        self.config, self.device = config, torch.device(device)
        sets = {name: getattr(parts, name).to(self.device) for name in ("train", "meta", "valid", "test")}
        self.parts = dataclasses.replace(parts, **sets)
        torch.manual_seed(derived_seed("model", config.seed))
        _, channels, size, _ = parts.train.images.shape
        module = models.build(config.model, channels, size, len(parts.classes), config.dropout)
        module = module.to(self.device, memory_format=LAYOUT)
        autocast = None
        if config.amp != "none":
            autocast = functools.partial(torch.autocast, self.device.type, HALF[config.amp])
        self.student = ImageStudent(module, config.meta_batchnorm, autocast, _forward(module, config, self.device))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.optimizer = torch.optim.SGD(
            module.parameters(), config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.epochs = config.epochs + (config.finetune_epochs if config.teacher == "finetuned" else 0)
        batches = self._batches(parts.train, "--batch-size")
        if config.teacher == "finetuned":
            self._batches(parts.meta, "--teacher finetuned: --batch-size")
        self.method = methods.build(self.student, config, self.optimizer, batches * config.epochs)
        self.epoch = self.updates = 0
        self._meta_batches = 0  # taken in this update
        self.weights = torch.full((len(parts.train),), float("nan"))  # the last one of each image, see order.py
        self.seconds = 0.0
        self.last: dict = {}
        self.chosen: dict | None = None  # the epoch with the best validation accuracy

    def _batches(self, images: ImageSet, option: str) -> int:
        """Batches of an epoch, over all workers; an incomplete last one is left out."""
        size = self.config.batch_size * workers.count()
        if len(images) < size:
            raise L2RWError(f"{option} {self.config.batch_size} ({size} for all workers): there are only {len(images)} images")
        return len(images) // size

    def run(self, folder: Path | None = None) -> dict:
        """All epochs that are left, and the result: accuracy, auc and seconds.

        Args:
            folder: where checkpoint, metrics and result go; a run that stopped there goes on.
        """
        first = workers.rank() == 0
        config = dataclasses.asdict(self.config)
        state = checkpoint.load(folder, config) if folder is not None else None
        if state is not None:
            self.load_state_dict(state)
            logger.info("%s: going on after epoch %d", folder, self.epoch)
        metrics = Metrics(folder if first else None, self.config.tensorboard_logdir if first else None, self.epoch)
        if folder is not None and first:
            _write(folder / "config.json", config)
        while self.epoch < self.epochs:
            figures = self.train_epoch()
            if not first:
                continue
            metrics.write(figures)
            logger.info(
                "%s: %s",
                self.config.teacher,
                ", ".join(f"{k} {_short(v)}" for k, v in figures.items() if not isinstance(v, dict)),
            )
            if folder is not None:
                checkpoint.save(folder, {"config": config, **self.state_dict()})
        metrics.close()
        result = {"accuracy": self.last["accuracy"], "auc": self.last.get("auc"), "seconds": round(self.seconds, 2)}
        if self.chosen is not None:
            result |= {"chosen_epoch": self.chosen["epoch"], "chosen_accuracy": self.chosen["accuracy"]}
        if folder is not None and first:
            _write(folder / "result.json", result)
        return result

    def train_epoch(self) -> dict:
        """One epoch and its figures, see :mod:`fairseq_l2rw.vision.metrics`."""
        begun = time.perf_counter()
        config, count = self.config, workers.count()
        finetuning = self.epoch >= config.epochs
        images = self.parts.meta if finetuning else self.parts.train
        size, stay = config.batch_size * count, None
        self.student.module.train()
        if config.skip_threshold and not finetuning:
            stay = self.staying(images)
        else:
            self.weights.fill_(float("nan"))
        order = epoch_order(len(images), self._batches(images, "--batch-size") * size, config.seed, self.epoch, stay)
        batches = order.split(size)
        losses, reports = [], []
        bar = tqdm(batches, f"epoch {self.epoch + 1}", disable=None if workers.rank() == 0 else True, leave=False)
        for index in bar:
            lr = self.learning_rate()
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, weights, report = self.step(images, index)
            if not finetuning:
                self.weights[index] = weights
            losses.append(loss)
            reports += [report] if report else []
            self.updates += 1
        self.epoch += 1
        self.seconds += time.perf_counter() - begun
        figures = {"epoch": self.epoch, "updates": self.updates, "lr": lr, "seconds": round(self.seconds, 2)}
        figures["loss"] = float(torch.stack(losses).mean())
        if reports:
            figures["teacher_updates"] = len(reports)
            figures |= {name: sum(r[name] for r in reports) / len(reports) for name in reports[0]}
        if stay is not None:
            figures["skipped"] = 1 - float(stay.double().mean())
        if self.method.skipped is not None:
            figures["meta_skipped"] = self.method.skipped
        figures |= self.measure()
        self.last = {name: value for name, value in figures.items() if name in ("accuracy", "auc")}
        if "valid_accuracy" in figures and not (self.chosen and self.chosen["valid_accuracy"] >= figures["valid_accuracy"]):
            self.chosen = {name: figures[name] for name in ("epoch", "valid_accuracy", "accuracy")}
        return figures

    def staying(self, images: ImageSet) -> Tensor:
        """Which images the epoch sees, bool ``[N]``: those whose weight w was below the threshold T are judged anew, as in a training step
        that does not step, and stay with probability (w / T)^P."""
        threshold, power = self.config.skip_threshold, self.config.skip_power
        for number, some in enumerate(torch.nonzero(self.weights < threshold).flatten().split(self.config.batch_size)):
            torch.manual_seed(derived_seed("judge", self.config.seed, self.epoch, number))
            batch = self.batch(images, some, "augment", self.updates)
            with torch.no_grad(), untracked(self.student.module):
                self.weights[some] = self.method.judge(self.updates, batch).float().cpu()
        drawn = torch.rand(len(self.weights), generator=generator("stay", self.config.seed, self.epoch))
        leaves = self.weights < threshold * drawn ** (1 / power)
        return leaves if leaves.all() else ~leaves

    def learning_rate(self) -> float:
        """Of the next update: a tenth after each step of the schedule, less while it warms up."""
        config = self.config
        warm = min(1.0, (self.updates + 1) / config.warmup_updates) if config.warmup_updates else 1.0
        return config.lr * 0.1 ** sum(self.epoch >= step for step in config.steps) * warm

    def step(self, images: ImageSet, index: Tensor) -> tuple[Tensor, Tensor, dict]:
        """One student update.

        Args:
            images: the set that is trained on.
            index: which of them, of all workers ``[N]``.

        Returns:
            ``(mean loss, weights [N] on the CPU, figures of a teacher update, if any)``.
        """
        config, optimizer, count = self.config, self.optimizer, workers.count()
        rank, module = workers.rank(), self.student.module
        self._meta_batches = 0
        batch = self.batch(images, index, "augment", self.updates, rank * config.batch_size, config.batch_size)
        torch.manual_seed(derived_seed("step", config.seed, self.updates, rank))
        self.method.begin(self.updates, batch, self.meta_batch, optimizer.param_groups[0]["lr"])
        state = RandomState.capture()
        losses, features = self.student.outputs(batch)
        weights = self.method.weigh(batch, losses, features, state)
        everyone = workers.gather(weights)
        denominator = everyone.sum() if config.weight_normalization == "batch" else len(everyone)
        optimizer.zero_grad()
        # data parallelism takes the mean of the workers' gradients
        self.scaler.scale((weights * losses).sum() * count / denominator).backward()
        workers.average([b for b in module.buffers() if b.is_floating_point()])
        self.scaler.unscale_(optimizer)
        norm = None
        if config.clip_norm or config.amp == "fp16":
            norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip_norm or float("inf")))
        report = {}
        if config.amp != "fp16" or math.isfinite(norm):  # the scaler leaves a step out where a gradient overflowed
            self.method.before_step(norm if config.clip_norm else None, config.clip_norm)
            self.scaler.step(optimizer)
            report = self.method.after_step(self.meta_batch)
        self.scaler.update()
        return workers.gather(losses.detach()).mean(), everyone.float().cpu(), report

    def batch(
        self, images: ImageSet, index: Tensor, purpose: str, number: int, first: int = 0, size: int | None = None
    ) -> Batch:
        """Images ``index``, standardised, augmented and on the device.

        Args:
            purpose: what they are for, and ``number``, which time: the augmentation is a function of both.
            first: where this worker's part of the batch begins, and ``size``, its length; the whole batch by default.
        """
        pixels = self.parts.pixels(images.images[index.to(self.device)])
        if self.config.augment == "crop-flip":
            pixels = crop_and_flip(pixels, generator(purpose, self.config.seed, number))
        own = slice(first, None if size is None else first + size)
        return Batch(pixels[own].contiguous(memory_format=LAYOUT), images.labels[index][own].to(self.device), index[own])

    def meta_batch(self) -> Batch:
        """The next meta batch of this update, the same on all workers."""
        meta, size = self.parts.meta, min(self.config.meta_batch_size, len(self.parts.meta))
        per_round = len(meta) // size
        turn = self.updates // self.config.meta_interval + self._meta_batches
        self._meta_batches += 1
        order = torch.randperm(len(meta), generator=generator("meta", self.config.seed, turn // per_round))
        place = turn % per_round * size
        batch = self.batch(meta, order[place : place + size], "augment meta", turn)
        return dataclasses.replace(batch, truth=batch.labels)

    def measure(self) -> dict:
        """Accuracies in evaluation mode, and what the weights of the last epoch were like."""
        figures: dict = {"accuracy": self.accuracy(self.parts.test)}
        if len(self.parts.valid):
            figures["valid_accuracy"] = self.accuracy(self.parts.valid)
        seen = ~self.weights.isnan()
        if isinstance(self.method, methods.Uniform) or not seen.any():
            return figures
        w, wrong = self.weights[seen].double(), self.parts.wrong[seen]
        return figures | {
            "auc": area_under_curve(-w, wrong),
            "w_mean": float(w.mean()),
            "w_std": float(w.std(correction=0)),
            "ess": effective_sample_size(float(w.sum()), float(w.square().sum()), len(w)),
            "weights": {"clean": histogram(w[~wrong]), "wrong": histogram(w[wrong])},
        }

    @torch.no_grad()
    def accuracy(self, images: ImageSet) -> float:
        """Part of the images whose highest logit, in the precision of the training, is their true class."""
        size, right = self.config.batch_size, 0
        with evaluating(self.student.module):
            for pixels, truth in zip(images.images.split(size), images.truth.split(size)):
                logits = self.student.logits(self.parts.pixels(pixels).contiguous(memory_format=LAYOUT))
                right += int((logits.argmax(1).cpu() == truth).sum())
        return right / len(images)

    def state_dict(self) -> dict:
        """Tensors and plain Python only."""
        return {
            "model": self.student.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "method": self.method.state_dict(),
            "epoch": self.epoch,
            "updates": self.updates,
            "seconds": self.seconds,
            "weights": self.weights,
            "last": self.last,
            "chosen": self.chosen,
        }

    def load_state_dict(self, state: dict) -> None:
        self.student.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.method.load_state_dict(state["method"])
        self.epoch, self.updates, self.seconds = state["epoch"], state["updates"], state["seconds"]
        self.weights.copy_(state["weights"])
        self.last, self.chosen = state["last"], state["chosen"]


def _forward(module: torch.nn.Module, config: VisionConfig, device: torch.device):
    """What the training step calls: the module, compiled or data parallel where that is asked for."""
    forward = torch.compile(module) if config.compile else module
    if workers.count() > 1:
        ids = [device] if device.type == "cuda" else None
        # the running statistics are averaged after each step, so that all workers have the same ones for the dev batch
        return torch.nn.parallel.DistributedDataParallel(forward, device_ids=ids, broadcast_buffers=False)
    return forward


def _write(file: Path, content: dict) -> None:
    part = file.with_name(file.name + ".part")
    try:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
