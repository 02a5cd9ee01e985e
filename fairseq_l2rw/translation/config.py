"""Options of ``--task l2rw_translation``: all of ``translation``'s, and those of the method."""

from dataclasses import dataclass, field
from typing import Optional

import torch
from fairseq.tasks.translation import TranslationConfig
from omegaconf import II

from fairseq_l2rw.corpus.influence_log import check_log_name
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta import reweighters
from fairseq_l2rw.meta.config import GRADIENTS, NORMALIZATIONS, OBJECTIVES, MetaConfig, parse_contrast
from fairseq_l2rw.translation.capture import INTERACTIONS, TOKENS, parse_inputs, parse_layers
from fairseq_l2rw.translation.corruptions import CORRUPTIONS
from fairseq_l2rw.translation.own_translations import GENERATED

#: kinds of noise that a dev batch can be spoilt in
KINDS = (*CORRUPTIONS, GENERATED)
DEFAULT_CONTRAST = "misaligned:0.5,untranslated:0.45,misordered:0.12,truncated:0.3"

#: the default of --skip-below: clean pairs are near the prior, noise is near 0
SKIP_BELOW = 0.3


@dataclass
class L2RWTranslationConfig(TranslationConfig):
    """Options of the task; names that are not in fairseq's ``translation`` are described in the README."""

    teacher: str = field(
        default="deep", metadata={"help": f"what gives the weights: {', '.join(reweighters.names())}"}
    )
    teacher_inputs: str = field(
        default="both",
        metadata={"help": "what the deep teacher sees: internal, surface or both; or encoder, decoder for a part of the "
                          "internal states, as encoder,surface"},
    )  # fmt: skip
    teacher_states: str = field(
        default="probe",
        metadata={"help": "how the deep teacher sees the student's states: through a probe for each kind of noise, trained to tell "
                          "sound from spoilt dev pairs (with --meta-objective contrastive), or directly: probe or direct"},
    )  # fmt: skip
    teacher_history: float = field(
        default=0.5,
        metadata={"help": "averaging of a pair's scores by the probes over the epochs that saw it; 0: the newest score alone"},
    )
    teacher_interactions: str = field(
        default=TOKENS,
        metadata={"help": "how source and target meet in the states: token by token, by the cosines of encoder states and attention "
                          "with the output embeddings of the target, beside the means of the states; or in these means alone: "
                          f"{' or '.join(INTERACTIONS)}"},
    )  # fmt: skip
    teacher_lr: float = field(default=1e-3, metadata={"help": "learning rate of the teacher's heads (AdamW)"})
    teacher_hidden_dim: Optional[int] = field(
        default=None, metadata={"help": "width of the hidden layers of what sees the states (default: 64; direct, and surface: 128)"}
    )
    teacher_layers: str = field(
        default="-1",
        metadata={
            "help": "encoder and decoder layers whose states the teacher sees, comma-separated; "
            "-1 is the encoder's output and the input of the output projection",
            "argparse_const": "-1",
        },
    )
    teacher_replay: int = field(
        default=10,
        metadata={"help": "teacher steps on replayed rows per teacher update; 0 takes one step on the exact gradient"},
    )
    teacher_replay_rows: int = field(
        default=4000, metadata={"help": "rows (features, influence) kept for each head"}
    )
    teacher_prior: Optional[float] = field(
        default=None,
        metadata={"help": "weight of a pair about which nothing is known, for each head "
                          "(default: 0.95, or 0.9 with a single head)"},
    )  # fmt: skip
    teacher_prior_strength: float = field(
        default=0.1, metadata={"help": "strength of that prior; 0 switches it off"}
    )
    meta_subset: Optional[str] = field(
        default=None,
        metadata={"help": "binarised split that the dev batches of the hypergradient come from "
                          "(default: meta where there is one, else valid)"},
    )  # fmt: skip
    meta_max_tokens: Optional[int] = field(
        default=None, metadata={"help": "size of a dev batch in tokens (default: a fifth of a training batch, but not below 400)"}
    )
    meta_objective: str = field(
        default="contrastive", metadata={"help": f"what the teacher minimises on the dev set: {' or '.join(OBJECTIVES)}"}
    )
    meta_contrast: str = field(
        default=DEFAULT_CONTRAST,
        metadata={"help": "kinds of noise, one head each, and what is subtracted: KIND:ALPHA,... "
                          f"with ALPHA a number or auto; kinds: {', '.join(KINDS)}"},
    )  # fmt: skip
    meta_momentum: float = field(
        default=0.9, metadata={"help": "averaging of the dev gradients over teacher updates; 0 is off"}
    )
    meta_scale: str = field(
        default="train",
        metadata={"help": "what an influence is measured by: half the distance between influences of sound and spoilt pairs of the training "
                          "text where it is smaller (train), or of the dev set (dev)"},
    )  # fmt: skip
    influence_normalization: str = field(
        default="none",
        metadata={"help": "error: divide influences by the part of the probability that is wrong, so that what is learnt by heart still counts; none"},
    )
    weight_normalization: str = field(
        default="tokens", metadata={"help": f"denominator of the weighted loss: {' or '.join(NORMALIZATIONS)}"}
    )
    meta_interval: int = field(default=4, metadata={"help": "student updates between teacher updates"})
    meta_dev_interval: int = field(
        default=1,
        metadata={"help": "teacher updates that one dev gradient serves: cheaper and less exact; with --meta-gradient ghost only"},
    )
    meta_start: int = field(default=1000, metadata={"help": "updates of plain training before the first teacher update"})
    meta_window: int = field(default=1, metadata={"help": "student steps that the hypergradient goes back through"})
    meta_gradient: Optional[str] = field(
        default=None,
        metadata={"help": f"how the influence is computed: {', '.join(GRADIENTS)} (default: backward; forward with "
                          "--meta-window above 1 and in mixed precision); backward and ghost read it in the "
                          "student's own backward pass, ghost with the dev gradient and the optimizer's state of the teacher "
                          "update before: approximate, and the least memory"},
    )  # fmt: skip
    meta_precision: str = field(
        default="full",
        metadata={"help": "of the products with which backward and ghost read the influence: full (as the student) or bfloat16: "
                          "cheaper where the processor multiplies it natively, relative error below a thousandth"},
    )  # fmt: skip
    meta_params: str = field(
        default="",
        metadata={"help": "student parameters that the hypergradient goes through: a regular expression, searched for in their "
                          "names (default: all)"},
    )  # fmt: skip
    influence_log: Optional[str] = field(
        default=None,
        metadata={"help": "file to write, name ending in .gz: a row for every teacher update and pair "
                          "(update, id, head, weight, influence, share)"},
    )  # fmt: skip
    skip_below: Optional[float] = field(
        default=None,
        metadata={"help": "make the batches of an epoch without the pairs whose last weight was below this, but for one in twenty; "
                          f"0: of all pairs (default: {SKIP_BELOW} with --teacher deep and --meta-objective contrastive, else 0)"},
    )  # fmt: skip
    self_paced_share: float = field(
        default=1.0, metadata={"help": "self_paced: its first threshold on the loss per token, as a part of the mean loss"}
    )
    self_paced_growth: float = field(default=1.3, metadata={"help": "self_paced: what the threshold is multiplied with"})
    self_paced_interval: int = field(
        default=500, metadata={"help": "self_paced: student updates between two growths of the threshold"}
    )
    # what other groups of options say
    seed: int = II("common.seed")
    max_update: int = II("optimization.max_update")
    train_max_tokens: Optional[int] = II("dataset.max_tokens")
    train_batch_size: Optional[int] = II("dataset.batch_size")
    fp16: bool = II("common.fp16")
    bf16: bool = II("common.bf16")
    amp: bool = II("common.amp")
    tpu: bool = II("common.tpu")
    cpu: bool = II("common.cpu")
    model_parallel_size: int = II("common.model_parallel_size")
    use_bmuf: bool = II("optimization.use_bmuf")
    ddp_backend: str = II("distributed_training.ddp_backend")
    cpu_offload: bool = II("distributed_training.cpu_offload")
    zero_sharding: str = II("distributed_training.zero_sharding")
    pipeline_model_parallel: bool = II("distributed_training.pipeline_model_parallel")
    distributed_world_size: int = II("distributed_training.distributed_world_size")
    # no options: fairseq's language models ask the task for them, and must come as far as being told that they won't do
    add_bos_token: bool = "${oc.select:task.no_such_key,false}"
    tokens_per_sample: int = II("task.max_target_positions")


