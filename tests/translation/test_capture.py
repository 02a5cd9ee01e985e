"""Masked means of the student's states, against the same computed by hand from the model's own outputs."""

import pytest
import torch
from torch import nn

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.capture import Capture, parse_inputs, parse_layers
from tests.translation.harness import batch, capture_of, student_module

#: students, the last one without a module for its output projection
STUDENTS = {
    "transformer": ("transformer", {}),
    "transformer-shared": ("transformer", dict(share_all_embeddings=True)),
    "transformer-pre-norm": ("transformer", dict(encoder_normalize_before=True, decoder_normalize_before=True)),
    "lstm": ("lstm", {}),
    "lstm-bidirectional": ("lstm", dict(encoder_bidirectional=True)),
    "lstm-tied-output": ("lstm", dict(share_decoder_input_output_embed=True)),
    "lstm-all-tied": ("lstm", dict(share_all_embeddings=True)),
    "fconv": ("fconv", {}),
    "fconv-tied-output": ("fconv", dict(share_input_output_embed=True)),
}


def student(name):
    arch, options = STUDENTS[name]
    return student_module(arch, dropout=0.0, **options).eval()


def mean_of_real(states, real):
    """One sentence after the other: the mean of the states at its real tokens."""
    return torch.stack([s[r].mean(0) for s, r in zip(states, real)])


def by_hand(model, sample):
    """(encoder, decoder) means from what ``model.encoder`` returns and ``extract_features`` gives."""
    net, real_target = sample["net_input"], sample["target"] != 1
    out = model.encoder(net["src_tokens"], src_lengths=net["src_lengths"])
    if isinstance(out, dict) and isinstance(out["encoder_out"], tuple):  # fconv
        states, real = out["encoder_out"][0], net["src_tokens"] != 1
    elif isinstance(out, dict):
        states, real = out["encoder_out"][0].transpose(0, 1), net["src_tokens"] != 1
    else:  # lstm: it moves the padding to the right itself
        lengths = net["src_lengths"].unsqueeze(1)
        states, real = out[0].transpose(0, 1), torch.arange(net["src_tokens"].size(1)).unsqueeze(0) < lengths
    if hasattr(model.decoder, "fc3"):  # fconv: y = x W^T + b, and W has full column rank, so x follows from y
        y = model.decoder(net["prev_output_tokens"], out)[0]
        features = (y - model.decoder.fc3.bias) @ torch.linalg.pinv(model.decoder.fc3.weight).t()
    else:
        features = model.decoder.extract_features(net["prev_output_tokens"], encoder_out=out)[0]
    return mean_of_real(states, real), mean_of_real(features, real_target)


def watched(model, sample, *layers):
    with capture_of(model, *layers).states() as states:
        model(**sample["net_input"])
    return states.means(sample["net_input"]["src_tokens"], sample["target"])


@pytest.mark.parametrize("name", STUDENTS)
def test_last_layer(name):
    model, sample = student(name), batch()
    assert (sample["net_input"]["src_tokens"][1:, 0] == 1).all()  # sources are padded on the left
    got, want = watched(model, sample), by_hand(model, sample)
    assert len(got) == 2
    for a, b in zip(got, want):
        assert torch.allclose(a, b, atol=1e-5)
        assert not a.requires_grad and a.dtype == torch.float32
    # with its padding counted in, a mean would be another one (but for the longest sentence)
    encoder = model.encoder(sample["net_input"]["src_tokens"], src_lengths=sample["net_input"]["src_lengths"])
    if isinstance(encoder, dict) and not isinstance(encoder["encoder_out"], tuple):
        assert not torch.allclose(encoder["encoder_out"][0].mean(0)[1:], got[0][1:], atol=1e-2)


@pytest.mark.parametrize("name", STUDENTS)
def test_alone_and_in_a_batch(name):
    """Padding does not matter: a sentence has the same means among longer ones as alone."""
    model, sample = student(name), batch()
    together = watched(model, sample)
    row = len(sample["id"]) - 1
    net = sample["net_input"]

    def unpadded(tokens):
        return tokens[row][tokens[row] != 1].unsqueeze(0)

    alone = {
        "net_input": {
            "src_tokens": unpadded(net["src_tokens"]),
            "src_lengths": net["src_lengths"][row:],
            "prev_output_tokens": unpadded(net["prev_output_tokens"]),
        },
        "target": unpadded(sample["target"]),
    }
    for a, b in zip(together, watched(model, alone)):
        assert torch.allclose(a[row:], b, atol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "transformer-pre-norm"])
