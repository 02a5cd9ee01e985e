"""Independent ways to the hypergradient, in float64. They share no code with the rules that they check:
they go through the optimizer's own ``step``, or through one that somebody else wrote down."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn


class ToyStudent:
    """A small classifier with tied embeddings, layer norm and dropout: sentences of tokens, one label each.

    A batch is ``(tokens [N, T], labels [N], n_tokens [N])``; l_i = n_i times the label-smoothed cross-entropy.
    """

    def __init__(self, vocabulary=11, width=6, dropout=0.3, seed=0, label_smoothing=0.0):
        torch.manual_seed(seed)
        self.label_smoothing = label_smoothing
        self.module = _Net(vocabulary, width, dropout).double()

    def losses(self, batch):
        tokens, labels, n_tokens = batch
        logits = self.module(tokens)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
        return losses * n_tokens, n_tokens

    def dev_loss(self, batch):
        losses, n_tokens = self.losses(batch)
        return losses.sum() / n_tokens.sum()

    def corrupt(self, batch, kind, seed):
        tokens, labels, n_tokens = batch
        if kind == "rotated":
            return tokens, labels.roll(1), n_tokens
        if kind == "constant":
            return tokens, torch.zeros_like(labels), n_tokens
        if kind == "impossible":
            return None
        raise KeyError(kind)


class _Net(nn.Module):
    def __init__(self, vocabulary, width, dropout):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.inner = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, vocabulary, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.dropout(self.embedding(tokens).mean(1))
        return self.out(self.norm(torch.tanh(self.inner(x)) + x))


def toy_batch(n, seed, vocabulary=11):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocabulary, (n, 4), generator=generator)
    labels = torch.randint(0, vocabulary, (n,), generator=generator)
    return tokens, labels, torch.randint(1, 6, (n,), generator=generator).double()


def plain_steps(student, optimizer, count, seed=100):
    """A few ordinary steps, so that moments and momentum buffers are not zero."""
    for k in range(count):
        torch.manual_seed(seed + k)
        optimizer.zero_grad()
        losses, n_tokens = student.losses(toy_batch(12, seed + k))
        (losses.sum() / n_tokens.sum()).backward()
        optimizer.step()


def dev_objective(student, dev, terms):
    """sum of factor * loss over ``terms``: {kind or None: factor}, in evaluation mode."""
    student.module.eval()
    total = 0.0
    for kind, scale in terms.items():
        batch = dev if kind is None else student.corrupt(dev, kind, 0)
        total = total + scale * student.dev_loss(batch)
    student.module.train()
    return total


def weighted_loss(student, batches, weights, sizes, normalization):
    """The step's objective over its micro-batches; the caller seeds the generator."""
    total, denominator = 0.0, 0.0
    for batch, w, m in zip(batches, weights, sizes):
        losses, _ = student.losses(batch)
        total = total + (w * losses).sum()
        denominator = denominator + ((w * m).sum() if normalization == "batch" else m.sum())
    return total / denominator


@dataclass
class Step:
    """One student step as an oracle takes it: one entry of ``batches``, ``weights``, ``sizes`` a micro-batch."""

    batches: list
    weights: list
    sizes: list
    seed: int
    lr_factor: float = 1.0


def brute_force(student, optimizer, steps, normalization, max_norm, dev, terms, delta=2e-3):
    """dJ / dw_i of every row of every step, by four-point central differences through copies of the real optimizer.

    Args:
        optimizer: the state BEFORE the first step; it is copied, not stepped.
    """
    out = []
    for s, step in enumerate(steps):
        for b, w in enumerate(step.weights):
            for i in range(len(w)):

                def value(shift):
                    shifted = copy.deepcopy(steps)
                    shifted[s].weights[b][i] += shift
                    pair = copy.deepcopy((student, optimizer))
                    return _value_after_steps(*pair, shifted, normalization, max_norm, dev, terms)

                out.append((8 * (value(delta) - value(-delta)) - (value(2 * delta) - value(-2 * delta))) / (12 * delta))
    return torch.tensor(out, dtype=torch.float64)


