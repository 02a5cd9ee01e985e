"""Spoilt dev batches, made from batches as fairseq collates them."""

import copy

import numpy as np
import pytest
import torch

from fairseq_l2rw.translation.corruptions import CORRUPTIONS, Vocabulary, corrupt
from tests.translation.harness import batch_of, dictionary, pairs

PAD, EOS, UNK = 1, 2, 3
JOINED = dictionary()
SENTENCES = pairs([5, 3, 6, 1], [2, 7, 4, 3])


def vocabulary(source=JOINED, target=None, **options):
    return Vocabulary.of(source, target or source, **options)


def spoil(kind, sample, seed=0, words=None):
    return corrupt(sample, kind, words or vocabulary(), seed)


def sentences(tokens):
    """Without padding, as lists."""
    return [row[row != PAD].tolist() for row in tokens]


def check_whole(spoilt, left_pad=False):
    """What any batch promises: prev_output_tokens are the targets shifted, counts are right, padding is padding."""
    targets = sentences(spoilt["target"])
    assert all(t[-1] == EOS and t.count(EOS) == 1 for t in targets)
    assert sentences(spoilt["net_input"]["prev_output_tokens"]) == [[EOS, *t[:-1]] for t in targets]
    assert spoilt["ntokens"] == sum(map(len, targets))
    assert spoilt["nsentences"] == len(targets) == len(spoilt["id"]) == len(spoilt["net_input"]["src_tokens"])
    assert spoilt["target"].dtype == torch.int64
    for t, row in zip(targets, spoilt["target"].tolist()):
        assert (row[-len(t) :] if left_pad else row[: len(t)]) == t


def sources(sample):
    """id -> (source, its length)"""
    net = sample["net_input"]
    rows = zip(sample["id"].tolist(), sentences(net["src_tokens"]), net["src_lengths"].tolist())
    return {i: (s, n) for i, s, n in rows}


def clean_targets(sample):
    return dict(zip(sample["id"].tolist(), sentences(sample["target"])))


@pytest.mark.parametrize("left_pad", [False, True])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_kind_gives_a_whole_batch(kind, left_pad):
    sample = batch_of(SENTENCES, left_pad_target=left_pad)
    check_whole(sample, left_pad)
    before = copy.deepcopy(sample)
    spoilt = spoil(kind, sample, words=vocabulary(left_pad=left_pad))
    check_whole(spoilt, left_pad)
    assert sources(spoilt) == {i: s for i, s in sources(sample).items() if i in spoilt["id"].tolist()}
    clean = clean_targets(sample)
    assert any(t != clean[i] for i, t in clean_targets(spoilt).items())
    # the original is as it was
    assert sample.keys() == before.keys() and sample["ntokens"] == before["ntokens"]
    for key in ("id", "target"):
        assert torch.equal(sample[key], before[key])
    for key, value in before["net_input"].items():
        assert torch.equal(sample["net_input"][key], value)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_the_seed_alone_decides(kind):
    sample = batch_of(SENTENCES)
    results = []
    for outer in (1, 2):
        np.random.seed(outer)
        torch.manual_seed(outer)
        results.append(spoil(kind, sample, seed=5)["target"])
    assert torch.equal(*results)
    if kind == "misordered":
        assert any(not torch.equal(results[0], spoil(kind, sample, seed)["target"]) for seed in range(4))


def test_misaligned_rotates():
    sample = batch_of(SENTENCES)
    clean = sentences(sample["target"])
    assert sentences(spoil("misaligned", sample)["target"]) == [clean[-1], *clean[:-1]]


def test_untranslated_is_the_source():
    sample = batch_of(SENTENCES)
    spoilt = spoil("untranslated", sample)
    assert sentences(spoilt["target"]) == sentences(sample["net_input"]["src_tokens"])
    assert spoilt["id"].tolist() == sample["id"].tolist()


def test_misordered_has_the_same_words():
    """None stays as it was, not even by chance."""
    for seed in range(20):
        sample = batch_of(pairs([4, 4, 4], [2, 7, 3], seed))
        spoilt, clean = spoil("misordered", sample, seed), clean_targets(sample)
        for i, target in clean_targets(spoilt).items():
            assert sorted(target) == sorted(clean[i])
            assert target != clean[i] or len(set(target)) == 2  # the same word twice