def test_numbered_layers(name):
    model, sample = student(name), batch()
    seen = {}
    for part in ("encoder", "decoder"):
        getattr(model, part).layers[0].register_forward_hook(
            lambda m, i, o, part=part: seen.update({part: (o[0] if isinstance(o, tuple) else o).transpose(0, 1)})
        )
    got = watched(model, sample, 0, -1)
    real = {"encoder": sample["net_input"]["src_tokens"] != 1, "decoder": sample["target"] != 1}
    last = by_hand(model, sample)
    # encoder blocks in the order of the layers, then the decoder's
    want = [mean_of_real(seen["encoder"], real["encoder"]), last[0], mean_of_real(seen["decoder"], real["decoder"]), last[1]]
    assert len(got) == 4
    for a, b in zip(got, want):
        assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(got[0], got[1], atol=1e-2)


@pytest.mark.parametrize("name", STUDENTS)
def test_widths(name):
    model, sample = student(name).train(), batch()
    widths = capture_of(model).widths()
    assert model.training
    assert widths == tuple(block.shape[1] for block in watched(model.eval(), sample))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", STUDENTS)
def test_nothing_is_left_behind(name, fails):
    model, sample = student(name), batch()
    out = model(**sample["net_input"])[0]
    before = hooks(model), set(vars(model.decoder)), [type(m) for m in model.modules()]
    try:
        with capture_of(model, *((-1, 0) if name.startswith("transformer") else (-1,))).states():
            assert hooks(model) > before[0]
            inside = model(**sample["net_input"])[0]
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert (hooks(model), set(vars(model.decoder)), [type(m) for m in model.modules()]) == before
    assert torch.equal(inside, out)  # watching changes nothing


def test_tied_output_is_shadowed_for_a_while():
    model = student("lstm-tied-output")
    assert not hasattr(model.decoder, "fc_out")
    with capture_of(model).states():
        assert "extract_features" in vars(model.decoder)
    assert "extract_features" not in vars(model.decoder)


def test_the_training_pass_is_watched_with_its_graph():
    """States are detached, the pass itself is not."""
    model, sample = student_module(dropout=0.3).train(), batch()
    with capture_of(model).states() as states:
        out = model(**sample["net_input"])[0]
    assert out.requires_grad
    assert not any(block.requires_grad for block in states.means(sample["net_input"]["src_tokens"], sample["target"]))


@pytest.mark.parametrize(
    "name, layer, says",
    [
        ("transformer", 2, "--teacher-layers 2: the student's encoder has layers 0 to 1"),
        ("transformer", 17, "--teacher-layers 17: the student's encoder has layers 0 to 1"),
        ("lstm", 0, "--teacher-layers 0: the student's encoder has no numbered layers"),
        ("fconv", 0, "--teacher-layers 0: the student's encoder has no numbered layers"),
    ],
)
def test_a_layer_that_is_not_there(name, layer, says):
    with pytest.raises(L2RWError) as caught:
        Capture(student(name), (layer,), 1)
    assert str(caught.value) == says


def test_a_decoder_with_fewer_layers():
    model = student_module("transformer", decoder_layers=1)
    with pytest.raises(L2RWError, match="^--teacher-layers 1: the student's decoder has layers 0 to 0$"):
        Capture(model, (1,), 1)


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 2)


@pytest.mark.parametrize("model, part", [(LanguageModel(), "encoder"), (nn.Sequential(), "encoder")])
def test_a_student_without_an_encoder(model, part):
    with pytest.raises(L2RWError, match=f"^--arch: {type(model).__name__} has no {part}; .*--arch transformer"):
        Capture(model, (-1,), 1)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_one_part_alone(part):
    """Of both layers that are watched; widths and means are those of that part."""
    model, sample = student("transformer"), batch()
    both = watched(model, sample, 0, -1)
    alone = Capture(model, (0, -1), 1, (part,))
    with alone.states() as states:
        model(**sample["net_input"])
    got = states.means(sample["net_input"]["src_tokens"], sample["target"])
    want = both[:2] if part == "encoder" else both[2:]
    assert len(got) == 2 and all(torch.equal(a, b) for a, b in zip(got, want))
    assert alone.widths() == tuple(block.shape[1] for block in want)


@pytest.mark.parametrize(
    "text, inputs, parts",
    [
        ("both", ("internal", "surface"), ("encoder", "decoder")),
        ("surface", ("surface",), ("encoder", "decoder")),
        ("encoder", ("internal",), ("encoder",)),
        ("decoder, surface", ("internal", "surface"), ("decoder",)),
        ("surface,encoder,decoder", ("surface", "internal"), ("encoder", "decoder")),
    ],
)
def test_parse_inputs(text, inputs, parts):
    assert parse_inputs(text) == (inputs, parts)


@pytest.mark.parametrize("text, layers", [("-1", (-1,)), ("0,2,-1", (0, 2, -1)), (" 1, 1", (1,)), ("3", (3,))])
def test_parse_layers(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "last", "0,", "-2", "1.5", "0;1"])
def test_bad_layers(text):
    with pytest.raises(L2RWError, match="^--teacher-layers .*: give layer numbers from 0, or -1 for the last"):
        parse_layers(text)
