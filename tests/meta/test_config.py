"""MetaConfig and parse_contrast: a bad value gives one line that names the option."""

import pytest

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.meta.config import MetaConfig, parse_contrast

GOOD = {"contrast": {"misaligned": 0.5}}
NAN = float("nan")


@pytest.mark.parametrize(
    "setting, value, says",
    [
        ("objective", "lossy", "--meta-objective lossy: choose one of contrastive, loss"),
        ("normalization", "sum", "--weight-normalization sum: choose one of tokens, batch"),
        ("gradient", "exact", "--meta-gradient exact: choose one of forward, backward, ghost, finite-difference, unrolled"),
        ("params", "encoder.(", "--meta-params encoder.(: not a regular expression (missing ), unterminated subpattern at position 8)"),
        ("influence_normalization", "loss", "--influence-normalization loss: choose one of none, error"),
        ("scale", "both", "--meta-scale both: choose one of train, dev"),
        ("interval", 0, "--meta-interval 0: give 1 or more"),
        ("start", -1, "--meta-start -1: give 0 or more"),
        ("replay", -1, "--teacher-replay -1: give 0 or more"),
        ("precision", "half", "--meta-precision half: choose one of full, bfloat16"),
        ("precision", "bfloat16", "--meta-precision bfloat16 is for products that --meta-gradient backward or ghost makes, not for forward; give one of these, or leave it out"),
        ("dev_interval", 0, "--meta-dev-interval 0: give 1 or more"),
        ("dev_interval", 2, "--meta-dev-interval 2: an older dev gradient would make --meta-gradient forward inexact; give 1, or --meta-gradient ghost"),
        ("replay_rows", 0, "--teacher-replay-rows 0: give 1 or more"),
        ("prior_strength", -0.1, "--teacher-prior-strength -0.1: give 0 or more"),
        ("prior_strength", NAN, "--teacher-prior-strength nan: give 0 or more"),
        ("momentum", 1.0, "--meta-momentum 1.0: give a number from 0 to below 1"),
        ("momentum", -0.1, "--meta-momentum -0.1: give a number from 0 to below 1"),
        ("momentum", NAN, "--meta-momentum nan: give a number from 0 to below 1"),
        ("prior", 0.0, "--teacher-prior 0.0: give a number between 0 and 1"),
        ("prior", 1.0, "--teacher-prior 1.0: give a number between 0 and 1"),
        ("lr", 0.0, "--teacher-lr 0.0: give a number above 0"),
        ("lr", NAN, "--teacher-lr nan: give a number above 0"),
        ("contrast", {}, "--meta-contrast is empty: name at least one KIND:ALPHA, or give --meta-objective loss"),
    ],
)
def test_bad_value(setting, value, says):
    with pytest.raises(L2RWError) as caught:
        MetaConfig(**{**GOOD, setting: value})
    assert str(caught.value) == says


@pytest.mark.parametrize("gradient", ["backward", "ghost"])
def test_one_step_is_read_not_a_window(gradient):
    MetaConfig(**GOOD, gradient=gradient)
    with pytest.raises(L2RWError, match=f"--meta-gradient {gradient} reads one step, not --meta-window 2"):
        MetaConfig(**GOOD, gradient=gradient, window=2)


def test_values_at_the_border():
    MetaConfig(**GOOD, interval=1, start=0, replay=0, replay_rows=1, prior_strength=0, momentum=0)


def test_heads():
    contrast = {"truncated": 0.5, "misaligned": "auto"}
    assert MetaConfig(contrast=contrast).heads == ("truncated", "misaligned")
    assert MetaConfig(contrast=contrast, objective="loss").heads == ("loss",)
    assert MetaConfig(contrast={}, objective="loss").heads == ("loss",)


KINDS = ("misaligned", "truncated")


@pytest.mark.parametrize(
    "text, contrast",
    [
        ("misaligned:0.5", {"misaligned": 0.5}),
        (" truncated:auto , misaligned:0 ", {"truncated": "auto", "misaligned": 0.0}),
        ("truncated", {"truncated": "auto"}),
        ("misaligned:1e-1,", {"misaligned": 0.1}),
        ("", {}),
    ],
)
def test_parse_contrast(text, contrast):
    got = parse_contrast(text, KINDS)
    assert got == contrast and list(got) == list(contrast)  # the order is the order of the turns


@pytest.mark.parametrize(
    "text, says",
    [
        ("rotated:0.5", "--meta-contrast: unknown kind 'rotated' (known: misaligned, truncated)"),
        (":0.5", "--meta-contrast: unknown kind '' (known: misaligned, truncated)"),
        ("truncated:1,truncated:2", "--meta-contrast: kind 'truncated' is named twice; name it once"),
        ("truncated:much", "--meta-contrast: 'truncated:much' is not KIND:ALPHA with a number or 'auto'"),
        ("truncated:", "--meta-contrast: 'truncated:' is not KIND:ALPHA with a number or 'auto'"),
        ("truncated:-1", "--meta-contrast: 'truncated:-1': ALPHA must be 0 or more"),
        ("truncated:nan", "--meta-contrast: 'truncated:nan': ALPHA must be 0 or more"),
        ("truncated:inf", "--meta-contrast: 'truncated:inf': ALPHA must be 0 or more"),
    ],
)
def test_bad_contrast(text, says):
    with pytest.raises(L2RWError) as caught:
        parse_contrast(text, KINDS)
    assert str(caught.value) == says


def test_the_exact_gradient_is_not_normalised():
    with pytest.raises(L2RWError, match="--influence-normalization error: with --teacher-replay 0 .* exact gradient; give none"):
        MetaConfig(**GOOD, influence_normalization="error", replay=0, prior_strength=0.0)
    MetaConfig(**GOOD, influence_normalization="error", replay=0)
