"""Dev pairs with the student's own translations as targets."""

import random

import numpy as np
import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator

from fairseq_l2rw.meta.workers import Workers
from fairseq_l2rw.translation import own_translations
from fairseq_l2rw.translation.corruptions import Vocabulary
from fairseq_l2rw.translation.own_translations import BEAM, GENERATED, MAX_LEN_A, MAX_LEN_B, OwnTranslations, f1
from fairseq_l2rw.translation.student import TranslationStudent
from tests.translation.harness import batch, criterion_of, dictionary, student_module, task_of, translation_student


def own_of(module, workers=None):
    words = dictionary()
    return OwnTranslations(module, words, Vocabulary.of(words, words), workers)


def targets_of(sample):
    return [[t for t in row if t not in (1, 2)] for row in sample["target"].tolist()]


@pytest.mark.parametrize(
    "tokens, target, want",
    [([5, 6, 7], [7, 6, 5], 1.0), ([5, 5, 6], [5, 8], 0.4), ([], [5], 0.0), ([], [], 0.0), ([9], [5, 6], 0.0)],
)
def test_f1(tokens, target, want):
    assert f1(tokens, target) == pytest.approx(want)


@pytest.mark.parametrize("arch", ["transformer", "lstm", "fconv"])
def test_the_targets_are_what_fairseq_translates(arch):
    """One sentence at a time, with fairseq's own generator; the sources stay, the decoder reads the target from its beginning."""
    module, sample = student_module(arch).eval(), batch()
    spoilt = own_of(module).spoilt(sample)
    longest = int(MAX_LEN_A * sample["net_input"]["src_tokens"].shape[1] + MAX_LEN_B)
    generator = SequenceGenerator([module], dictionary(), beam_size=BEAM, max_len_b=longest)
    want = []
    for source in sample["net_input"]["src_tokens"]:
        source = source[source != 1][None]
        one = {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([source.shape[1]])}}
        want.append(generator.generate([module], one)[0][0]["tokens"].tolist()[:-1])
    assert targets_of(spoilt) == want
    assert torch.equal(spoilt["net_input"]["src_tokens"], sample["net_input"]["src_tokens"])
    assert spoilt["net_input"]["prev_output_tokens"][:, 0].eq(2).all()
    assert [[t for t in row if t not in (1, 2)] for row in spoilt["net_input"]["prev_output_tokens"].tolist()] == want
    assert spoilt["ntokens"] == sum(len(tokens) + 1 for tokens in want)


def test_the_student_goes_on_as_if_nothing_had_happened():
    """Modes of all modules, parameters, gradients and random numbers are as they were, and so is its next step."""
    module, sample = student_module(), batch()
    module.train()
    module.encoder.layers[0].eval()
    modes = {name: m.training for name, m in module.named_modules()}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    with torch.no_grad():
        want = module(**sample["net_input"])[0]
    torch.set_rng_state(states[0])
    own_of(module).spoilt(sample)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1] and random.getstate() == states[2]
    assert {name: m.training for name, m in module.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    with torch.no_grad():
        assert torch.equal(module(**sample["net_input"])[0], want)


class Told(OwnTranslations):
    """A student that says what it is told."""

    def __init__(self, workers=None):
        words = dictionary()
        super().__init__(None, words, Vocabulary.of(words, words), workers)
        self.says, self.asked = {}, []

    def _translated(self, sample, rows):
        self.asked.append(rows)
        return [(row, self.says[int(sample["id"][row])]) for row in rows]


def test_the_worst_translation_so_far_stays(monkeypatch):
    monkeypatch.setattr(own_translations, "AGAIN", 1)
    own, sample = Told(), batch()
    targets = dict(zip(sample["id"].tolist(), targets_of(sample)))
    first = {number: [tokens[0], 3] for number, tokens in targets.items()}
    own.says = first
    assert targets_of(own.spoilt(sample)) == [first[i] for i in targets]
    own.says = {number: list(tokens) for number, tokens in targets.items()}  # it has learnt them
    assert targets_of(own.spoilt(sample)) == [first[i] for i in targets]
    last = int(sample["id"][-1])
    own.says[last] = [4 if 4 not in targets[last] else 5]  # nothing in common
    assert targets_of(own.spoilt(sample)) == [own.says[last] if i == last else first[i] for i in targets]


def test_all_are_translated_at_first_and_then_half_of_them_in_turns():
    own, sample = Told(), batch()
    own.says = {number: [4] for number in sample["id"].tolist()}
    for _ in range(3):
        own.spoilt(sample)
    del own.worst[int(sample["id"][0])]  # a new pair
    own.spoilt(sample)
    assert own.asked == [[0, 1, 2, 3], [1, 3], [0, 2], [0, 1, 3]]


def test_pairs_that_it_translates_well_or_not_at_all_are_left_out():
    own, sample = Told(), batch()
    ids = sample["id"].tolist()
    targets = dict(zip(ids, targets_of(sample)))
    own.says = {ids[0]: targets[ids[0]], ids[1]: [], ids[2]: [4], ids[3]: targets[ids[3]][::-1]}
    spoilt = own.spoilt(sample)
    assert spoilt["id"].tolist() == [ids[2]] and targets_of(spoilt) == [[4]] and spoilt["nsentences"] == 1
    own.says[ids[2]], own.worst = targets[ids[2]], {}
    assert own.spoilt(sample) is None


def test_a_saved_one_goes_on_as_the_original():
    own, other, sample = Told(), Told(), batch()
    own.says = {number: [4] for number in sample["id"].tolist()}
    own.spoilt(sample)
    other.load_state_dict(own.state_dict())
    own.says = other.says = dict(zip(sample["id"].tolist(), targets_of(sample)))
    assert targets_of(other.spoilt(sample)) == targets_of(own.spoilt(sample)) == [[4]] * 4
    assert other.worst == own.worst and other.turn == own.turn == 2


@pytest.mark.parametrize("arch", ["transformer", "lstm"])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_workers_translate_their_part_and_have_all(arch, count):
    """Also more of them than there are pairs."""
    module, sample = student_module(arch).eval(), batch()

    class One(Workers):
        def __init__(self, rank):
            self.rank, self.count = rank, count

        def gather_list(self, items):
            return [item for part in parts for item in part]

    owns = [own_of(module, One(rank)) for rank in range(count)]
    parts = [own._translated(sample, list(range(4))[own.workers.rank :: count]) for own in owns]
    assert sorted(row for part in parts for row, _ in part) == [0, 1, 2, 3]
    want = own_of(module).spoilt(sample)
    for own in owns:
        spoilt = own.spoilt(sample)
        assert torch.equal(spoilt["target"], want["target"])


def test_it_is_a_kind_of_the_student_for_dev_batches_alone():
    plain, sample = translation_student(double=False), batch()
    own = own_of(plain.module)
    student = TranslationStudent(plain.module, criterion_of(task_of()), plain.vocabulary, plain.capture, own=own)
    spoilt = student.corrupt(sample, GENERATED, 1)
    assert sorted(own.worst) == sorted(sample["id"].tolist())
    assert targets_of(spoilt) == [own.worst[i][1] for i in sample["id"].tolist()]
    assert GENERATED in student.dev_only
