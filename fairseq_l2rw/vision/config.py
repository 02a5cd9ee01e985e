"""Options of ``fairseq-l2rw vision``: one dataclass, from which the command line is made. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from fairseq_l2rw.errors import L2RWError

#: epochs and the epochs after which the learning rate falls to a tenth
SCHEDULES = {
    "resnet32": "60:40,50",  # Meta-Weight-Net's paper
    "wrn": "40:36,38",  # likewise
    "code": "120:80,100",  # the authors' MW-Net.py
    "digits": "40",
}
#: data set -> its own defaults
PRESETS = {
    "digits": dict(model="cnn", schedule="digits", lr=0.05, meta_size=100, augment="none", weight_decay=0.0, meta_start=48, teacher_prior_strength=0.03, skip_power=1.0),
    "cifar10": dict(),
    "cifar100": dict(),
    "folder": dict(),
}
GENERAL = dict(model="resnet32", schedule="resnet32", lr=0.1, meta_size=1000, augment="crop-flip", weight_decay=5e-4, meta_start=1000, teacher_prior_strength=1.0, skip_power=3.0)

#: teachers of the core that learn
LEARNING = ("deep", "surface", "loss")


def _option(default, help, **more):
    return field(default=default, metadata={"help": help, **more})


@dataclass
class VisionConfig:
    """What one run is made from; None stands for the data set's own default."""

    data: str = _option("digits", "data set: digits, cifar10, cifar100, or folder (train/CLASS/..., test/CLASS/...)", choices=tuple(PRESETS))
    root: str | None = _option(None, "folder that the data are in (cifar10, cifar100: the official archive or its extracted folder)", metavar="DIR")
    download: bool = _option(False, "fetch the official archive into --root where it is missing")
    image_size: int | None = _option(None, "folder: scale and crop images to N x N pixels", metavar="N")
    labels: str | None = _option(None, "TSV with training labels that people gave, joined by the column 'file'", metavar="FILE")
    label_column: str | None = _option(None, "column of --labels to train on", metavar="NAME")
    noise: str = _option("none", "wrong labels: none, uniform:P, flip:P or flip2:P", metavar="KIND:RATE")
    train_size: int = _option(0, "training images, drawn by the seed; 0: all but the meta and validation images", metavar="N")
    meta_size: int | None = _option(None, "trusted images, as many of each class, taken out of the training set (1000; digits: 100)", metavar="N")
    valid_size: int = _option(0, "further clean images, unseen by student and teacher, that choose an epoch", metavar="N")
    augment: str | None = _option(None, "crop-flip (a crop from a reflected border of 4, and a flip) or none", choices=("crop-flip", "none"))

    model: str | None = _option(None, "cnn, resnet32, wrn-28-10 or resnet18", metavar="NAME")
    dropout: float = _option(0.0, "dropout in the model", metavar="P")
    schedule: str | None = _option(None, f"EPOCHS[:STEP,...], the learning rate falls to a tenth after each STEP; or one of {', '.join(SCHEDULES)}", metavar="S")
    lr: float | None = _option(None, "learning rate of the student", metavar="LR")
    warmup_updates: int = _option(0, "the learning rate rises linearly over the first N updates", metavar="N")
    momentum: float = _option(0.9, "of SGD", metavar="M")
    weight_decay: float | None = _option(None, "of the student (5e-4; digits: 0)", metavar="D")
    batch_size: int = _option(100, "images in a batch of each worker", metavar="N")
    clip_norm: float = _option(0.0, "clip the student's gradient at this norm; 0: off", metavar="X")
    seed: int = _option(1, "of data parts, noise, initial weights, order and augmentation", metavar="N")

    teacher: str = _option("deep", "what weighs the images: deep, surface, loss, l2r, self_paced, mwn (Meta-Weight-Net as published), uniform, or finetuned (uniform, then the trusted images)", metavar="NAME")
    skip_below: float | None = _option(None, "with a teacher that learns, an image whose weight w is below T stays in an epoch with probability (w / T)^P, and others fill its place (that of --teacher-prior; with --meta-objective loss 0); 0: all images stay", metavar="T")
    skip_power: float | None = _option(None, "P of --skip-below: how sharply the draw tells low weights from high ones (3; digits: 1)", metavar="P")
    teacher_inputs: str = _option("both", "what the deep teacher sees: internal, surface or both", metavar="WHAT")
    teacher_states: str = _option("probe", "how the deep teacher sees the states: through a probe, trained to tell trusted images from mislabelled ones (contrastive objective), or directly", choices=("probe", "direct"))
    student_average: float = _option(0.0, "the states that the deep teacher sees are those of the student's running average with this decay (0.98); 0: those of the student itself", metavar="A")
    teacher_discriminant: float = _option(0.0, "the deep teacher also sees what a linear discriminant, fitted to the states of the trusted images alone, says of a label: its memory from one dev batch to the next (0.9); 0: none", metavar="A")
    teacher_lr: float = _option(1e-3, "of the teacher (AdamW)", metavar="LR")
    teacher_hidden_dim: int | None = _option(None, "width of the hidden layers of what sees the states (64; direct, and surface: 128)", metavar="N")
    teacher_weight_decay: float = _option(0.01, "its weight decay", metavar="D")
    teacher_g_lr_factor: float = _option(0.03, "learning rate of the part that sees more than the loss (with direct states), over --teacher-lr", metavar="X")
    teacher_g_weight_decay: float = _option(1.0, "weight decay of that part (with direct states)", metavar="D")
    teacher_history: float = _option(0.8, "averaging of the probe's scores of an image over the epochs; 0: the newest score alone", metavar="A")
    teacher_replay: int = _option(10, "steps on replayed rows per teacher update; 0: one exact step", metavar="R")
    teacher_replay_rows: int = _option(4000, "rows kept for each head", metavar="N")
    teacher_prior: float = _option(0.9, "weight of an image about which nothing is known", metavar="P")
    teacher_prior_strength: float | None = _option(None, "how strongly it is held (1; digits: 0.03)", metavar="T")
    meta_objective: str = _option("contrastive", "contrastive, or loss (the paper's)", choices=("contrastive", "loss"))
    meta_contrast: str = _option("confused:0.5", "KIND:ALPHA,...; kinds: mislabelled (labels rotated within the batch), confused (labels drawn from what the student takes the images for)", metavar="K:A")
    meta_momentum: float = _option(0.8, "averaging of dev gradients over teacher updates; 0: off", metavar="M")
    meta_params: str = _option("", "regular expression on names of the student's parameters: influences are measured through those alone (^head: the classifier)", metavar="PATTERN")
    meta_scale: str = _option("train", "contrastive: what influences are measured by, the distance between sound and mislabelled trusted images (dev), or training images where that is smaller (train)", choices=("dev", "train"))
    influence_normalization: str = _option("none", "error: divide influences by the part of the probability that is wrong, so that what is learnt by heart still counts; none", choices=("none", "error"))
    weight_normalization: str = _option("tokens", "denominator of the loss: tokens (images) or batch (sum of weights)", choices=("tokens", "batch"))
    meta_batch_size: int = _option(100, "images in a dev batch", metavar="N")
    meta_batchnorm: str = _option("batch", "BatchNorm's statistics on a dev batch: its own (batch), as in training, or the running ones", choices=("batch", "running"))
    meta_start: int | None = _option(None, "updates of plain training first", metavar="N")
    meta_interval: int = _option(2, "student updates between teacher updates", metavar="N")
    meta_window: int = _option(1, "student steps that the hypergradient goes back through", metavar="K")
    meta_gradient: str = _option("forward", "how influences are computed", choices=("forward", "finite-difference", "unrolled"))
    finetune_epochs: int = _option(20, "--teacher finetuned: epochs on the trusted images at the end", metavar="N")

    save_dir: str | None = _option(None, "folder for checkpoint, metrics and result (below it one for each teacher with --compare); a run that stopped goes on", metavar="DIR")
    tensorboard_logdir: str | None = _option(None, "folder for tensorboard's events", metavar="DIR")
    compare: bool = _option(False, "also train with uniform weights, loss, deep and mwn, on the same budget")
    cpu: bool = _option(False, "do not use a GPU")
    amp: str = _option("none", "half precision: none, fp16 or bf16", choices=("none", "fp16", "bf16"))
    compile: bool = _option(False, "compile the training step's forward pass with torch.compile")

    def __post_init__(self):
        own = {**GENERAL, **PRESETS.get(self.data, {})}
        for name, value in own.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.epochs, self.steps = parse_schedule(self.schedule)
        for name in ("meta_size", "batch_size", "meta_batch_size"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of 1 or more")
        for name in ("train_size", "valid_size", "finetune_epochs", "warmup_updates", "clip_norm", "weight_decay"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("lr", "skip_power"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a number above 0")
        for name in ("momentum", "dropout", "student_average", "teacher_discriminant", "skip_below"):
            _require(0 <= (getattr(self, name) or 0) < 1, name, getattr(self, name), "a number from 0 to below 1")
        if self.skip_below and self.teacher not in LEARNING and not self.compare:
            raise L2RWError(f"--skip-below: with --teacher {self.teacher} no image is left out; give one of {', '.join(LEARNING)}, or drop the option")
        for f in fields(self):
            choices = f.metadata.get("choices")
            if choices:
                _require(getattr(self, f.name) in choices, f.name, getattr(self, f.name), f"one of {', '.join(choices)}")

    @property
    def skip_threshold(self) -> float:
        """T of --skip-below, 0 where every epoch sees all images: with --compare not every teacher learns."""
        if self.teacher not in LEARNING:
            return 0.0
        if self.skip_below is None:
            return self.teacher_prior if self.meta_objective == "contrastive" else 0.0
        return self.skip_below


def parse_schedule(text: str) -> tuple[int, tuple[int, ...]]:
    """``60:40,50`` or a name of :data:`SCHEDULES` -> epochs, and the epochs after which the learning rate falls.

    Raises:
        L2RWError: it is neither.
    """
    epochs, _, steps = SCHEDULES.get(text, text).partition(":")
    numbers = [epochs, *filter(None, steps.split(","))]
    if not all(n.isdecimal() for n in numbers) or int(epochs) < 1:
        raise L2RWError(f"--schedule {text}: give EPOCHS[:STEP,...], such as 60:40,50, or one of {', '.join(SCHEDULES)}")
    return int(epochs), tuple(map(int, numbers[1:]))


def _require(right: bool, name: str, value, wanted: str) -> None:
    if not right:
        raise L2RWError(f"--{name.replace('_', '-')} {value}: give {wanted}")