def _value_after_steps(student, optimizer, steps, normalization, max_norm, dev, terms):
    parameters = list(student.module.parameters())
    for step in steps:
        optimizer.zero_grad()
        torch.manual_seed(step.seed)
        weighted_loss(student, step.batches, step.weights, step.sizes, normalization).backward()
        if max_norm > 0:
            torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        scale_rates(optimizer, step.lr_factor)
        optimizer.step()
    with torch.no_grad():
        return float(dev_objective(student, dev, terms))


def scale_rates(optimizer, factor):
    """A learning-rate schedule."""
    for group in optimizer.param_groups:
        group["lr"] *= factor


def through_torch_steps(student, make, state, steps, normalization, max_norm, dev, terms, through=lambda name: True):
    """dJ / dw by autograd through torch's own optimizer with ``differentiable=True``, over all steps.

    Args:
        make: ``make(parameters, differentiable=True)`` gives the optimizer.
        state: state dict before the first step.
        through: name of a parameter -> does the derivative go through its steps?
    """
    names = [n for n, _ in student.module.named_parameters()]
    theta = [p.detach().clone().requires_grad_() for p in student.module.parameters()]
    weights = [[w.clone().requires_grad_() for w in step.weights] for step in steps]
    optimizer = None
    for step, w in zip(steps, weights):
        # functional_call is safe here: the tie is resolved by naming the one parameter once
        torch.manual_seed(step.seed)
        loss = weighted_loss(
            _Functional(student, dict(zip(names, theta))), step.batches, w, step.sizes, normalization
        )
        gradients = torch.autograd.grad(loss, theta, create_graph=True)
        gradients = [g if through(n) else g.detach() for n, g in zip(names, gradients)]
        gradients = _clipped(gradients, max_norm)
        gradients = [g if through(n) else g.detach() for n, g in zip(names, gradients)]
        # the optimizer works in place: give it copies, its state tensors too
        stepped = [t.clone() for t in theta]
        optimizer = _moved(make, optimizer, state, stepped, step.lr_factor)
        for p, g in zip(stepped, gradients):
            p.grad = g
        optimizer.step()
        theta = stepped
    value = dev_objective(_Functional(student, dict(zip(names, theta))), dev, terms)
    return torch.cat(torch.autograd.grad(value, [w for step in weights for w in step]))


class DifferentiableNAG:
    """fairseq's ``nag``, which ``higher`` lacks, as ``higher`` would have it: line by line as ``fairseq/optim/nag.py``."""

    def __init__(self, optimizer, reference_params):
        self.param_groups = [dict(group) for group in optimizer.param_groups]
        states = [optimizer.state.get(p, {}) for p in reference_params]
        buffers = [s.get("momentum_buffer", torch.zeros_like(p)) for s, p in zip(states, reference_params)]
        self.state = [{i: {"momentum_buffer": b.clone()} for i, b in enumerate(buffers)}]

    def step(self, loss, params, grad_callback):
        (group,) = self.param_groups
        momentum, lr = group["momentum"], group["lr"]
        lr_correct = lr / group["lr_old"]
        out = []
        for i, (p, d_p) in enumerate(zip(params, grad_callback(torch.autograd.grad(loss, params, create_graph=True)))):
            buf = self.state[0][i]["momentum_buffer"]
            p = p.mul(1 - lr * group["weight_decay"])
            p = p.add(buf, alpha=momentum * momentum * lr_correct)
            out.append(p.add(d_p, alpha=-(1 + momentum) * lr))
            self.state[0][i]["momentum_buffer"] = buf.mul(momentum * lr_correct).add(d_p, alpha=-lr)
        group["lr_old"] = lr
        return out


def _differentiable(optimizer, theta):
    if type(optimizer).__name__ == "NAG":
        return DifferentiableNAG(optimizer, theta)
    higher = pytest.importorskip("higher", reason="the independent library of differentiable optimizers is not installed")
    adam = "exp_avg" in next(iter(optimizer.state.values()), {})
    kind = higher.optim.DifferentiableAdam if adam else higher.optim.DifferentiableSGD
    return kind(optimizer, reference_params=theta)


