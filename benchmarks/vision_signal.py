"""Influences and weights of single training images, by whether their label is right, in a run of ``fairseq-l2rw vision``.

    python -m benchmarks.vision_signal RUN
    python -m benchmarks.vision_signal RUN -- --meta-contrast mislabelled:1.0 --meta-params ^head

RUN is a ``--save-dir`` of a teacher that learns. Its training goes on for some updates, of which nothing is saved. Influences are in
units of the dev scale, so a mean of -1 (sound) and of 1 (wrong) would be as far apart as the trusted images with their own and with
spoilt labels: that is what the prior is weighed against. ``over error`` is what ``--influence-normalization error`` makes of them. With
options of ``fairseq-l2rw vision`` after --, a new teacher with these goes on with the run's student. ``train scale`` is the same distance under spoilt labels, of training images.

The second table has the labels that the run's own last weights tell worst: what the images show and what they are called, the mean weight, and
the AUC of 1 - weight against all images with their right label (the JSON file has every pair of classes).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch

from benchmarks.detection import ALL, CLEAN, by_kind, weights_by_kind
from benchmarks.record import table, write_json
from fairseq_l2rw.cli import vision
from fairseq_l2rw.errors import L2RWError, install_exit_hook
from fairseq_l2rw.meta.error_normalizer import ErrorNormalizer
from fairseq_l2rw.meta.objective import DevGradient
from fairseq_l2rw.vision import checkpoint, methods, sources
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import cut
from fairseq_l2rw.vision.seeds import generator
from fairseq_l2rw.vision.train import Training

#: pairs of classes with fewer images are left out
FEW = 20

def read(folder: Path, cpu: bool, options: Sequence[str] = ()) -> Training:
    """The training in a run's folder, where it stopped.

    Args:
        options: of ``fairseq-l2rw vision``, in place of the run's; where there are some, the teacher is a new one.

    Raises:
        L2RWError: there is none.
    """
    state = checkpoint.load(folder, {})
    if state is None:
        raise L2RWError(f"{folder}: no checkpoint of fairseq-l2rw vision; give its --save-dir")
    parser = argparse.ArgumentParser(prog="fairseq-l2rw vision", allow_abbrev=False)
    vision.add_arguments(parser)
    parser.set_defaults(**state["config"])
    config = VisionConfig(**vars(parser.parse_args(options)))
    data = sources.read(config)
    parts = cut(data, config.meta_size, config.valid_size, config.train_size, config.noise, config.seed)
    run = Training(config, parts, torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu"))
    if options:
        run.load_state_dict({**state, "method": run.method.state_dict()})
        run.method = methods.build(run.student, config, run.optimizer, 0)  # an average begins with the student of now
    else:
        run.load_state_dict(state)
    if getattr(getattr(run.method, "core", None), "objective", None) is None:
        raise L2RWError(f"{folder}: --teacher {config.teacher} has no influences; give a run with a teacher that learns, such as deep")
    return run


def batches(run: Training) -> tuple[torch.Tensor, ...]:
    """Which training images the batches of one epoch more have."""
    order = torch.randperm(len(run.parts.train), generator=generator("order", run.config.seed, run.epoch))
    return order.split(run.config.batch_size)


def observe(run: Training, updates: int) -> dict[str, list]:
    """``influence`` (in dev scales), the same ``over error``, ``weight``, and ``kind`` (clean or wrong) of the images of each teacher update."""
    core, images = run.method.core, run.parts.train
    reports: list = []
    losses: list = []
    after_step, record = core.after_step, core.record

    def noted(dev_batch):
        reports.append(after_step(dev_batch))
        return reports[-1]

    def recorded(batch, features, weights, given, *more):
        losses.append(given.detach())
        record(batch, features, weights, given, *more)

    core.after_step, core.record = noted, recorded
    normalizer = ErrorNormalizer(len(core.config.heads))
    seen: dict[str, list] = {"influence": [], "over error": [], "weight": [], "kind": []}
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
            influence = report.influence / unit
            seen["influence"] += influence.tolist()
            seen["over error"] += normalizer(head, influence, losses[-1]).tolist()
            seen["weight"] += report.weights.tolist()
            seen["kind"] += ["wrong" if wrong else "clean" for wrong in run.parts.wrong[index].tolist()]
    return seen


def by_classes(run: Training) -> dict[str, dict[str, float]]:
    """``SHOWN as CALLED``, the hardest first -> ``pairs`` (of image and label), ``mean`` and ``auc`` of the run's last weights; as
    :func:`benchmarks.detection.weights_by_kind`."""
    known = (~run.weights.isnan()).nonzero().squeeze(1)
    images, names = run.parts.train, run.parts.classes
    kinds = [CLEAN if t == g else f"{names[t]} as {names[g]}" for t, g in zip(images.truth[known].tolist(), images.labels[known].tolist())]
    found = weights_by_kind(run.weights[known].tolist(), kinds)
    pairs = {kind: entry for kind, entry in found.items() if kind not in (CLEAN, ALL) and "auc" in entry and entry["pairs"] >= FEW}
    return dict(sorted(pairs.items(), key=lambda item: item[1]["auc"]))


def main(argv: list[str] | None = None) -> dict:
    """Measures, prints, writes; returns the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vision_signal", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", metavar="RUN", type=Path, help="--save-dir of the run")
    parser.add_argument("--updates", type=int, default=60, metavar="N", help="of the student (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_argument("--json", metavar="FILE", default="runs/vision_signal.json", help="where the result goes (default: %(default)s)")
    words = sys.argv[1:] if argv is None else argv
    place = words.index("--") if "--" in words else len(words)  # argparse finds no options behind a RUN that others follow
    args = parser.parse_args(words[:place])
    args.options = words[place + 1 :]
    run = read(args.run, args.cpu, args.options)
    hardest = by_classes(run)  # before the run goes on
    seen = observe(run, args.updates)
    if not seen["kind"]:
        raise L2RWError(f"--updates {args.updates}: no teacher update with a known dev scale among them; give more")
    results: dict = {what: by_kind(seen[what], seen["kind"]) for what in ("influence", "over error", "weight")}
    rows = []
    for kind, found in results["influence"].items():
        weight, over = results["weight"][kind], results["over error"][kind]
        if kind != "all":
            rows.append({"labels": kind, "images": found["pairs"], "influence": found["mean"], "its AUC": found.get("auc"), "SNR": found.get("snr"),
                         "over error": over["mean"], "AUC over error": over.get("auc"), "SNR over error": over.get("snr"),
                         "weight": weight["mean"], "AUC of 1 - weight": 1 - weight["auc"] if "auc" in weight else None})  # fmt: skip
    results["by classes"] = hardest
    scale = run.method.core.train_scale
    results["epoch"], results["lr"] = run.epoch, run.optimizer.param_groups[0]["lr"]
    results["train scale"] = None if scale is None else dict(zip(run.method.core.config.heads, scale.parts))
    print(table(rows))
    print(f"after epoch {run.epoch}, learning rate {results['lr']:g}; train scale over dev scale: {results['train scale']}")
    if hardest:
        print(table([{"shown as called": kind, "images": found["pairs"], "weight": found["mean"], "AUC": found["auc"]} for kind, found in list(hardest.items())[:10]]))
    write_json(args.json, {**vars(run.config), "options": args.options, "run": str(args.run), "updates": args.updates}, results)
    return results


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main() is None)
