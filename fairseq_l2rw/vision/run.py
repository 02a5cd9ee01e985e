"""The command's work: the data once, and a training for each teacher."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from fairseq_l2rw.vision import methods, sources, workers
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import Parts, cut
from fairseq_l2rw.vision.train import Training

logger = logging.getLogger(__name__)

#: what ``--compare`` trains besides ``--teacher``
COMPARED = ("uniform", "loss", "deep", "mwn")


def run(config: VisionConfig) -> tuple[dict, bool]:
    """Trains; see :class:`Training` for the files that it writes.

    Returns:
        ``{TEACHER: {"accuracy": ..., "auc": ..., "seconds": ...}}``, and whether this is the worker that should tell it.
    """
    teachers = tuple(dict.fromkeys((config.teacher, *(COMPARED if config.compare else ()))))
    device = workers.start(config.cpu)
    try:
        for teacher in teachers:
            methods.check(teacher)
        data = sources.read(config)
        parts = cut(data, config.meta_size, config.valid_size, config.train_size, config.noise, config.seed)
        sizes = [len(images) for images in (parts.train, parts.meta, parts.valid, parts.test)]
        wrong = 100 * float(parts.wrong.double().mean())
        words = "%s: %d training images (%.1f %% of the labels wrong), %d trusted, %d for validation, %d for testing"
        logger.info(words, data.name, sizes[0], wrong, *sizes[1:])
        return {teacher: _train(config, teacher, parts, device) for teacher in teachers}, workers.rank() == 0
    finally:
        workers.stop()


def _train(config: VisionConfig, teacher: str, parts: Parts, device) -> dict:
    below = [teacher] if config.compare else []
    places = {
        name: str(Path(value, *below))
        for name in ("save_dir", "tensorboard_logdir")
        if (value := getattr(config, name)) is not None
    }
    one = dataclasses.replace(config, teacher=teacher, **places)
    return Training(one, parts, device).run(Path(one.save_dir) if one.save_dir else None)
