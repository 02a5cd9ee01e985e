"""What a teacher update costs on one batch of ResNet-32: ours beside Meta-Weight-Net's graph of the gradient.

    python -m benchmarks.vision_cost --out cost.json

Each figure is taken in processes of its own, in turn, in which nothing else runs: the update alone, with the student's
losses and gradients given (neither includes the student's own step). Seconds are the processor's on a CPU, of the wall on a
GPU, means over updates of which one in so many measures the train scale (the first ones, in which each does, do not count);
memory is the growth of the process's peak, or the peak of the GPU's allocations, over what was there before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from benchmarks.apart import measured_apart, most_resident
from benchmarks.record import table, write_json
from fairseq_l2rw.meta import RandomState
from fairseq_l2rw.meta.train_scale import FIRST, INTERVAL
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import DataSet, ImageSet, cut
from fairseq_l2rw.vision.train import Training

WAYS = {
    "ours, J = loss": dict(teacher="loss", meta_objective="loss", meta_momentum=0.0, teacher_replay=0, teacher_prior_strength=0.0),
    "ours, defaults": dict(teacher="deep"),
    "ours, through the classifier alone": dict(teacher="deep", meta_params="^head"),
    "Meta-Weight-Net, our control": dict(teacher="mwn"),
    "Meta-Weight-Net": dict(teacher="mwn"),
}


def measure(way: str, model: str, batch: int, updates: int) -> dict:
    """Mean seconds of an update and the memory of the largest."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3 * batch, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.arange(3 * batch) % 10
    some = ImageSet(images, labels, labels)
    config = VisionConfig(
        data="cifar10", model=model, meta_size=batch, batch_size=batch, meta_batch_size=batch, meta_start=0, meta_interval=1, schedule="1", **WAYS[way]
    )
    run = Training(config, cut(DataSet("random", tuple("0123456789"), some, some), batch, 0, 0, "uniform:0.4", 1), device)
    if way == "Meta-Weight-Net":
        run.method.net.graph = True  # as its authors do it; our control takes the shorter way to the same numbers
    run.student.module.train()
    parameters = list(run.student.module.parameters())
    seconds = []
    before = _peak(device, reset=True)
    warm = 1 if config.teacher == "mwn" else FIRST
    for run.updates in range(warm + updates):
        data = run.batch(run.parts.train, torch.arange(batch), "augment", run.updates)
        state = RandomState.capture()
        clock = _clock(device)
        run.method.begin(run.updates, data, run.meta_batch, 0.1)
        spent = _clock(device) - clock
        with torch.no_grad():
            losses, features = run.student.outputs(data)
        run.method.weigh(data, losses, features, state)
        for p in parameters:
            p.grad = torch.randn_like(p) * 1e-3
        clock = _clock(device)
        run.method.before_step(None, 0.0)
        run.optimizer.step()
        run.method.after_step(run.meta_batch)
        seconds.append(spent + _clock(device) - clock)
    return {"seconds": statistics.mean(seconds[warm:]), "bytes": _peak(device) - before, "device": str(device)}


def _clock(device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _peak(device, reset=False) -> int:
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated()
    return int(most_resident() * 2**20)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="resnet32")
    parser.add_argument("--batch", type=int, default=100, help="images of the training batch and of the meta batch")
    parser.add_argument("--updates", type=int, default=INTERVAL, help=f"timed in each process; a multiple of {INTERVAL} measures the train scale as often as a training does")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way")
    parser.add_argument("--out", help="JSON file")
    parser.add_argument("--one", choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.one, args.model, args.batch, args.updates)))
        return
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    same = ["--model", args.model, "--batch", str(args.batch), "--updates", str(args.updates)]
    for _ in range(args.rounds):
        for way in WAYS:
            found[way].append(measured_apart("benchmarks.vision_cost", ["--one", way, *same]))
    rows = []
    for way, runs in found.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        rows.append({"teacher update": way, "seconds": seconds, "MB": statistics.median(run["bytes"] for run in runs) / 1e6})
    for row in rows:
        row["of its time"], row["of its memory"] = row["seconds"] / rows[-1]["seconds"], row["MB"] / rows[-1]["MB"]
    print(table(rows))
    if args.out:
        write_json(args.out, vars(args), {"table": rows, "runs": found})


if __name__ == "__main__":
    main()
