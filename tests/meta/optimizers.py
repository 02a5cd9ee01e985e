"""Every optimizer that has a rule, for the tests that all of them must pass."""

import inspect

import pytest
import torch

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


def fairseq_adam(parameters, **settings):
    import fairseq_l2rw.translation.optim  # noqa: F401  (registers the rule)

    return pytest.importorskip("fairseq.optim.adam").Adam(parameters, **settings)


def fairseq_nag(parameters, lr, momentum, weight_decay=0.0):
    import fairseq_l2rw.translation.optim  # noqa: F401  (registers the rule)

    return pytest.importorskip("fairseq.optim.nag").NAG(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)


#: those that torch can differentiate through itself
TORCH = {
    "sgd": (SGD, dict(lr=0.3)),
    "sgd-decay": (SGD, dict(lr=0.3, weight_decay=0.1)),
    "sgd-momentum": (SGD, dict(lr=0.3, momentum=0.9)),
    "sgd-momentum-decay": (SGD, dict(lr=0.3, momentum=0.9, weight_decay=0.1)),
    "sgd-dampening": (SGD, dict(lr=0.3, momentum=0.9, dampening=0.4)),
    "sgd-nesterov": (SGD, dict(lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.1)),
    "adam": (ADAM, dict(lr=0.05, eps=1e-3)),
    "adam-decay": (ADAM, dict(lr=0.05, eps=1e-3, weight_decay=0.1)),
    "adam-decoupled": (ADAM, dict(lr=0.05, eps=1e-2, weight_decay=0.1, decoupled_weight_decay=True)),
    "adamw": (ADAMW, dict(lr=0.05, eps=1e-3, weight_decay=0.1)),
    "adamw-betas": (ADAMW, dict(lr=0.05, eps=0.1, betas=(0.8, 0.9), weight_decay=0.0)),
}
if "decoupled_weight_decay" not in inspect.signature(torch.optim.Adam).parameters:  # older torch
    del TORCH["adam-decoupled"]
FAIRSEQ_ADAM = {
    "fairseq-adam": (fairseq_adam, dict(lr=0.05, eps=1e-3, weight_decay=0.1)),
    "fairseq-adam-betas": (fairseq_adam, dict(lr=0.05, eps=1e-2, betas=(0.8, 0.98))),
}
#: needs `double_stays_double`
ALL = {**TORCH, **FAIRSEQ_ADAM, "fairseq-nag": (fairseq_nag, dict(lr=0.1, momentum=0.9, weight_decay=0.1))}


def maker(name):
    """``make(parameters, **more)``."""
    cls, settings = ALL[name]
    return lambda parameters, **more: cls(parameters, **settings, **more)


@pytest.fixture
def double_stays_double(monkeypatch):
    """fairseq's NAG rounds gradients to single precision by ``float()``: here it leaves double precision alone."""
    rounded = torch.Tensor.float
    monkeypatch.setattr(torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else rounded(t))
