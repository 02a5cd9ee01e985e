"""Prints, as JSON, what the updates of small trainings log on the CPU and on the simulated GPU: ``{mode: [[{name: value}, ...], [...]]}``."""

import argparse
import json
import logging
import sys
import tempfile

import torch

from benchmarks import workload
from fairseq_l2rw.meta import trainer
from integration import simulated_gpu

MODES = {
    "backward": [],
    "ghost": ["--meta-gradient", "ghost"],
    "window": ["--meta-window", 2, "--meta-interval", 2],
    "finite-difference": ["--meta-gradient", "finite-difference"],
    "unrolled": ["--meta-gradient", "unrolled"],
    "paper": ["--meta-objective", "loss", "--teacher-replay", 0, "--meta-momentum", 0, "--teacher-prior-strength", 0],
    "generated": ["--meta-contrast", "generated:0.45"],
    "fp16": ["--fp16", "--fp16-init-scale", 8],
    "l2r": ["--teacher", "l2r"],
    "self_paced": ["--teacher", "self_paced"],
}
OPTIONS = [
    "--meta-start", 1, "--meta-interval", 1, "--meta-max-tokens", 100, "--teacher-replay", 2, "--teacher-hidden-dim", 8,
    "--meta-contrast", "misaligned:0.5,misordered:0.12", "--save-dir",
]  # fmt: skip
UPDATES = 5


def logged(folder: str, arguments, options: list) -> list[dict]:
    """Of each update what fairseq logs; the last one has the sizes of the parameters of student and teacher, too."""
    training = workload.Training(folder, arguments, "l2rw_translation", *OPTIONS, folder, *options)
    assert training.trainer.device == next(training.model.parameters()).device
    entries = []
    for batch in training.batches[:UPDATES]:
        with workload.metrics.aggregate():
            entry = training.trainer.train_step([batch])
        entries.append({name: float(value) for name, value in entry.items()})
    modules = {"student": training.model, "teacher": getattr(training.task.meta, "teacher", None)}
    for name, module in modules.items():
        if module is not None:
            entries[-1][name] = sum(p.detach().abs().sum().item() for p in module.parameters())
    return entries


def main() -> None:
    logging.disable(logging.INFO)
    trainer.FIRST_LOOK = 2
    parser = argparse.ArgumentParser()
    workload.add_arguments(parser)
    arguments = parser.parse_args("--cpu --threads 1 --max-tokens 300 --vocabulary 100 --width 8 --layers 1".split())
    workload.prepare(arguments)
    simulated_gpu.register()
    torch.cuda.current_device = lambda: None  # with --fp16 fairseq asks for it
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    out: dict = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder:
        workload.write_random_text(folder, arguments.vocabulary, arguments.seed, {"train": 120, "meta": 40})
        for place in ("cpu", "gpu"):
            if place == "gpu":
                simulated_gpu.train_there()
            for mode, options in MODES.items():
                out[mode].append(logged(folder, arguments, options))
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
