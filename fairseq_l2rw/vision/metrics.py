"""``metrics.jsonl`` in a run's folder: a line of JSON for each epoch. This is where its format is told.

``epoch``, ``updates``
    done when the line was written, from 1;
``lr``
    the student's learning rate at the end of the epoch;
``loss``
    mean training loss (weights left out) of the epoch, nats;
``accuracy``
    part of the test images that are classified rightly, in evaluation mode;
``valid_accuracy``
    likewise of the clean images that neither student nor teacher sees; missing without ``--valid-size``;
``seconds``
    of training so far (without the measuring), over all starts of the run;
``auc``
    area under the ROC curve of the weights as a detector of wrong labels; null where no label is wrong;
``w_mean``, ``w_std``, ``ess``
    mean, standard deviation and effective sample size of the weights;
``weights``
    ``{"clean": [...], "wrong": [...]}``: counts of the weights in 20 bins from 0 to 1 (larger ones are in the last), by whether the label is right;
``meta_loss``, ``teacher_gnorm``
    mean over the epoch's teacher updates of the dev loss (nats) and of the norm of the teacher's gradient; ``teacher_updates`` is their number;
``scale_KIND``
    mean over them of what the influences of that head are measured by, over the dev scale (``--meta-scale``);
``skipped``
    part of the training images that the epoch left out (``--skip-below``); missing where it is off;
``meta_skipped``
    teacher updates so far that came to nothing (a dev loss or an influence that is no number); missing where the teacher is none of the core.

What concerns weights is missing with uniform weights; a weight is the one that an image had in the epoch's last training step with it,
for one that ``--skip-below`` left out, the last one before, mostly what it was judged to have when the epoch began.
``config.json`` beside it holds the options, ``result.json`` the results once the run is done. With ``--tensorboard-logdir``
the numbers go there as well, under the same names.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from fairseq_l2rw.errors import L2RWError

FILE = "metrics.jsonl"
BINS = 20


def histogram(weights: Tensor) -> list[int]:
    """Counts in :data:`BINS` bins from 0 to 1."""
    return torch.histc(weights.float().clamp(0, 1), BINS, 0, 1).long().tolist()


class Metrics:
    """Writes an epoch's figures to all that were asked for.

    Args:
        folder: of the run; None for no file.
        tensorboard: folder for tensorboard's events; None for none.
        epoch: epochs that are done: what a killed run wrote after its last checkpoint is dropped.

    Raises:
        L2RWError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path | None, tensorboard: str | None = None, epoch: int = 0):
        self.events = None
        if tensorboard is not None:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                raise L2RWError("--tensorboard-logdir needs tensorboardX, which is not installed: pip install tensorboardX") from None
            self.events = SummaryWriter(tensorboard, purge_step=epoch + 1)
        self.file = None if folder is None else folder / FILE
        if self.file is not None:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [row for row in read(self.file) if row["epoch"] <= epoch] if self.file.exists() else []
            part = self.file.with_suffix(".part")
            part.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            part.replace(self.file)

    def write(self, figures: dict) -> None:
        if self.file is not None:
            with open(self.file, "a", encoding="utf-8") as out:
                out.write(json.dumps(figures) + "\n")
        if self.events is not None:
            for name, value in figures.items():
                if isinstance(value, (int, float)) and name != "epoch":
                    self.events.add_scalar(name, value, figures["epoch"])
            self.events.flush()

    def close(self) -> None:
        if self.events is not None:
            self.events.close()


def read(file: Path) -> list[dict]:
    """The lines of a metrics file; a last one that was cut short is left out."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
