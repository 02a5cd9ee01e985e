"""Options as users type them: defaults, and bad values."""

import pytest
from fairseq.dataclass.utils import gen_parser_from_dataclass

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.config import MetaConfig
from fairseq_l2rw.translation.config import L2RWTranslationConfig, meta_config, skip_threshold
from fairseq_l2rw.translation.task import _part

NAN = float("nan")
OURS = ("teacher", "meta_", "weight_", "influence_", "skip_", "self_paced_")


def config(**options):
    given = {"seed": 3, "max_update": 2500, "train_max_tokens": 4096, "fp16": False, "bf16": False, "amp": False}
    cfg = L2RWTranslationConfig(**{**given, **options})
    return meta_config(cfg)


def test_defaults():
    """Those of the README's table."""
    cfg = L2RWTranslationConfig()
    assert (cfg.teacher, cfg.teacher_inputs, cfg.teacher_layers) == ("deep", "both", "-1")
    assert (cfg.meta_subset, cfg.meta_max_tokens, cfg.meta_interval) == (None, None, 4)
    got = config()
    assert got.contrast == {"misaligned": 0.5, "untranslated": 0.45, "misordered": 0.12, "truncated": 0.3}
    assert (got.objective, got.momentum, got.normalization, got.gradient) == ("contrastive", 0.9, "tokens", "backward")
    assert (got.replay, got.replay_rows, got.prior, got.prior_strength) == (10, 4000, 0.95, 0.1)
    assert (got.seed, got.max_update) == (3, 2500)
    assert config(meta_window=2).gradient == config(fp16=True).gradient == "forward"


@pytest.mark.parametrize(
    "options, prior",
    [({}, 0.95), ({"meta_contrast": "truncated"}, 0.9), ({"meta_objective": "loss"}, 0.9),
     ({"teacher_prior": 0.7}, 0.7), ({"teacher_prior": 0.7, "meta_objective": "loss"}, 0.7)],
)  # fmt: skip
def test_the_prior_depends_on_the_number_of_heads(options, prior):
    assert config(**options).prior == prior


@pytest.mark.parametrize(
    "option, value, setting",
    [
        ("meta_objective", "loss", "objective"), ("meta_momentum", 0.5, "momentum"),
        ("weight_normalization", "batch", "normalization"), ("meta_interval", 3, "interval"), ("meta_start", 0, "start"),
        ("meta_window", 2, "window"), ("meta_params", "decoder", "params"), ("meta_scale", "dev", "scale"),
        ("influence_normalization", "error", "influence_normalization"),
        ("meta_gradient", "unrolled", "gradient"), ("teacher_replay", 0, "replay"), ("teacher_replay_rows", 7, "replay_rows"),
        ("teacher_prior_strength", 0.0, "prior_strength"), ("teacher_lr", 0.5, "lr"), ("seed", 9, "seed"),
        ("self_paced_share", 0.5, "paced_share"), ("self_paced_growth", 2.0, "paced_growth"),
        ("self_paced_interval", 9, "paced_interval"),
    ],
)  # fmt: skip
def test_each_option_arrives(option, value, setting):
    assert getattr(config(), setting) != value == getattr(config(**{option: value}), setting)


def test_the_precision_arrives():
    assert config(meta_precision="bfloat16").precision == "bfloat16" != config().precision


def test_the_dev_interval_arrives():
    assert config(meta_gradient="ghost", meta_dev_interval=3).dev_interval == 3 != config().dev_interval