def meta_config(cfg: L2RWTranslationConfig) -> MetaConfig:
    """The method's settings.

    Raises:
        L2RWError: an option with a value that cannot be used; names the option.
    """
    reweighters.check_name(cfg.teacher)
    parse_inputs(cfg.teacher_inputs)
    parse_layers(cfg.teacher_layers)
    if cfg.teacher_interactions not in INTERACTIONS:
        raise L2RWError(f"--teacher-interactions {cfg.teacher_interactions}: give {' or '.join(INTERACTIONS)}")
    if cfg.skip_below:
        if not 0 < cfg.skip_below < 1:
            raise L2RWError(f"--skip-below {cfg.skip_below}: give a weight between 0 and 1, or 0 for none to be left out")
        if cfg.teacher == "uniform":
            raise L2RWError("--skip-below: with --teacher uniform all weights are 1; leave one of the two out")
    if cfg.influence_log is not None:
        check_log_name(cfg.influence_log)
    for option in ("teacher_hidden_dim", "meta_max_tokens"):
        value = getattr(cfg, option)
        if value is not None and value < 1:
            raise L2RWError(f"--{option.replace('_', '-')} {value}: give 1 or more")
    contrast = parse_contrast(cfg.meta_contrast, KINDS)
    heads = len(contrast) if cfg.meta_objective == "contrastive" else 1
    prior = cfg.teacher_prior if cfg.teacher_prior is not None else (0.95 if heads > 1 else 0.9)
    return MetaConfig(
        objective=cfg.meta_objective,
        contrast=contrast,
        states=cfg.teacher_states,
        history=cfg.teacher_history,
        momentum=cfg.meta_momentum,
        scale=cfg.meta_scale,
        influence_normalization=cfg.influence_normalization,
        normalization=cfg.weight_normalization,
        gradient=cfg.meta_gradient or ("forward" if cfg.meta_window > 1 or cfg.fp16 or cfg.bf16 or cfg.amp else "backward"),
        precision=cfg.meta_precision,
        params=cfg.meta_params,
        interval=cfg.meta_interval,
        dev_interval=cfg.meta_dev_interval,
        window=cfg.meta_window,
        start=cfg.meta_start,
        replay=cfg.teacher_replay,
        replay_rows=cfg.teacher_replay_rows,
        prior=prior,
        prior_strength=cfg.teacher_prior_strength,
        lr=cfg.teacher_lr,
        max_update=cfg.max_update or 0,
        paced_share=cfg.self_paced_share,
        paced_growth=cfg.self_paced_growth,
        paced_interval=cfg.self_paced_interval,
        seed=cfg.seed,
    )


