"""One teacher update, ours and theirs: same fairseq Transformer, batches, teacher and J = the loss of a dev batch.

    python -m benchmarks.versus --threads 1

* ``forward``, ``backward``, ``ghost``: ours (the first two exact; the last with the direction of the update before);
* ``backward, bfloat16``: with ``--meta-precision bfloat16``;
* ``ghost, dev gradient every Nth``: the same with ``--meta-dev-interval N``, the mean over N teacher updates;
* ``higher``: Meta-Weight-Net's unrolling: a virtual step with a graph of the gradient, through the differentiable Adam of the
  library ``higher``, then the dev loss at the new parameters and one backward pass to the teacher (exact);
* ``SAMA``: Betty's algorithm, written from its paper (``benchmarks/sama.py``), both sides of the difference with the step's own
  dropout masks and features of the pairs (its own code draws and computes new ones for each side);
* ``Betty's SAMA`` (``--betty DIR``, a checkout of its source): the same by its own code.

Time is what a teacher update adds to the student's own weighted step (for ``backward`` and ``ghost`` that is measured by turns
with and without it). Memory is the most that a process of its own takes for the student's step and the update (CPU: without the
holes of glibc's allocator), above what it had when all was imported. The error is that of the teacher's gradient against
``unrolled``, which differentiates the step as autograd does.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import betty_sama, sama, workload
from benchmarks.apart import measured_apart
from benchmarks.record import commit, table, write_json
from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer, RandomState
from fairseq_l2rw.meta.functional import evaluating, swapped
from fairseq_l2rw.translation.config import L2RWTranslationConfig

INTERVAL = L2RWTranslationConfig.meta_interval
SELDOM = "ghost, dev gradient every {}th"
LOW = "backward, bfloat16"
OURS = ("forward", "backward", LOW, "ghost", SELDOM, "finite-difference")
#: contender -> bars: most of the time of `higher`, of SAMA
BARS = {"forward": (0.6, 1.0), "backward": (0.6, 1.0), LOW: (0.5, 0.5), "ghost": (0.5, 0.5), SELDOM: (0.5, 0.5)}


class Bench:
    """A student, its optimizer (torch's Adam) and its batches; :meth:`step` is one weighted step with any contender's update.

    Every contender starts a step at the same parameters, optimizer state, teacher and random state.
    """

    def __init__(self, data: str, arguments):
        options = ["--meta-objective", "loss", "--meta-max-tokens", workload.dev_tokens(arguments)]
        training = workload.Training(data, arguments, "l2rw_translation", *options)
        self.training, self.task = training, training.task
        self.student, self.capture = self.task.meta.student, self.task.capture
        self.batch = training.trainer._prepare_sample(training.batches[0])[0]
        self.dev, self.dev_before = (training.trainer._prepare_sample(self.task.dev_batches())[0] for _ in range(2))
        self.student.module.train()
        self.parameters = list(self.student.module.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=5e-4, betas=(0.9, 0.98))
        before = training.batches[1 : 1 + arguments.start]
        if arguments.child:  # none may be larger than the one whose memory is measured
            before = training.batches[:1] * arguments.start
        for batch in before:  # so that the moments are not empty
            losses, n_tokens = self.student.losses(training.trainer._prepare_sample(batch)[0])
            self._own_step((losses.sum() / n_tokens.sum()))
        self.alpha = arguments.sama_alpha
        self.dev_interval = arguments.dev_interval
        self.metas = {mode: self._meta(mode) for mode in (*OURS, "unrolled")}

    def _meta(self, mode):
        interval = self.dev_interval if mode == SELDOM else 1
        config = MetaConfig(
            objective="loss", momentum=0.0, replay=0, prior_strength=0.0, start=0, normalization="tokens",
            gradient=mode.split(",")[0], dev_interval=interval, precision="bfloat16" if mode == LOW else "full",
        )  # fmt: skip
        meta = MetaTrainer(self.student, FeatureLayout(self.capture.widths()), config)
        meta.attach(self.optimizer)
        with torch.no_grad():  # weights that differ from pair to pair
            for i, p in enumerate(meta.teacher.parameters()):
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).to(p))
        meta.teacher.standardizer.update(torch.randn(50, meta.teacher.layout.width, generator=torch.Generator().manual_seed(0))
                                         .to(self.parameters[0]))  # fmt: skip
        self._freeze(meta)
        return meta

    @staticmethod
    def _freeze(meta):
        """The teacher's step is left out of all contenders; its gradient is kept to be compared."""
        meta.learner.optimizer.step = lambda: setattr(meta, "gradient", [p.grad.clone() for p in meta.teacher.parameters()])
        meta._renew_statistics = meta.running.update_dev_loss = lambda *seen: None  # the same features in every turn

    def _own_step(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def _forward(self, meta):
        with meta.watched(), self.capture.states() as states:
            losses, n_tokens = self.student.losses(self.batch)
        source, target = self.batch["net_input"]["src_tokens"], self.batch["target"]
        lengths = source.ne(self.student.criterion.padding_idx).sum(1)
        return losses, n_tokens, lengths, states.internal(source, target)

    def step(self, meta: MetaTrainer | None, dev=None):
        """The student's weighted step, with the teacher update of ``meta`` or, for None, without one."""
        with_update, meta = meta is not None, meta or self.metas["forward"]
        if with_update:
            meta.begin_update(0)
        state = RandomState.capture()
        losses, n_tokens, lengths, internal = self._forward(meta)
        rows = meta.features(losses, n_tokens, lengths, internal)
        self.rows = rows
        with torch.no_grad():
            weights = meta.teacher(rows).prod(1)
        sizes = n_tokens.to(losses.dtype)
        if with_update:
            meta.record(self.batch, rows, weights, losses, sizes, n_tokens, state)
        self.optimizer.zero_grad()
        ((weights * losses).sum() / sizes.sum()).backward()
        if with_update:
            meta.before_step()
        self.optimizer.step()
        if with_update:
            meta.after_step(lambda: self.dev if dev is None else dev)

    def _weighted(self, teacher, losses, n_tokens, rows):
        weights = teacher(rows).prod(1)  # attached to the teacher
        return (weights * losses).sum() / n_tokens.sum()

    def higher(self):
        """Meta-Weight-Net's update; its virtual step alone (the student's own step comes after it)."""
        import higher

        meta = self.metas["forward"]
        teacher = list(meta.teacher.parameters())
        theta = [p.detach().clone().requires_grad_() for p in self.parameters]
        adam = higher.optim.get_diff_optim(self.optimizer, self.parameters)
        with sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng():
            with swapped(self.student.module, self.parameters, theta):
                losses, n_tokens, lengths, internal = self._forward(meta)
                rows = meta.features(losses, n_tokens, lengths, internal)
                loss = self._weighted(meta.teacher, losses, n_tokens, rows)
                new = adam.step(loss, params=theta)
            with swapped(self.student.module, self.parameters, list(new)), evaluating(self.student.module):
                value = self.student.dev_loss(self.dev)
            return torch.autograd.grad(value, teacher)

    def sama(self, betty=None):
        """SAMA's update after the student's step has been made; gradients still in place. ``betty``: its own function."""
        meta = self.metas["forward"]
        with evaluating(self.student.module):
            gradient = torch.autograd.grad(self.student.dev_loss(self.dev), self.parameters, allow_unused=True)
        gradient = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, gradient)]
        state = self.random

        def base_loss():
            with state.replayed():
                losses, n_tokens, _, _ = self._forward(meta)
            return self._weighted(meta.teacher, losses.detach(), n_tokens, self.rows)

        teacher = list(meta.teacher.parameters())
        if betty is not None:
            problem = betty_sama.Problem(self.parameters, self.optimizer, base_loss, self.alpha)
            return betty_sama.teacher_gradient(betty, problem, gradient, teacher)
        diagonals = sama.adaptation(self.optimizer, self.parameters)
        return sama.teacher_gradient(self.parameters, gradient, diagonals, base_loss, teacher, self.alpha)

    def at_the_start(self, function):
        """Calls it at the state of the beginning, and puts that back."""
        saved = [p.detach().clone() for p in self.parameters]
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in self.optimizer.state.items()}
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.random = RandomState.capture()
            try:
                return function()
            finally:
                with torch.no_grad():
                    torch._foreach_copy_(self.parameters, saved)
                for p, s in moments.items():
                    for k, v in s.items():
                        self.optimizer.state[p][k].copy_(v)