def test_truncated_is_the_first_half():
    sample = batch_of(SENTENCES)
    clean = clean_targets(sample)
    for i, target in clean_targets(spoil("truncated", sample)).items():
        words = clean[i][:-1]
        assert target == [*words[: (len(words) + 1) // 2], EOS]
    lengths = sorted(len(t) - 1 for t in sentences(spoil("truncated", sample)["target"]))
    assert lengths == [1, 2, 2, 4]  # of 2, 3, 4 and 7


def test_swapped_moves_words_by_little():
    for seed in range(20):
        sample = batch_of([(s, [*range(4, 4 + n), EOS]) for (s, _), n in zip(SENTENCES, (2, 7, 4, 12))])
        clean = clean_targets(sample)
        for i, target in clean_targets(spoil("swapped", sample, seed)).items():
            assert sorted(target) == sorted(clean[i]) and target != clean[i] and target[-1] == EOS
            assert sum(a != b for a, b in zip(target, clean[i])) <= 6


def test_dropped_leaves_out_some_words():
    sample = batch_of([(s, [*range(4, 4 + n), EOS]) for (s, _), n in zip(SENTENCES, (2, 7, 4, 12))])
    clean = clean_targets(sample)
    spoilt = clean_targets(spoil("dropped", sample))
    assert sorted(len(clean[i]) - len(target) for i, target in spoilt.items()) == [1, 1, 2, 4]
    for i, target in spoilt.items():
        assert target == [word for word in clean[i] if word in target]


def test_joined_goes_on_with_another_target():
    sample = batch_of(SENTENCES)
    clean = sentences(sample["target"])
    assert sentences(spoil("joined", sample)["target"]) == [a[:-1] + b for a, b in zip(clean, clean[1:] + clean[:1])]


# ---- batches that cannot be spoilt ------------------------------------------


@pytest.mark.parametrize(
    "kind, lengths, possible",
    [("misaligned", (5, 4), False), ("untranslated", (5, 4), True), ("misordered", (5, 4), True), ("truncated", (5, 4), True),
     ("misordered", (5, 1), False), ("truncated", (5, 1), False), ("swapped", (5, 2), True), ("swapped", (5, 1), False),
     ("dropped", (5, 2), True), ("dropped", (5, 1), False), ("joined", (5, 4), False)],
)  # fmt: skip
def test_a_batch_of_one(kind, lengths, possible):
    spoilt = spoil(kind, batch_of(pairs([lengths[0]], [lengths[1]])))
    assert (spoilt is not None) == possible
    if possible:
        check_whole(spoilt)


def test_rotation_of_equal_targets_changes_nothing():
    same = [([4, 5, EOS], [6, 7, EOS]), ([5, EOS], [6, 7, EOS])]
    assert spoil("misaligned", batch_of(same)) is None
    assert spoil("misaligned", batch_of([*same, ([5, EOS], [6, EOS])])) is not None


@pytest.mark.parametrize("kind", ["misordered", "truncated"])
def test_targets_that_are_too_short_are_left_out(kind):
    sample = batch_of(pairs([5, 4, 3], [1, 4, 1]))
    spoilt = spoil(kind, sample)
    check_whole(spoilt)
    assert spoilt["id"].tolist() == [1]
    assert sources(spoilt)[1] == sources(sample)[1]


@pytest.mark.parametrize("kind", ["untranslated", "misordered", "truncated", "swapped", "dropped", "joined"])
def test_empty_sentences(kind):
    empty = [([EOS], [EOS]), ([EOS], [EOS])]
    assert spoil(kind, batch_of(empty)) is None


# ---- two dictionaries -------------------------------------------------------


def test_untranslated_maps_by_string():
    source, target = dictionary(["x", "und", "y", "oder"]), dictionary(["oder", "q", "und"])
    words = vocabulary(source, target)
    pair = ([source.index("und"), source.index("oder"), source.index("x"), EOS], [target.index("q"), EOS])
    spoilt = spoil("untranslated", batch_of([pair], source, target), words=words)
    assert sentences(spoilt["target"]) == [[target.index("und"), target.index("oder"), UNK, EOS]]
    check_whole(spoilt)


def test_untranslated_leaves_out_what_is_mostly_unknown():
    source, target = dictionary(["x", "y", "und"]), dictionary(["und", "q"])
    x, y, und = map(source.index, ("x", "y", "und"))
    data = [([x, y, und, EOS], [5, EOS]), ([und, und, x, EOS], [5, EOS]), ([x, und, EOS], [5, EOS])]
    sample = batch_of(data, source, target)
    spoilt = spoil("untranslated", sample, words=vocabulary(source, target))
    check_whole(spoilt)
    assert spoilt["id"].tolist() == [1]  # a half is too much
    assert sources(spoilt)[1] == sources(sample)[1]
    nothing = batch_of([data[0]], source, target)
    assert spoil("untranslated", nothing, words=vocabulary(source, target)) is None


def test_untranslated_is_cut_at_the_longest_target():
    sample = batch_of(pairs([9], [2]))
    spoilt = spoil("untranslated", sample, words=vocabulary(max_target=5))
    assert sentences(spoilt["target"])[0] == [*sentences(sample["net_input"]["src_tokens"])[0][:4], EOS]


# ---- words of several pieces ------------------------------------------------


def test_words_are_kept_whole_by_sentencepieces_mark():
    pieces = dictionary(["▁a", "b", "c", "▁d", "e", "▁f"])
    tokens = [pieces.index(p) for p in ("▁a", "b", "c", "▁d", "e", "▁f")]
    words = {tuple(tokens[:3]), tuple(tokens[3:5]), tuple(tokens[5:])}
    orders = set()
    for seed in range(30):
        sample = batch_of([(tokens + [EOS], tokens + [EOS])], pieces)
        target = sentences(spoil("misordered", sample, seed, vocabulary(pieces))["target"])[0]
        begins = [k for k, t in enumerate(target) if pieces[t].startswith("▁")]
        cut = [tuple(target[a:b]) for a, b in zip(begins, [*begins[1:], -1])]
        assert set(cut) == words
        orders.add(tuple(cut))
    assert len(orders) == 5  # all but the right one


def test_a_target_that_begins_within_a_word():
    """Its first pieces are a word."""
    pieces = dictionary(["▁a", "b", "c"])
    tokens = [pieces.index(p) for p in ("b", "c", "▁a")]
    sample = batch_of([(tokens + [EOS], tokens + [EOS])], pieces)
    spoilt = spoil("misordered", sample, 0, vocabulary(pieces))
    assert sentences(spoilt["target"]) == [[tokens[2], tokens[0], tokens[1], EOS]]


def test_without_that_mark_every_symbol_is_a_word():
    assert vocabulary().begins_word.all()


def test_unknown_kind():
    with pytest.raises(KeyError):
        spoil("backwards", batch_of(SENTENCES))
