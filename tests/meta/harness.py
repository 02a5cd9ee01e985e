"""One student update under a MetaTrainer, on the toy student."""

from __future__ import annotations

import torch

from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer, RuleTrainer
from fairseq_l2rw.meta.functional import RandomState
from fairseq_l2rw.meta.reweighters import rule_class
from tests.oracles import Step, ToyStudent, plain_steps, scale_rates, toy_batch

EXACT = dict(momentum=0.0, replay=0, prior_strength=0.0, start=0, interval=1)


def make_trainer(student, optimizer, teacher="deep", number=None, hidden=4, **settings):
    config = MetaConfig(**{"objective": "loss", "contrast": {}, **EXACT, **settings})
    if rule_class(teacher) is not None:
        trainer = RuleTrainer(student, FeatureLayout((6,)), config, teacher)
        trainer.attach(optimizer)
        trainer.optimizer = optimizer
        return trainer
    trainer = MetaTrainer(student, FeatureLayout((6,)), config, teacher, hidden=hidden, number=number)
    trainer.teacher.double()
    # a teacher whose weights differ from example to example
    with torch.no_grad():
        for i, p in enumerate(trainer.teacher.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype) * 0.3)
    width = trainer.teacher.layout.width
    trainer.teacher.standardizer.update(torch.randn(20, width, generator=torch.Generator().manual_seed(5)).double() + 1)
    trainer.attach(optimizer)
    return trainer


def run_update(trainer, batches, seed, max_norm, updates=0, lr_factor=1.0, dev_batch=lambda: toy_batch(9, 7)):
    """Loss, backward, clip, step, teacher update where one is due.

    Returns:
        ``(report, step)``, the latter as the oracles take it.
    """
    student, optimizer = trainer.student, trainer.optimizer
    trainer.begin_update(updates, dev_batch)
    optimizer.zero_grad()
    torch.manual_seed(seed)
    total, denominator, weights, sizes = 0.0, 0.0, [], []
    for batch in batches:
        state = RandomState.capture()
        with trainer.watched():
            losses, n_tokens = student.losses(batch)
        internal = student.module.embedding(batch[0]).mean(1)
        rows, w = trainer.weigh(losses, n_tokens, torch.full_like(n_tokens, 4), [internal], batch, state)
        trainer.record(batch, rows, w, losses, n_tokens, n_tokens, state)
        total = total + (w * losses).sum()
        denominator = denominator + (
            (w * n_tokens).sum() if trainer.config.normalization == "batch" else n_tokens.sum()
        )
        weights.append(w.double())
        sizes.append(n_tokens)
    (total / denominator).backward()
    raw = None
    if max_norm > 0:
        raw = float(torch.nn.utils.clip_grad_norm_(student.module.parameters(), max_norm))
    scale_rates(optimizer, lr_factor)
    trainer.before_step(raw, max_norm)
    optimizer.step()
    report = trainer.after_step(dev_batch)
    return report, Step(batches, weights, sizes, seed, lr_factor)


def fresh(make, steps=3, dropout=0.3, student_class=ToyStudent):
    """A student and its optimizer after a few ordinary steps."""
    student = student_class(dropout=dropout, label_smoothing=0.1)
    optimizer = make(student.module.parameters())
    plain_steps(student, optimizer, steps)
    return student, optimizer