def flat(gradients):
    return torch.cat([g.double().flatten() for g in gradients])


def main(words: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versus", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    workload.add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each contender that count")
    parser.add_argument("--start", type=int, default=10, help="plain updates before")
    parser.add_argument("--dev-interval", type=int, default=4, help="teacher updates that a dev gradient of `ghost` serves")
    parser.add_argument("--betty", metavar="DIR", help="checkout of github.com/leopard-ai/betty")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--sama-alpha", type=float, default=1.0, help="length of SAMA's difference")
    arguments = parser.parse_args(words)
    logging.disable(logging.INFO)
    workload.prepare(arguments)
    before = workload.resident()
    betty = betty_sama.load(arguments.betty) if arguments.betty else None
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or workload.write_random_text(
            folder, arguments.vocabulary, arguments.seed, {"train": 4000, "meta": 500}
        )
        bench = Bench(data, arguments)
    gradients = {}

    def ours(mode):
        meta = bench.metas[mode]

        def timed():
            turns = meta.config.dev_interval
            if mode.startswith("ghost"):  # the direction of an update before, from another dev batch at this step's own start
                meta.gradients.ahead = None
                bench.at_the_start(lambda: bench.step(meta, bench.dev_before))
            took = [bench.at_the_start(lambda: workload.seconds(lambda: bench.step(meta))) for _ in range(turns)]
            gradients[mode] = flat(meta.gradient)
            return sum(took) / turns

        return timed

    def theirs(name, update):
        def timed():
            def run():
                if update != bench.higher:
                    bench.step(None)
                return workload.seconds(lambda: gradients.__setitem__(name, flat(update())))

            return bench.at_the_start(run)

        return timed

    peers = {"higher": bench.higher, "SAMA": bench.sama}
    if betty is not None:
        peers["Betty's SAMA"] = lambda: bench.sama(betty)

    contenders = {"plain step": lambda: bench.at_the_start(lambda: workload.seconds(lambda: bench.step(None)))}
    contenders |= {mode: ours(mode) for mode in OURS} | {name: theirs(name, update) for name, update in peers.items()}
    if arguments.child:
        for _ in range(2):
            contenders[arguments.child]()
        print(json.dumps(workload.most_taken(arguments, before)))
        return {}

    given = list(sys.argv[1:] if words is None else words)
    mebibytes = {
        name: measured_apart("benchmarks.versus", [*given, "--child", name], workload.WITHOUT_HOLES) for name in contenders
    }
    took = workload.interleaved(contenders, arguments.rounds)
    bench.at_the_start(lambda: bench.step(bench.metas["unrolled"]))
    exact = flat(bench.metas["unrolled"].gradient)
    added = {name: [t - p for t, p in zip(times, took["plain step"])] if name in OURS else times for name, times in took.items()}
    middle = {name: workload.median(times) for name, times in added.items()}
    plain = middle["plain step"]
    rows, results = [], {}
    for name, times in added.items():
        result = {"seconds": workload.spread(times), "in_steps": middle[name] / plain, "mebibytes": mebibytes[name]}
        # student step and teacher update together, one at every step and by default; the plain step's is what a free update would be
        update = 0.0 if name == "plain step" else middle[name]
        result["higher_step_to_its_step"] = (plain + middle["higher"]) / (plain + update)
        result["higher_step_to_its_default"] = (plain + middle["higher"]) / (plain + update / INTERVAL)
        if name != "plain step":
            g = gradients[name]
            result |= {
                "relative_error": float((g - exact).norm() / exact.norm()),
                "cosine": float(torch.nn.functional.cosine_similarity(g, exact, dim=0)),
                "to_higher": middle[name] / middle["higher"], "to_sama": middle[name] / middle["SAMA"],
            }  # fmt: skip
        bars = BARS.get(name)
        holds = None if bars is None else " / ".join(
            "yes" if result[key] <= bar else "no" for key, bar in zip(("to_higher", "to_sama"), bars))  # fmt: skip
        rows.append({"update": name.format(arguments.dev_interval), "seconds": middle[name],
                     "quartiles": "{:.3f} to {:.3f}".format(*result["seconds"]["quartiles"]),
                     "plain steps": result["in_steps"], "to higher": result.get("to_higher"), "to SAMA": result.get("to_sama"),
                     "whole step: higher's to its": result["higher_step_to_its_step"],
                     f"one update in {INTERVAL} steps": result["higher_step_to_its_default"],
                     "bars": bars and "{} / {}".format(*bars), "hold": holds,
                     "MiB": round(mebibytes[name]), "to plain's": mebibytes[name] / mebibytes["plain step"],
                     "error": result.get("relative_error") and "{:.1g}".format(result["relative_error"]), "cosine": result.get("cosine")})  # fmt: skip
        results[name.format(arguments.dev_interval)] = result
    print(table(rows))
    if arguments.json:
        known = {"parameters": workload.parameters(bench.student.module), "betty_commit": arguments.betty and commit(arguments.betty)}
        write_json(arguments.json, {**vars(arguments), **known}, results)
    return results


if __name__ == "__main__":
    main()
