"""Clipping by the norm and its adjoint, against torch's clipping and autograd."""

import pytest
import torch

from fairseq_l2rw.meta import clipping


def vectors(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) * scale for s in ((3, 2), (4,))]


@pytest.mark.parametrize("max_norm", [0.0, 0.3, 100.0])
def test_clip_is_torchs(max_norm):
    raw = vectors(0)
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in raw]
    for p, g in zip(parameters, raw):
        p.grad = g.clone()
    if max_norm:
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    for got, p in zip(clipping.clip(raw, max_norm), parameters):
        assert torch.allclose(got, p.grad, rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-4])  # at 1e-4 the 1e-6 in the denominator shows
@pytest.mark.parametrize("share", [0.0, 0.2, 0.99, 1.01, 50.0])
def test_adjoint_is_autograds(share, scale):
    raw, u = vectors(1, scale), vectors(2)
    n = clipping.norm(raw)
    max_norm = share * n
    _, want = torch.autograd.functional.vjp(lambda *g: tuple(clipping.clip(list(g), max_norm)), tuple(raw), tuple(u))
    got = clipping.adjoint(clipping.clip(raw, max_norm), n, max_norm, [t.clone() for t in u])
    for a, b in zip(got, want):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)
    same = all(torch.equal(a, b) for a, b in zip(got, u))
    assert same == (share in (0.0, 1.01, 50.0))


def test_adjoint_is_that_of_the_jvp():
    """<Clip^T u, d> = <u, Clip d>: Clip is symmetric but for rounding, so this also pins down its sign."""
    raw, u, d = vectors(1), vectors(2), vectors(3)
    n = clipping.norm(raw)
    _, forward = torch.autograd.functional.jvp(lambda *g: tuple(clipping.clip(list(g), 0.2 * n)), tuple(raw), tuple(d))
    back = clipping.adjoint(clipping.clip(raw, 0.2 * n), n, 0.2 * n, [t.clone() for t in u])
    assert clipping.dot(back, d) == pytest.approx(clipping.dot(u, list(forward)), rel=1e-10)
    assert abs(clipping.dot(back, d) - clipping.dot(u, d)) > 0.1


def test_nobody_clipped():
    u = vectors(2)
    assert clipping.adjoint(vectors(1), None, 0.1, u) is u


def test_the_gradients_direction_is_lost():
    """A clipped step has a fixed length: what only lengthens the gradient changes (next to) nothing."""
    raw = vectors(1)
    n = clipping.norm(raw)
    back = clipping.adjoint(clipping.clip(raw, 0.2 * n), n, 0.2 * n, [t.clone() for t in raw])
    assert clipping.norm(back) < 1e-5 * n


def test_dot_is_summed_in_double():
    big = [torch.tensor([1e8, 1.0, -1e8])]
    assert clipping.dot(big, [torch.ones(3)]) == 1.0
