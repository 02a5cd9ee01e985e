"""SAMA's update against derivatives on paper, in float64; and what Betty's own code is given."""

import pytest
import torch

from benchmarks import betty_sama, sama
from fairseq_l2rw.errors import L2RWError


def test_adaptation_is_the_derivative_of_adams_step():
    p = torch.nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(0)).double())
    optimizer = torch.optim.Adam([p], lr=0.1, betas=(0.8, 0.9), eps=1e-3)
    for seed in (1, 2, 3):
        before = {k: v.clone() for k, v in optimizer.state.get(p, {}).items()}
        p.grad = torch.randn(5, generator=torch.Generator().manual_seed(seed)).double()
        optimizer.step()
    (got,) = sama.adaptation(optimizer, [p])
    g = p.grad.clone().requires_grad_()
    m, s = 0.8 * before["exp_avg"] + 0.2 * g, 0.9 * before["exp_avg_sq"] + 0.1 * g.square()
    (want,) = torch.autograd.grad((0.1 * m / (s.sqrt() + 1e-3)).sum(), g)
    assert torch.allclose(got, want, rtol=1e-9) and want.abs().min() > 1e-4


def test_a_toy_problem():
    """L = sum_i w_i(omega) a_i . theta is linear in theta, so the difference is the derivative; theta is put back."""
    generator = torch.Generator().manual_seed(0)
    a, theta, gradient = (torch.randn(*shape, generator=generator).double() for shape in ((4, 3), (3,), (3,)))
    omega = torch.randn(4, generator=generator).double().requires_grad_()
    before, diagonal = theta.clone(), torch.tensor([0.5, 1.0, 2.0]).double()
    loss = lambda: (torch.sigmoid(omega) * (a @ theta)).sum()  # noqa: E731
    (got,) = sama.teacher_gradient([theta], [gradient], [diagonal], loss, [omega], alpha=0.3)
    w = torch.sigmoid(omega)
    want = -(w * (1 - w) * (a @ (diagonal * gradient))).detach()
    assert torch.allclose(got, want, rtol=1e-8) and torch.allclose(theta, before, rtol=1e-12)
    # a pair whose gradient runs along the dev gradient lowers J: its weight should grow
    (along,) = sama.teacher_gradient([theta], [a[0]], [1.0], loss, [omega])
    assert along[0] < 0


def test_betty_s_code_is_found_in_its_folder(tmp_path, monkeypatch):
    """A stand-in for its source that says what it was given."""
    with pytest.raises(L2RWError, match="no betty/hypergradient/sama.py there; give a checkout"):
        betty_sama.load(str(tmp_path))
    package = tmp_path / "betty" / "hypergradient"
    package.mkdir(parents=True)
    (package / "sama.py").write_text(
        "def sama(vector, curr, prev, sync):\n"
        "    (p,), group = curr.meta_trainable_parameters(), curr.get_opt_param_group_for_param(curr.meta_trainable_parameters()[0])\n"
        "    state = curr.get_opt_state_for_param(p)\n"
        "    return [vector[0] * group['lr'] + state['last_grad'] + curr.training_step_exec(curr.cur_batch), *prev.trainable_parameters()]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))  # taken off again
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([p], lr=0.5)
    p.grad = torch.tensor([3.0])
    problem = betty_sama.Problem([p], optimizer, lambda: torch.tensor(7.0), alpha=1.0)
    got = betty_sama.teacher_gradient(betty_sama.load(str(tmp_path)), problem, [torch.tensor([4.0])], ["omega"])
    assert got == [torch.tensor([12.0]), "omega"]
