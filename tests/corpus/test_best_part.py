"""The best part is what sorting gives, to the line, in more blocks than one."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.corpus import best_part
from fairseq_l2rw.corpus.best_part import BestPart

NUMBERS = st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, 0.5, 1e-300, math.nan]))
LINES = st.lists(st.tuples(NUMBERS, st.integers(0, 5)), max_size=40)


def chosen(lines, budget):
    part = BestPart()
    for number, cost in lines:
        part.add(number, cost)
    return list(part.chosen(budget))


def by_sorting(lines, budget):
    """From the highest number down, the earlier line first, until one does not fit."""
    order = sorted((i for i, (number, _) in enumerate(lines) if not math.isnan(number)), key=lambda i: (-lines[i][0], i))
    kept = set()
    for i in order:
        if lines[i][1] > budget:
            break
        budget -= lines[i][1]
        kept.add(i)
    return [i in kept for i in range(len(lines))]


@settings(deadline=None)
@given(LINES, st.integers(0, 120))
def test_as_by_sorting(lines, budget):
    assert chosen(lines, budget) == by_sorting(lines, budget)


@settings(deadline=None)
@given(LINES, st.integers(0, 60))
def test_as_by_sorting_in_blocks(lines, budget):
    before = best_part.BLOCK
    best_part.BLOCK = 7
    try:
        assert chosen(lines, budget) == by_sorting(lines, budget)
    finally:
        best_part.BLOCK = before


@pytest.mark.parametrize("budget, kept", [(0, 0), (1, 1), (2, 2), (9, 3)])
def test_ties_go_to_the_first(budget, kept):
    assert chosen([(0.5, 1)] * 3, budget) == [True] * kept + [False] * (3 - kept)


def test_neighbouring_doubles_are_told_apart():
    assert chosen([(0.1, 1), (math.nextafter(0.1, 1), 1)], 1) == [False, True]


def test_nothing():
    assert chosen([], 3) == []
