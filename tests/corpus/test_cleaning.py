"""Which training pairs go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.corpus.cleaning import REASONS, Cleaner, SeenPairs, length_reason


@settings(max_examples=50, deadline=None)
@given(chunks=st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=12))
def test_seen_pairs_are_a_set(chunks):
    seen, oracle = SeenPairs(), set()
    for chunk in chunks:
        expected = []
        for value in chunk:
            expected.append(value not in oracle)
            oracle.add(value)
        assert seen.add(np.array(chunk, dtype=np.uint64)).tolist() == expected
    assert seen.nbytes == 8 * len(oracle)


def test_eight_bytes_a_pair_in_few_parts():
    seen = SeenPairs()
    hashes = np.random.default_rng(1).permutation(200_000).astype(np.uint64)
    for chunk in np.split(hashes, 100):
        assert seen.add(chunk).all()
    assert seen.nbytes == 8 * 200_000 and len(seen._parts) <= 8
    assert not seen.add(hashes[:1000]).any()


def test_reasons_come_in_this_order():
    cleaner = Cleaner({("Test", "test"): "in_test"}, duplicates=True)
    first = [("", "x"), ("\u2028", "x"), ("Test", "test"), ("eins", "one"), ("eins", "one"), ("eins", "two")]
    names = [REASONS[code] for code in cleaner.reasons(first)]
    assert names == ["empty", "empty", "in_test", "kept", "duplicate", "kept"]
    assert [REASONS[code] for code in cleaner.reasons([("eins", "two"), ("Test", "test")])] == ["duplicate", "in_test"]
    kept = Cleaner({}, duplicates=False).reasons(first)
    assert [REASONS[code] for code in kept] == ["empty", "empty", "kept", "kept", "kept", "kept"]


@pytest.mark.parametrize(
    "lengths, limits, reason",
    [
        ((10, 15), (250, 1.5), "kept"),
        ((10, 16), (250, 1.5), "ratio"),
        ((16, 10), (250, 1.5), "ratio"),
        ((10, 16), (250, 0), "kept"),
        ((250, 240), (250, 1.5), "kept"),
        ((251, 240), (250, 1.5), "too_long"),
        ((251, 240), (0, 1.5), "kept"),
        ((0, 3), (0, 0), "empty"),
    ],
)
def test_lengths(lengths, limits, reason):
    assert REASONS[length_reason(lengths, *limits)] == reason
