"""Settings of the method, without a word about where they were typed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.selection import expression

OBJECTIVES = ("contrastive", "loss")
INFLUENCE_NORMALIZATIONS = ("none", "error")
NORMALIZATIONS = ("tokens", "batch")
STATES = ("probe", "direct")
GRADIENTS = ("forward", "backward", "ghost", "finite-difference", "unrolled")
#: those that read the student's own backward pass
READING = ("backward", "ghost")
PRECISIONS = ("full", "bfloat16")
SCALES = ("train", "dev")


@dataclass
class MetaConfig:
    """Settings of :class:`~fairseq_l2rw.meta.trainer.MetaTrainer`.

    Attributes:
        objective: ``contrastive`` (one head a kind of noise) or ``loss``.
        contrast: kind of noise -> alpha_k, a number or ``"auto"``.
        states: how the teacher sees the student's states: through a ``probe`` for each kind of noise (``contrastive``, and a
            student that can ``examine`` dev batches; else as ``direct``), or ``direct``.
        history: decay of the average of an example's scores by the probes over the times that it is seen; 0 takes the newest alone.
        momentum: decay of the averages of dev gradients over teacher updates; 0 is off.
        scale: what an influence is measured by (``contrastive``): half the distance between the influences of sound and spoilt examples of
            the training text, where it is the smaller one (``train``; a student that has ``subset``), or of the ``dev`` set.
        influence_normalization: ``error`` divides influences by the part of the probability that is wrong
            (:mod:`~fairseq_l2rw.meta.error_normalizer`); ``none``.
        normalization: ``tokens`` (denominator sum n_i) or ``batch`` (sum w_i n_i).
        gradient: how the influence is computed.
        precision: of the products that read it from the student's backward pass: ``full`` (the student's own) or ``bfloat16``.
        params: regular expression on names of the student's parameters; the hypergradient goes through those in whose
            name it is found (the empty one: all).
        interval: student updates between teacher updates.
        dev_interval: teacher updates that one dev gradient serves (``ghost`` only).
        window: student steps that are differentiated through, K.
        start: student updates before the first teacher update; weights are 1 until then.
        replay: teacher steps on replayed rows per teacher update; 0 takes one step on
            the exact gradient of the current batch.
        replay_rows: rows kept for each head.
        replay_batch: rows of one replayed step.
        prior: p, the weight of an example about which nothing is known.
        prior_strength: tau, weight of KL(Bernoulli(w) || Bernoulli(p)); 0 is off.
        lr: the teacher's learning rate.
        weight_decay: the teacher's (decoupled) weight decay.
        g_lr_factor: g's learning rate (g: the part of the teacher that sees more than the loss) over ``lr``.
        g_weight_decay: of g; None: as ``weight_decay``.
        clip_norm: the teacher's gradient clipping; 0 is off.
        max_update: length of the training, for the feature "progress"; 0 if unknown.
        paced_share: ``self_paced``: its first threshold, as a part of the mean loss.
        paced_growth: ``self_paced``: what the threshold is multiplied with.
        paced_interval: ``self_paced``: student updates between two growths.
        seed: of the replayed samples and of the corrupted dev batches.
    """

    objective: str = "contrastive"
    contrast: dict = field(default_factory=dict)
    states: str = "probe"
    history: float = 0.0
    momentum: float = 0.8
    scale: str = "train"
    influence_normalization: str = "none"
    normalization: str = "tokens"
    gradient: str = "forward"
    precision: str = "full"
    params: str = ""
    interval: int = 1
    dev_interval: int = 1
    window: int = 1
    start: int = 1000
    replay: int = 10
    replay_rows: int = 4000
    replay_batch: int = 512
    prior: float = 0.95
    prior_strength: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 0.01
    g_lr_factor: float = 1.0
    g_weight_decay: float | None = None
    clip_norm: float = 0.0
    max_update: int = 0
    paced_share: float = 1.0
    paced_growth: float = 1.3
    paced_interval: int = 500
    seed: int = 1

    def __post_init__(self):
        _choice("--meta-objective", self.objective, OBJECTIVES)
        _choice("--teacher-states", self.states, STATES)
        _choice("--meta-scale", self.scale, SCALES)
        _choice("--influence-normalization", self.influence_normalization, INFLUENCE_NORMALIZATIONS)
        if self.influence_normalization != "none" and self.replay == 0 and self.prior_strength == 0:
            raise L2RWError(
                f"--influence-normalization {self.influence_normalization}: with --teacher-replay 0 and --teacher-prior-strength 0 the "
                "teacher steps by the exact gradient; give none, or leave one of these out"
            )
        _choice("--weight-normalization", self.normalization, NORMALIZATIONS)
        _choice("--meta-gradient", self.gradient, GRADIENTS)
        _choice("--meta-precision", self.precision, PRECISIONS)
        expression(self.params)
        _at_least("--meta-interval", self.interval, 1)
        _at_least("--meta-dev-interval", self.dev_interval, 1)
        if self.dev_interval > 1 and self.gradient != "ghost":
            raise L2RWError(
                f"--meta-dev-interval {self.dev_interval}: an older dev gradient would make --meta-gradient {self.gradient} "
                "inexact; give 1, or --meta-gradient ghost"
            )
        _at_least("--meta-window", self.window, 1)
        _at_least("--meta-start", self.start, 0)
        _at_least("--teacher-replay", self.replay, 0)
        _at_least("--teacher-replay-rows", self.replay_rows, 1)
        _at_least("--teacher-prior-strength", self.prior_strength, 0)
        if self.gradient in READING and self.window > 1:
            raise L2RWError(
                f"--meta-gradient {self.gradient} reads one step, not --meta-window {self.window}; give 1, or forward"
            )
        if self.precision != "full" and self.gradient not in READING:
            raise L2RWError(
                f"--meta-precision {self.precision} is for products that --meta-gradient {' or '.join(READING)} makes, not for "
                f"{self.gradient}; give one of these, or leave it out"
            )
        _at_least("--self-paced-growth", self.paced_growth, 1)
        _at_least("--self-paced-interval", self.paced_interval, 1)
        if not self.paced_share > 0:
            raise L2RWError(f"--self-paced-share {self.paced_share}: give a number above 0")
        if not 0 <= self.history < 1:
            raise L2RWError(f"--teacher-history {self.history}: give a number from 0 to below 1")
        if not 0 <= self.momentum < 1:
            raise L2RWError(f"--meta-momentum {self.momentum}: give a number from 0 to below 1")
        if not 0 < self.prior < 1:
            raise L2RWError(f"--teacher-prior {self.prior}: give a number between 0 and 1")
        if not self.lr > 0:
            raise L2RWError(f"--teacher-lr {self.lr}: give a number above 0")
        if self.objective == "contrastive" and not self.contrast:
            raise L2RWError(
                "--meta-contrast is empty: name at least one KIND:ALPHA, or give --meta-objective loss"
            )

    @property
    def prior_logit(self) -> float:
        """logit p."""
        return math.log(self.prior / (1 - self.prior))

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the teacher's heads: the kinds of noise, or ``loss`` alone."""
        return tuple(self.contrast) if self.objective == "contrastive" else ("loss",)