def skip_threshold(cfg: L2RWTranslationConfig) -> Optional[float]:
    """T of --skip-below, None where all pairs stay. By default it is on where the weights are known to tell noise."""
    if cfg.skip_below is not None:
        return cfg.skip_below or None
    return SKIP_BELOW if cfg.teacher == "deep" and cfg.meta_objective == "contrastive" else None


def check_way_of_training(cfg: L2RWTranslationConfig, begun: bool = True) -> None:
    """Refuses what a teacher that learns cannot train with.

    Args:
        begun: a training begins; else the task is set up, for whatever command, and an option that only fairseq-train has
            means nothing yet.

    Raises:
        L2RWError: names the option and the remedy.
    """
    if cfg.tpu:
        raise L2RWError(
            "--bf16 and --tpu train on a TPU, which l2rw_translation does not; for bf16 on a GPU or CPU use "
            "fairseq-hydra-train with common.bf16=true"
        )
    without = " without --cpu-offload" if cfg.cpu_offload else ""
    refused = {
        "--ddp-backend": (cfg.ddp_backend, ("fully_sharded", "slowmo"), f"give c10d or legacy_ddp{without}"),
        "--zero-sharding": (cfg.zero_sharding, ("os",), "leave it out"),
        "--use-bmuf": (begun and cfg.use_bmuf, (True,), "leave it out"),
        "--pipeline-model-parallel": (cfg.pipeline_model_parallel, (True,), "leave it out"),
        "--model-parallel-size": (cfg.model_parallel_size > 1, (True,), "give 1"),
    }
    for option, (value, values, remedy) in refused.items():
        if value in values:
            shown = option if value is True else f"{option} {value}"
            raise L2RWError(
                f"{shown}: a teacher needs the whole student and its whole optimizer on every worker; {remedy}, or give "
                "--teacher uniform"
            )
    if cfg.cpu_offload:
        raise L2RWError(
            "--cpu-offload: fairseq has it with --ddp-backend fully_sharded only, which a teacher cannot train with; leave it out"
        )
    on_cpu = cfg.cpu or not torch.cuda.is_available()
    if cfg.distributed_world_size > 1 and on_cpu and cfg.ddp_backend in ("c10d", "pytorch_ddp"):
        raise L2RWError(
            f"--ddp-backend {cfg.ddp_backend} of fairseq needs GPUs; on the CPU give --ddp-backend legacy_ddp"
        )
