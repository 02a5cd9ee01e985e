"""fairseq-train with the true labels as weights: the bound of what any teacher can do on the same batches.

    python -m benchmarks.true_labels LABELS DATA --user-dir fairseq_l2rw --task l2rw_translation ... --influence-log FILE

LABELS is the file that ``fairseq-l2rw corrupt`` writes. From --meta-start on a pair weighs 1 if nothing was done to it and
0 if something was; the teacher is there, so that the checkpoint can be read like any other, and never learns.
"""

from __future__ import annotations

import sys

import fairseq_cli.train
import torch

import fairseq_l2rw.translation  # noqa: F401
from fairseq_l2rw.corpus.lines import read_labels
from fairseq_l2rw.meta.trainer import MetaTrainer


class Knowing(MetaTrainer):
    """A MetaTrainer that looks the weights up.

    Attributes:
        labels: raw line -> what was done to it.
    """

    labels: dict[int, str] = {}
    due = recorded = property(lambda self: False)

    def weigh(self, losses, n_tokens, source_lengths, internal, batch=None, random_state=None):
        rows, weights = super().weigh(losses, n_tokens, source_lengths, internal, batch, random_state)
        if self.started:
            clean = [self.labels[line] == "clean" for line in self.identify(batch).tolist()]
            weights = torch.tensor(clean).to(weights)
        return rows, weights


def main(words: list[str]) -> None:
    Knowing.labels = read_labels(words[0])
    fairseq_l2rw.translation.task.MetaTrainer = Knowing
    sys.argv = ["fairseq-train", *words[1:]]
    fairseq_cli.train.cli_main()


if __name__ == "__main__":
    main(sys.argv[1:])
