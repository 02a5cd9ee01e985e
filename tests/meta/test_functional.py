"""Swapped parameters, modes and random states, each put back as it was."""

import pytest
import torch
from torch import nn

from fairseq_l2rw.meta.functional import RandomState, evaluating, own_random_stream, swapped, trainable, untracked


class Tied(nn.Module):
    """An embedding shared by three slots, and an LSTM, which keeps a second list of its weights."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.again = self.embedding  # the same module under a second name
        self.rnn = nn.LSTM(5, 5, num_layers=2, bidirectional=False, batch_first=True)
        self.out = nn.Linear(5, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        return self.out(self.rnn(self.embedding(tokens) + self.again(tokens))[0])


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Tied()


TOKENS = torch.arange(6).view(2, 3)


def test_trainable_names_each_parameter_once(module):
    module.rnn.weight_hh_l0.requires_grad_(False)
    names = list(trainable(module))
    assert names.count("embedding.weight") == 1
    assert "out.weight" not in names and "again.weight" not in names and "rnn.weight_hh_l0" not in names
    assert len(names) == 8


def test_swapped_runs_at_the_values(module):
    """As a module that really has those parameters; each kind of parameter matters."""
    parameters = list(module.parameters())
    for changed in range(len(parameters)):
        values = [p.detach() + (0.1 * torch.randn_like(p) if i == changed else 0) for i, p in enumerate(parameters)]
        other = Tied()
        with torch.no_grad():
            for p, v in zip(other.parameters(), values):
                p.copy_(v)
        with swapped(module, parameters, values):
            got = module(TOKENS)
        assert torch.allclose(got, other(TOKENS), atol=1e-6)  # (the LSTM has another kernel where gradients are wanted)
        assert not torch.allclose(got, module(TOKENS), atol=1e-5)


def test_swapped_carries_gradients_of_tied_slots(module):
    parameters = list(module.parameters())
    values = [p.detach().clone().requires_grad_() for p in parameters]
    with swapped(module, parameters, values):
        got = torch.autograd.grad(module(TOKENS).square().sum(), values)
    want = torch.autograd.grad(module(TOKENS).square().sum(), parameters)
    for g, w in zip(got, want):
        assert torch.allclose(g, w)


def slots(module):
    """Everything that swapped touches, by identity."""
    named = [(n, k, id(p)) for n, m in module.named_modules() for k, p in m._parameters.items()]
    return named, [id(w) for w in module.rnn._flat_weights], list(module._parameters)


@pytest.mark.parametrize("fails", [False, True])
def test_module_is_whole_after(module, fails):
    before, out = slots(module), module(TOKENS)
    parameters = list(module.parameters())
    try:
        with swapped(module, parameters, [torch.zeros_like(p) for p in parameters]):
            assert slots(module)[0] != before[0] and slots(module)[1] != before[1]
            assert not module(TOKENS).any()
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert slots(module) == before
    assert module.out.weight is module.embedding.weight
    assert all(a is b for a, b in zip(module.parameters(), parameters))
    assert torch.equal(module(TOKENS), out)


def test_swapping_a_part_leaves_the_rest(module):
    first = [module.embedding.weight]
    with swapped(module, first, [torch.zeros(7, 5)]):
        assert module.out.weight is module.again.weight and not module.out.weight.any()
        assert isinstance(module.rnn.weight_ih_l0, nn.Parameter)


def test_replayed_repeats_dropout_and_leaves_the_stream_alone():
    dropout = nn.Dropout(0.5)
    torch.manual_seed(3)
    undisturbed = [dropout(torch.ones(50)) for _ in range(3)]
    torch.manual_seed(3)
    state = RandomState.capture()
    first = dropout(torch.ones(50))
    with state.replayed():
        again = dropout(torch.ones(50))
    second = dropout(torch.ones(50))
    with state.replayed():
        torch.rand(1000)
        state_is_reusable = RandomState.capture()
    assert not torch.equal(state_is_reusable.cpu, state.cpu)
    third = dropout(torch.ones(50))
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip((first, second, third), undisturbed))
    assert not torch.equal(first, second)


def test_random_streams_are_put_back_after_an_exception():
    torch.manual_seed(3)
    state = RandomState.capture()
    for context in (state.replayed(), own_random_stream(9)):
        with pytest.raises(KeyError), context:
            torch.rand(7)
            raise KeyError
        assert torch.equal(torch.get_rng_state(), state.cpu)


def test_own_random_stream_depends_on_the_seed_alone():
    draws = []
    for outer, seed in ((1, 5), (2, 5), (2, 6)):
        torch.manual_seed(outer)
        with own_random_stream(seed):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])


@pytest.mark.parametrize("fails", [False, True])
def test_evaluating_puts_each_mode_back(module, fails):
    module.train()
    module.rnn.eval()  # a part that was frozen by hand stays frozen
    try:
        with evaluating(module):
            assert not any(m.training for m in module.modules())
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert module.training and module.out.training and not module.rnn.training


@pytest.mark.parametrize("fails", [False, True])
def test_running_statistics_are_put_out_of_reach_and_back(fails):
    norm, frozen = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3).eval()
    network = torch.nn.Sequential(norm, frozen)
    x = torch.randn(8, 3) + 2
    before = [b.clone() for b in network.buffers()]
    try:
        with untracked(network):
            out = norm(x)
            assert torch.equal(frozen(x), torch.nn.functional.batch_norm(x, before[3], before[4], frozen.weight, frozen.bias))
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), before))
    assert torch.equal(norm(x), out)  # the batch's own statistics in both
    assert not torch.equal(norm.running_mean, before[0]) and torch.equal(frozen.running_mean, before[3])