def through_higher(student, optimizer, steps, normalization, max_norm, dev, terms, weights=None, inputs=None):
    """dJ / dw, or dJ / d ``inputs``, through the differentiable optimizers of ``higher`` (Grefenstette et al. 2019).

    Its Adam has fairseq's epsilon, which is torch's times sqrt(1 - beta2^t), and coupled decay only; decoupled decay is
    one term more. In the place of the ``nag`` that it lacks is :class:`DifferentiableNAG`.

    Args:
        optimizer: torch's or fairseq's, the state before the first step.
        weights: w_i of each micro-batch of each step, attached to ``inputs``; new leaves unless given.
    """
    names = [n for n, _ in student.module.named_parameters()]
    theta = list(student.module.parameters())
    stepper = _differentiable(optimizer, theta)
    (group,) = stepper.param_groups
    adam = "betas" in group
    if weights is None:
        weights = [[w.clone().requires_grad_() for w in step.weights] for step in steps]
        inputs = [w for step in weights for w in step]
    decoupled = adam and (not isinstance(optimizer, torch.optim.Adam) or bool(group.get("decoupled_weight_decay")))
    decay, epsilon = group["weight_decay"], group.get("eps")
    for state in stepper.state[0].values():
        if "step" in state:
            state["step"] = float(state["step"])  # torch's float32 count would round the bias correction
    for step, w in zip(steps, weights):
        torch.manual_seed(step.seed)
        loss = weighted_loss(_Functional(student, dict(zip(names, theta))), step.batches, w, step.sizes, normalization)
        group["lr"] *= step.lr_factor
        if decoupled:
            group["weight_decay"] = 0
        if adam and type(optimizer).__module__.startswith("torch."):
            t = stepper.state[0][0]["step"] + 1
            group["eps"] = epsilon * (1 - group["betas"][1] ** t) ** 0.5
        new = stepper.step(loss, params=theta, grad_callback=lambda gradients: _clipped(gradients, max_norm))
        theta = [n - group["lr"] * decay * old for n, old in zip(new, theta)] if decoupled else list(new)
    value = dev_objective(_Functional(student, dict(zip(names, theta))), dev, terms)
    gradients = torch.autograd.grad(value, inputs)
    return torch.cat([g.flatten() for g in gradients])


def _clipped(gradients, max_norm):
    if max_norm <= 0:
        return gradients
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
    return [g * (max_norm / (norm + 1e-6)).clamp(max=1.0) for g in gradients]


def _moved(make, before, state, parameters, lr_factor):
    """A differentiable optimizer of ``parameters`` that goes on where ``before`` (or ``state``, at first) stands."""
    optimizer = make(parameters, differentiable=True)
    if before is None:
        optimizer.load_state_dict(state)
    else:
        for group, old in zip(optimizer.param_groups, before.param_groups):
            group["lr"] = old["lr"]
            for p, q in zip(group["params"], old["params"]):
                optimizer.state[p] = {k: t.clone() if torch.is_tensor(t) else t for k, t in before.state[q].items()}
    for group in optimizer.param_groups:
        group["differentiable"] = True
        group["lr"] *= lr_factor
        for p in group["params"]:
            if torch.is_tensor(optimizer.state[p].get("step")):  # a float32 count would round the bias correction
                optimizer.state[p]["step"] = optimizer.state[p]["step"].double()
    return optimizer


class _Functional(ToyStudent):
    """A student that runs at given parameters."""

    def __init__(self, student, parameters):
        self.original, self.parameters = student, parameters
        self.module, self.label_smoothing = self, student.label_smoothing

    def train(self):
        self.original.module.train()

    def eval(self):
        self.original.module.eval()

    def __call__(self, tokens):
        return torch.func.functional_call(self.original.module, self.parameters, (tokens,), tie_weights=True)