BAD = [
    ("skip_below", -0.1, "give a weight between 0 and 1"),
    ("skip_below", 1.0, "give a weight between 0 and 1"),
    ("influence_log", "log.tsv", "give a name that ends in .gz"),
    ("meta_scale", "both", "choose one of train, dev"),
    ("meta_params", "decoder.(", "not a regular expression"),
    ("teacher", "deeper", "choose one of"),
    ("teacher_inputs", "states", "give internal, surface or both"),
    ("teacher_inputs", "encoder,states", "give internal, surface or both"),
    ("self_paced_share", 0.0, "give a number above 0"),
    ("self_paced_growth", 0.9, "give 1 or more"),
    ("self_paced_interval", 0, "give 1 or more"),
    ("teacher_layers", "last", "give layer numbers from 0"),
    ("teacher_history", 1.0, "give a number from 0 to below 1"),
    ("teacher_history", -0.1, "give a number from 0 to below 1"),
    ("teacher_lr", 0.0, "give a number above 0"),
    ("teacher_lr", -1e-3, "give a number above 0"),
    ("teacher_hidden_dim", 0, "give 1 or more"),
    ("teacher_replay", -1, "give 0 or more"),
    ("teacher_replay_rows", 0, "give 1 or more"),
    ("teacher_prior", 1.0, "give a number between 0 and 1"),
    ("teacher_prior", 0.0, "give a number between 0 and 1"),
    ("teacher_prior_strength", -1.0, "give 0 or more"),
    ("teacher_prior_strength", NAN, "give 0 or more"),
    ("meta_max_tokens", 0, "give 1 or more"),
    ("meta_max_tokens", -5, "give 1 or more"),
    ("meta_objective", "dev", "choose one of contrastive, loss"),
    ("meta_contrast", "rotated:1", "unknown kind 'rotated' (known: dropped, generated, joined, misaligned, misordered, swapped, truncated, untranslated)"),
    ("meta_contrast", "truncated:x", "is not KIND:ALPHA"),
    ("meta_contrast", "", "is empty"),
    ("meta_momentum", 1.0, "give a number from 0 to below 1"),
    ("weight_normalization", "none", "choose one of tokens, batch"),
    ("influence_normalization", "loss", "choose one of none, error"),
    ("meta_interval", 0, "give 1 or more"),
    ("meta_dev_interval", 0, "give 1 or more"),
    ("meta_precision", "half", "choose one of full, bfloat16"),
    ("meta_window", 0, "give 1 or more"),
    ("teacher_states", "both", "choose one of probe, direct"),
    ("teacher_interactions", "maxsim", "give tokens or means"),
    ("meta_start", -1, "give 0 or more"),
    ("meta_gradient", "sideways", "choose one of forward, backward, ghost"),
]


@pytest.mark.parametrize("option, value, says", BAD)
def test_a_bad_value_is_told_in_one_line(option, value, says):
    with pytest.raises(L2RWError) as caught:
        config(**{option: value})
    message, flag = str(caught.value), "--" + option.replace("_", "-")
    assert message.startswith(flag) and says in message and "\n" not in message
    assert flag == "--meta-contrast" or str(value) in message


def parser():
    import argparse

    out = argparse.ArgumentParser(allow_abbrev=False)
    gen_parser_from_dataclass(out, L2RWTranslationConfig())
    return out


def test_every_option_of_ours_is_on_the_command_line_with_help():
    actions = {s: a for a in parser()._actions for s in a.option_strings}
    ours = [n for n in L2RWTranslationConfig.__dataclass_fields__ if n.startswith(OURS)]
    assert len(ours) == 32
    for name in ours:
        assert len(actions["--" + name.replace("_", "-")].help) > 15, name


@pytest.mark.parametrize(
    "words, name, value",
    [(["--teacher-layers", "0,-1"], "teacher_layers", "0,-1"), (["--teacher-layers", "-1"], "teacher_layers", "-1"),
     (["--meta-max-tokens", "512"], "meta_max_tokens", 512), (["--teacher-prior", "0.9"], "teacher_prior", 0.9),
     (["--meta-contrast", "truncated:auto"], "meta_contrast", "truncated:auto")],
)  # fmt: skip
def test_options_are_parsed(words, name, value):
    assert getattr(parser().parse_args(["data", *words]), name) == value


def test_every_setting_is_checked_by_some_bad_value():
    """A new option needs a line in BAD, or a reason here."""
    free = {"meta_subset"}  # checked against the data, when it is read
    ours = {n for n in L2RWTranslationConfig.__dataclass_fields__ if n.startswith(OURS)}
    assert ours - free == {option for option, *_ in BAD}
    assert MetaConfig(contrast={"k": 1.0})


@pytest.mark.parametrize("whole, smallest, part", [(None, 400, None), (4000, 400, 800), (1000, 400, 400), (300, 400, 300)])
def test_default_size_of_a_dev_batch(whole, smallest, part):
    assert _part(whole, smallest) == part


@pytest.mark.parametrize(
    "given, want",
    [({}, 0.3), (dict(skip_below=0.0), None), (dict(skip_below=0.1), 0.1), (dict(meta_objective="loss"), None),
     (dict(teacher="uniform"), None), (dict(teacher="loss"), None), (dict(teacher="l2r", skip_below=0.2), 0.2)],
)  # fmt: skip
def test_pairs_are_left_out_by_default_where_the_weights_tell_noise(given, want):
    cfg = L2RWTranslationConfig(seed=1, max_update=10)
    for name, value in given.items():
        setattr(cfg, name, value)
    assert skip_threshold(cfg) == want
