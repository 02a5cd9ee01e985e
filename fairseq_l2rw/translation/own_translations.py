"""The kind of noise ``generated``: a dev pair with a translation of the student's own in place of its target.

Noise that no other kind names shows in what it makes the student say: a student of untranslated pairs copies its source, above all under
beam search. So the spoilt pair is the worst translation that the student has made of this source so far, by

    F1 = 2 |y and ŷ| / (|y| + |ŷ|),    tokens counted as often as they occur, y the target

At about every second of its turns a dev pair is translated anew (beam 5), and the worse translation stays: once the weights have put the noise
down, the student no longer makes that mistake, but the teacher must not forget it. Samples from the student would not do, for they contrast with
nothing: the mean of grad log p under p is zero.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_l2rw.meta.functional import evaluating
from fairseq_l2rw.meta.workers import Workers
from fairseq_l2rw.translation.corruptions import Vocabulary, rows_of, with_targets

GENERATED = "generated"
BEAM = 5
#: of the pairs of a batch that have been translated before, one in so many is translated again
AGAIN = 2
#: a translation has at most so many tokens for each of the longest source's in its batch, and so many more
MAX_LEN_A, MAX_LEN_B = 1.2, 10


class OwnTranslations:
    """What the student has made of the dev pairs.

    Args:
        model: the student.
        dictionary: of its target language.
        vocabulary: for the corruptions.
        workers: each of which translates its part of a batch.

    Attributes:
        worst: id of a dev pair -> F1 and tokens of its worst translation, without the end of the sentence.
        turn: batches so far.
    """

    def __init__(self, model, dictionary, vocabulary: Vocabulary, workers: Workers | None = None):
        self.model, self.dictionary, self.vocabulary = model, dictionary, vocabulary
        self.workers = workers or Workers()
        self.worst: dict[int, tuple[float, list[int]]] = {}
        self.turn = 0

    def spoilt(self, sample: dict) -> dict | None:
        """The dev batch with the worst translations so far, as targets; those of new pairs and of some others are looked for anew.

        Pairs of which the worst is empty, or has the same tokens as the target, are left out; None where all are. Several workers
        have to have the same batch.
        """
        ids, targets = sample["id"].tolist(), rows_of(sample["target"], self.vocabulary)
        rows = [row for row, number in enumerate(ids) if number not in self.worst or (row + self.turn) % AGAIN == 0]
        self.turn += 1
        for row, tokens in self.workers.gather_list(self._translated(sample, rows[self.workers.rank :: self.workers.count])):
            score = f1(tokens, targets[row].tolist())
            if ids[row] not in self.worst or score < self.worst[ids[row]][0]:
                self.worst[ids[row]] = score, tokens
        kept = (self.worst[number] for number in ids)
        return with_targets(sample, [np.array(t) if t and score < 1 else None for score, t in kept], self.vocabulary)

    def _translated(self, sample, rows: list[int]) -> list[tuple[int, list[int]]]:
        """Numbers of these rows, and their translations."""
        if not rows:
            return []
        index = torch.tensor(rows, device=sample["target"].device)
        source, lengths = (sample["net_input"][name].index_select(0, index) for name in ("src_tokens", "src_lengths"))
        longest = int(MAX_LEN_A * sample["net_input"]["src_tokens"].shape[1] + MAX_LEN_B)  # for all workers alike
        # fairseq's lstm needs a batch that is as wide as its longest sentence
        source = source[:, source.ne(self.vocabulary.pad).any(0)]
        with evaluating(self.model):
            generator = SequenceGenerator([self.model], self.dictionary, BEAM, max_len_b=longest)
            found = generator.generate([self.model], {"net_input": {"src_tokens": source, "src_lengths": lengths}})
        eos = self.vocabulary.eos
        return [
            (row, [token for token in beams[0]["tokens"].tolist() if token != eos]) for row, beams in zip(rows, found)
        ]

    def state_dict(self) -> dict:
        worst = {number: [score, list(tokens)] for number, (score, tokens) in self.worst.items()}
        return {"worst": worst, "turn": self.turn}

    def load_state_dict(self, state: dict) -> None:
        self.worst = {number: (score, list(tokens)) for number, (score, tokens) in state["worst"].items()}
        self.turn = state["turn"]


def f1(tokens: list[int], target: list[int]) -> float:
    """1 for the same tokens in any order, 0 for none in common."""
    common = sum((Counter(tokens) & Counter(target)).values())
    return 2 * common / max(len(tokens) + len(target), 1)
