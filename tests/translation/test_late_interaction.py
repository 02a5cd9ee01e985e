"""Late interactions of source and target, against loops over tokens."""

import pytest
import torch
from torch.nn import functional as F

from fairseq_l2rw.translation.capture import MEANS, PARTS, TOKENS, Capture
from fairseq_l2rw.translation.late_interaction import late_interactions, output_embedding
from tests.translation.harness import batch, batch_of, pairs, student_module
from tests.translation.test_capture import STUDENTS, hooks, student

PAD = 1


def numbers(seed=0, dtype=torch.float32):
    """(h, padded source, a, e, y, padded target) with padding of other sizes on the two sides."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)  # noqa: E731
    source, target = torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3, 4, dtype=torch.bool)
    source[1, :3], source[2, :1], target[1, 3:], target[2, 1:] = True, True, True, True
    tokens = torch.randint(4, 9, (3, 4), generator=generator).masked_fill(target, PAD)
    return draw(3, 5, 6), source, draw(3, 4, 6), draw(9, 6), tokens, target


def by_hand(h, padded_source, a, e, y, padded_target):
    rows = []
    for i in range(len(h)):
        sources = [h[i, s] for s in range(h.shape[1]) if not padded_source[i, s]]
        targets = [t for t in range(y.shape[1]) if not padded_target[i, t]]
        words = [e[y[i, t]] for t in targets]
        cos = lambda u, v: float(F.cosine_similarity(u.double(), v.double(), dim=0))  # noqa: E731
        context = [cos(a[i, t], w) for t, w in zip(targets, words)]
        target = [max(cos(w, s) for s in sources) for w in words]
        source = [max(cos(s, w) for w in words) for s in sources]
        rows.append([sum(values) / len(values) for values in (context, target, source)])
    return torch.tensor(rows)


@pytest.mark.parametrize("seed", range(3))
def test_against_loops(seed):
    given = numbers(seed)
    got = late_interactions(*given)
    assert got.shape == (3, 3) and got.dtype == torch.float32
    assert torch.allclose(got, by_hand(*given), atol=1e-6)
    assert got.std(0).min() > 0.01  # not all the same


def test_padding_counts_for_nothing():
    h, padded_source, a, e, y, padded_target = numbers()
    want = late_interactions(h, padded_source, a, e, y, padded_target)
    h[padded_source], a[padded_target] = float("nan"), float("inf")
    y[padded_target] = 7
    got = late_interactions(h, padded_source, a, e, y, padded_target)
    assert torch.equal(got, want)
    padded_target[:, -1] = False  # a negative control
    assert not torch.equal(late_interactions(*numbers()[:5], padded_target), want)


def test_half_precision_and_detached():
    h, padded_source, a, e, y, padded_target = numbers()
    half = late_interactions(h.half(), padded_source, a.half(), e.half().requires_grad_(), y, padded_target)
    assert half.dtype == torch.float32 and not half.requires_grad
    assert torch.allclose(half, late_interactions(h, padded_source, a, e, y, padded_target), atol=5e-3)


def test_nothing_to_compare():
    h, padded_source, a, e, y, padded_target = numbers()
    without = late_interactions(h, padded_source, None, e, y, padded_target)
    assert (without[:, 0] == 0).all() and torch.equal(without[:, 1:], late_interactions(*numbers())[:, 1:])
    zeros = late_interactions(torch.zeros_like(h), padded_source, a, e, y, padded_target)
    assert (zeros[:, 1:] == 0).all()
    assert torch.isfinite(late_interactions(h, padded_source | True, a, e, y, padded_target | True)).all()


def seen(model, sample, interactions=TOKENS, parts=PARTS, layers=(-1,)):
    with Capture(model, layers, PAD, parts, interactions).states() as states:
        model(**sample["net_input"])
    return states.internal(sample["net_input"]["src_tokens"], sample["target"])


TRANSFORMERS = [name for name in STUDENTS if name.startswith("transformer")]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_of_a_transformer(name):
    """From what the encoder returns, the last layer's attention gives and the output projection holds."""
    model, sample = student(name), batch()
    net = sample["net_input"]
    encoder = model.encoder(net["src_tokens"], src_lengths=net["src_lengths"])
    attended = []
    handle = model.decoder.layers[-1].encoder_attn.register_forward_hook(lambda m, i, out: attended.append(out[0].transpose(0, 1)))
    model.decoder(net["prev_output_tokens"], encoder_out=encoder)
    handle.remove()
    states = encoder["encoder_out"][0].transpose(0, 1)
    weight = model.decoder.output_projection.weight
    want = by_hand(states, net["src_tokens"] == PAD, attended[0], weight, sample["target"], sample["target"] == PAD)
    *means, got = seen(model, sample)
    assert torch.allclose(got, want, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(means, seen(model, sample, MEANS), strict=True))
    # whatever layers the means are of
    assert torch.equal(seen(model, sample, layers=(0,))[-1], got)


@pytest.mark.parametrize("name", STUDENTS)
def test_alone_and_in_a_batch(name):
    """Every student that has late interactions: the same alone as among longer sentences, and as many as announced."""
    model, sample = student(name), batch()
    together = seen(model, sample)
    assert Capture(model, (-1,), PAD, PARTS, TOKENS).widths() == tuple(block.shape[1] for block in together)
    assert (len(together) == 3) == (name not in ("lstm-bidirectional",))  # twice as wide as its embeddings
    order = sample["id"].tolist()
    for position, i in enumerate(order):
        alone = seen(model, batch_of([pairs([5, 3, 6, 1], [2, 7, 4, 3])[i]]))
        for a, b in zip(alone, together, strict=True):
            assert torch.allclose(a[0], b[position], atol=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_one_part_alone_has_none(part):
    model, sample = student("transformer"), batch()
    assert len(seen(model, sample, parts=(part,))) == 1


def test_a_layer_that_is_dropped():
    """Under layer drop the last layer that did run counts."""
    model, sample = student_module("transformer", dropout=0.0, decoder_layerdrop=0.999).train(), batch()
    assert torch.isfinite(seen(model, sample)[-1]).all()


@pytest.mark.parametrize("name", STUDENTS)
def test_nothing_is_left_behind(name):
    model, sample = student(name), batch()
    out = model(**sample["net_input"])[0]
    before = hooks(model)
    with Capture(model, (-1,), PAD, PARTS, TOKENS).states():
        inside = model(**sample["net_input"])[0]
        assert hooks(model) > before
    assert hooks(model) == before and torch.equal(inside, out)


def test_the_embedding_is_that_of_the_output():
    for name in STUDENTS:
        decoder = student(name).decoder
        projection = next((p for n in ("output_projection", "fc_out", "fc3") if (p := getattr(decoder, n, None)) is not None), None)
        weight = output_embedding(decoder, projection)
        assert weight is (decoder.embed_tokens.weight if projection is None else projection.weight)
    assert output_embedding(torch.nn.Module(), torch.nn.Bilinear(2, 2, 2)) is None