def parse_contrast(text: str, kinds) -> dict:
    """``misaligned:0.5,truncated:auto`` as a dict.

    Args:
        text: KIND:ALPHA pairs, comma-separated.
        kinds: the kinds that the student can make.

    Raises:
        L2RWError: an unknown kind, one named twice, an ALPHA that is no number.
    """
    contrast: dict[str, float | str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        kind, colon, value = part.partition(":")
        if kind not in kinds:
            raise L2RWError(f"--meta-contrast: unknown kind '{kind}' (known: {', '.join(sorted(kinds))})")
        if kind in contrast:
            raise L2RWError(f"--meta-contrast: kind '{kind}' is named twice; name it once")
        if not colon or value == "auto":
            contrast[kind] = "auto"
            continue
        try:
            alpha = float(value)
        except ValueError:
            raise L2RWError(
                f"--meta-contrast: '{part}' is not KIND:ALPHA with a number or 'auto'"
            ) from None
        if not 0 <= alpha < float("inf"):
            raise L2RWError(f"--meta-contrast: '{part}': ALPHA must be 0 or more")
        contrast[kind] = alpha
    return contrast


def _choice(option, value, choices):
    if value not in choices:
        raise L2RWError(f"{option} {value}: choose one of {', '.join(choices)}")


def _at_least(option, value, minimum):
    if not value >= minimum:
        raise L2RWError(f"{option} {value}: give {minimum} or more")
