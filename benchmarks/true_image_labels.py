"""fairseq-l2rw vision with the true labels as weights: the bound of what any weights of the images can do.

    python -m benchmarks.true_image_labels --data digits --noise uniform:0.4 ...

From --meta-start on, an image weighs 1 where its label is right and 0 where it is wrong. The teacher that --teacher names is not asked.
"""

from __future__ import annotations

import sys

import fairseq_l2rw.vision.run
from fairseq_l2rw.cli.main import main as l2rw
from fairseq_l2rw.vision.methods import Method
from fairseq_l2rw.vision.train import Training


class Knowing(Method):
    """Looks the weights up.

    Args:
        wrong: of all training images, whether the label is wrong ``[images]``.
        start: updates in which every image weighs 1.
    """

    def __init__(self, wrong, start):
        self.right, self.start, self.updates = ~wrong, start, 0

    def begin(self, updates, batch, meta, lr):
        self.updates = updates

    def weigh(self, batch, losses, features, state):
        ones = super().weigh(batch, losses, features, state)
        return ones if self.updates < self.start else self.right[batch.index].to(ones)


class Told(Training):
    """A training that knows which labels are wrong."""

    def __init__(self, config, parts, device="cpu"):
        super().__init__(config, parts, device)
        self.method = Knowing(parts.wrong, config.meta_start)


def main(words: list[str]) -> int:
    fairseq_l2rw.vision.run.Training = Told
    return l2rw(["vision", *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
