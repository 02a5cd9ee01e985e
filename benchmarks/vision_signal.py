"""Influences and weights of single training images, by whether their label is right, in a run of ``fairseq-l2rw vision``.

    python -m benchmarks.vision_signal RUN

RUN is a ``--save-dir`` of a teacher that learns. Its training goes on for some updates, of which nothing is saved. Influences are in
units of the dev scale, so a mean of -1 (sound) and of 1 (wrong) would be as far apart as the trusted images with their own and with
spoilt labels: that is what the prior is weighed against. ``train scale`` is the same distance under spoilt labels, of training images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.detection import by_kind
from benchmarks.record import table, write_json
from fairseq_l2rw.errors import L2RWError, install_exit_hook
from fairseq_l2rw.meta.objective import DevGradient
from fairseq_l2rw.vision import checkpoint, sources
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import cut
from fairseq_l2rw.vision.seeds import generator
from fairseq_l2rw.vision.train import Training


def read(folder: Path, cpu: bool) -> Training:
    """The training in a run's folder, where it stopped.

    Raises:
        L2RWError: there is none.
    """
    state = checkpoint.load(folder, {})
    if state is None:
        raise L2RWError(f"{folder}: no checkpoint of fairseq-l2rw vision; give its --save-dir")
    config = VisionConfig(**state["config"])
    data = sources.read(config)
    parts = cut(data, config.meta_size, config.valid_size, config.train_size, config.noise, config.seed)
    run = Training(config, parts, torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu"))
    run.load_state_dict(state)
    if getattr(getattr(run.method, "core", None), "objective", None) is None:
        raise L2RWError(f"{folder}: --teacher {config.teacher} has no influences; give a run with a teacher that learns, such as deep")
    return run


def batches(run: Training) -> tuple[torch.Tensor, ...]:
    """Which training images the batches of one epoch more have."""
    order = torch.randperm(len(run.parts.train), generator=generator("order", run.config.seed, run.epoch))
    return order.split(run.config.batch_size)


def observe(run: Training, updates: int) -> dict[str, list]:
    """``influence`` (in dev scales), ``weight``, and ``kind`` (clean or wrong) of the images of each teacher update."""
    core, images = run.method.core, run.parts.train
    reports: list = []
    after_step = core.after_step

    def noted(dev_batch):
        reports.append(after_step(dev_batch))
        return reports[-1]

    core.after_step = noted
    seen: dict[str, list] = {"influence": [], "weight": [], "kind": []}
    run.student.module.train()
    order = batches(run)
    for turn in range(updates):
        index = order[turn % len(order)]
        run.step(images, index)
        run.updates += 1
        report = reports[-1]
        if report is None or report.meta_loss is None:
            continue
        head = core.config.heads.index(report.head)
        alpha = core.objective.alpha(report.head) if core.objective.kinds else 0.0
        unit = core.objective.scale(DevGradient(head, [], report.meta_loss, alpha), core.mean_tokens)
        if unit is not None:
            seen["influence"] += (report.influence / unit).tolist()
            seen["weight"] += report.weights.tolist()
            seen["kind"] += ["wrong" if wrong else "clean" for wrong in run.parts.wrong[index].tolist()]
    return seen


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision_signal", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", metavar="RUN", type=Path, help="--save-dir of the run")
    parser.add_argument("--updates", type=int, default=60, metavar="N", help="of the student (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", metavar="FILE", default="runs/vision_signal.json", help="where the result goes (default: %(default)s)")
    args = parser.parse_args(argv)
    run = read(args.run, args.cpu)
    seen = observe(run, args.updates)
    if not seen["kind"]:
        raise L2RWError(f"--updates {args.updates}: no teacher update with a known dev scale among them; give more")
    results: dict = {what: by_kind(seen[what], seen["kind"]) for what in ("influence", "weight")}
    rows = []
    for kind, found in results["influence"].items():
        weight = results["weight"][kind]
        if kind != "all":
            rows.append({"labels": kind, "images": found["pairs"], "influence": found["mean"], "its AUC": found.get("auc"),
                         "weight": weight["mean"], "AUC of 1 - weight": 1 - weight["auc"] if "auc" in weight else None})  # fmt: skip
    scale = run.method.core.train_scale
    results["epoch"], results["lr"] = run.epoch, run.optimizer.param_groups[0]["lr"]
    results["train scale"] = None if scale is None else dict(zip(run.method.core.config.heads, scale.parts))
    print(table(rows))
    print(f"after epoch {run.epoch}, learning rate {results['lr']:g}; train scale over dev scale: {results['train scale']}")
    write_json(args.json, {**vars(run.config), "run": str(args.run), "updates": args.updates}, results)
    return results


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main() is None)
