"""What `--meta-gradient ghost` loses by its older direction: its influences against the exact ones, pair by pair.

    python -m benchmarks.staleness --threads 1

A student is trained for a while; then, at every teacher update, one pass that keeps what it needs is read in several directions:

* ``exact``: the dev gradient at the new parameters, the optimizer's step as it was: the reference;
* ``older dev gradient``: that of the update before, the step as it was;
* ``ghost``: both of the update before, and what the clipping takes out of all pairs put down to each by its length;
* ``ghost, dev gradient every Nth``: one dev gradient for N updates (``--meta-dev-interval N``; the averages take in a dev batch at
  every update all the same, so that all readings are of one training);
* ``ghost without`` each of its two corrections (the held-up second moments; the clipping's part).

Medians over the updates of: correlation and relative error of c_i, and pairs with the same sign; by dev objective and `--meta-momentum`.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import replace

import torch

from benchmarks import workload
from benchmarks.record import table, write_json
from fairseq_l2rw.meta import clipping, hypergradient
from fairseq_l2rw.meta.ghost import Ghost

#: one kind of noise only: so that two teacher updates that follow each other have the same objective
SETTINGS = {
    "loss, momentum 0": ["--meta-objective", "loss", "--meta-momentum", 0],
    "loss, momentum 0.8": ["--meta-objective", "loss", "--meta-momentum", 0.8],
    "contrastive, momentum 0.8": ["--meta-contrast", "misaligned:0.5", "--meta-momentum", 0.8],
}


class Kept(Ghost):
    """A pass that can be read again and again."""

    def _release(self):
        pass


class Watcher:
    """Reads every teacher update of a training in several directions."""

    def __init__(self, meta, dev_interval: int):
        self.meta, self.ghosts, self.rows = meta, [], []
        self.dev_interval, self.turns = dev_interval, 0
        self.before: tuple | None = None  # adjoint and step of the update before
        meta.watched, self._record, meta.record = self._watch, meta.record, self._attach
        self._influences, meta.gradients._influences = meta.gradients._influences, self._read

    def _watch(self):
        self.watching = Kept(self.meta.names, self.meta.through, self.meta.gradients.reader.axes)
        return self.watching

    def _attach(self, batch, features, weights, losses, *rest):
        self.watching.attach(losses)
        self.ghosts = [self.watching]  # one micro-batch an update
        self._record(batch, features, weights, losses, *rest)

    def _read(self, dev, step_vector, rows):
        step, (ghost,), rule = self.meta.gradients.window.steps[-1], self.ghosts, self.meta.gradients.rule
        # no name of it outlives this call: what the optimizer changes in place is copied
        frozen = replace(
            step, records=[], gradients=[None if g is None else g.clone() for g in step.gradients],
            states=[{n: t.clone() for n, t in state.items()} for state in step.states],
        )  # fmt: skip
        exact = ghost.influence(step_vector(dev.adjoint)).clone()
        if self.before is not None:
            older, earlier = self.before
            clipped = step.raw_norm is not None and clipping.factor(step.raw_norm, step.max_norm) < 1
            common = lambda c: hypergradient.without_common(c, rows[0].weights, rows[0].sizes) if clipped else c  # noqa: E731
            ahead = ghost.influence(hypergradient.StepVector(rule, earlier, ahead=True)(older)).clone()
            expected, type(rule).expected = type(rule).expected, lambda self, state: state
            plain = ghost.influence(hypergradient.StepVector(rule, earlier, ahead=True)(older)).clone()
            type(rule).expected = expected
            if self.turns % self.dev_interval == 0:
                self.serving = older
            self.turns += 1
            seldom = ghost.influence(hypergradient.StepVector(rule, earlier, ahead=True)(self.serving)).clone()
            old = ghost.influence(step_vector(older)).clone()
            readings = {
                "older dev gradient": old, "ghost": common(ahead),
                f"ghost, dev gradient every {self.dev_interval}th": common(seldom), "ghost without the clipping's part": ahead,
                "ghost without held-up moments": common(plain),
            }  # fmt: skip
            for name, c in readings.items():
                self.rows.append({"reading": name, **compared(c, exact)})
        self.before = [a.clone() for a in dev.adjoint], frozen
        self.ghosts = []
        return [exact]


def compared(c: torch.Tensor, exact: torch.Tensor) -> dict:
    """Correlation, relative error and share of equal signs."""
    correlation = float(torch.corrcoef(torch.stack([c, exact]))[0, 1]) if len(c) > 1 else float("nan")
    return {
        "correlation": correlation,
        "relative_error": float((c - exact).norm() / exact.norm()),
        "same_sign": float((c.sign() == exact.sign()).float().mean()),
        "size": float(c.norm() / exact.norm()),
    }


def main(words: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.staleness", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    workload.add_arguments(parser)
    parser.add_argument("--start", type=int, default=150, help="updates of plain training before the first measurement")
    parser.add_argument("--updates", type=int, default=25, help="updates that are measured")
    parser.add_argument("--dev-interval", type=int, default=4, help="teacher updates that one dev gradient serves")
    parser.add_argument("--meta-params", default="", help="as the option of the task")
    arguments = parser.parse_args(words)
    logging.disable(logging.INFO)
    workload.prepare(arguments)
    results, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or workload.write_random_text(
            folder, arguments.vocabulary, arguments.seed, {"train": 8000, "meta": 1000}
        )
        for setting, options in SETTINGS.items():
            training = workload.Training(
                data, arguments, "l2rw_translation", "--meta-start", arguments.start, "--meta-interval", 1,
                "--meta-max-tokens", workload.dev_tokens(arguments), "--meta-gradient", "forward",
                "--meta-params", arguments.meta_params, *options,
            )  # fmt: skip
            for _ in range(arguments.start):
                training.update()
            watcher = Watcher(training.task.meta, arguments.dev_interval)
            for _ in range(arguments.updates + 1):
                training.update()
            results[setting] = watcher.rows
            for reading in dict.fromkeys(row["reading"] for row in watcher.rows):
                of = [row for row in watcher.rows if row["reading"] == reading]
                medians = {k: workload.median(row[k] for row in of) for k in of[0] if k != "reading"}
                rows.append({"dev objective": setting, "reading": reading, **medians})
    print(table(rows))
    if arguments.json:
        write_json(arguments.json, {**vars(arguments), "settings": SETTINGS}, {"medians": rows, "updates": results})
    return results


if __name__ == "__main__":
    main()
