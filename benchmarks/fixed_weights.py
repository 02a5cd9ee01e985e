"""fairseq-l2rw vision with weights that stay as they are from --meta-start on.

    python -m benchmarks.fixed_weights true --data digits --noise uniform:0.4 ...
    python -m benchmarks.fixed_weights RUN --data digits --noise uniform:0.4 ...

``true``: 1 for images whose label is right, 0 for wrong ones, the bound of what any weights can do. RUN, a ``--save-dir`` with the same
data and seed: what its teacher ends with, in one epoch more of that run, of which nothing is saved; so the weights are as good from the
start as they became there. The teacher that --teacher names is not asked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

import fairseq_l2rw.vision.run
from benchmarks import vision_signal
from fairseq_l2rw.cli.main import main as l2rw
from fairseq_l2rw.errors import L2RWError, install_exit_hook
from fairseq_l2rw.vision.methods import Method
from fairseq_l2rw.vision.train import Training


def last_weights(folder: Path) -> tuple[Tensor, Tensor]:
    """Weights ``[images]`` of a run's training images in one epoch more, and the labels that it has for them.

    Raises:
        L2RWError: no run of a teacher that learns is in the folder.
    """
    run = vision_signal.read(folder, cpu=False)
    weights = torch.full((len(run.parts.train),), float("nan"))
    run.student.module.train()
    for index in vision_signal.batches(run):
        weights[index] = run.step(run.parts.train, index)[1]
        run.updates += 1
    return weights, run.parts.train.labels.cpu()


class Fixed(Method):
    """Looks the weights up.

    Args:
        weights: of all training images ``[images]``.
        start: updates in which every image weighs 1.
    """

    def __init__(self, weights: Tensor, start: int):
        self.weights, self.start, self.updates = weights, start, 0

    def begin(self, updates, batch, meta, lr):
        self.updates = updates

    def weigh(self, batch, losses, features, state):
        ones = super().weigh(batch, losses, features, state)
        return ones if self.updates < self.start else self.weights[batch.index].to(ones)

    def judge(self, updates, batch):
        return self.weights[batch.index]


def main(words: list[str]) -> int:
    source, *words = words or [""]
    given = None if source == "true" else last_weights(Path(source))

    class Told(Training):
        def __init__(self, config, parts, device="cpu"):
            super().__init__(config, parts, device)
            weights, labels = given or ((~parts.wrong).float(), parts.train.labels)
            if not torch.equal(labels, parts.train.labels):
                raise L2RWError(f"{source}: a run on other images, labels or seed; give the options that it had")
            self.method = Fixed(weights, config.meta_start)

    fairseq_l2rw.vision.run.Training = Told
    return l2rw(["vision", *words])


if __name__ == "__main__":
    install_exit_hook()
    sys.exit(main(sys.argv[1:]))
