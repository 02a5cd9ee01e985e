"""Noise: what is done, how often, and that the labels say so."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_l2rw.cli.main import main
from fairseq_l2rw.corpus.bitext import read_lines, write_lines
from fairseq_l2rw.corpus.corrupt import CLEAN, KINDS, Window, corrupt_files, corrupt_pairs, parse_noise, write_labelled
from fairseq_l2rw.corpus.lines import read_labels
from fairseq_l2rw.errors import L2RWError

PAIRS = [(f"quelle {row} hat fünf Wörter", f"target {row} has five words") for row in range(1000)]
THIRD = [f"la ligne {row} a cinq mots" for row in range(1000)]
MIXED = {kind: 0.12 for kind in KINDS}


def spoil(kind, pairs, rows=None, donors=(), seed=0, third=()):
    rows = range(len(pairs)) if rows is None else rows
    return KINDS[kind](Window(pairs, donors, third), rows, random.Random(seed))


def corrupted(pairs=PAIRS, rates=MIXED, seed=1, window=10_000, third=THIRD):
    return list(corrupt_pairs(pairs, rates, seed, window, itertools.cycle(third)))


def is_kind(kind, pair, row):
    """Whether `pair` is what `kind` makes of PAIRS[row], said in other words than the product's."""
    src, tgt = pair
    clean_src, clean_tgt = PAIRS[row]
    sources, targets = ({side for side in sides} for sides in zip(*PAIRS))
    if kind == "untranslated-source":
        return src == tgt == clean_tgt
    if kind == "over-under":
        over = src == clean_src and any(tgt == f"{clean_tgt} {other}" for other in targets)
        return over or (tgt == clean_tgt and any(src == f"{clean_src} {other}" for other in sources))
    if src != clean_src:
        return False
    return {
        CLEAN: tgt == clean_tgt,
        "misaligned": tgt != clean_tgt and tgt in targets,
        "wrong-language": tgt == THIRD[row],
        "untranslated": tgt == src,
        "misordered": tgt != clean_tgt and sorted(tgt.split()) == sorted(clean_tgt.split()),
        "truncated": tgt == " ".join(clean_tgt.split()[:3]),
    }[kind]


@pytest.mark.parametrize("window", [1, 2, 7, 10_000])
def test_labels_say_what_was_done_to_every_pair(window):
    result = corrupted(seed=3, window=window)
    assert len(result) == len(PAIRS)
    for row, (src, tgt, kind) in enumerate(result):
        assert is_kind(kind, (src, tgt), row), (row, src, tgt, kind)
    assert set(Counter(kind for *_, kind in result)) == {CLEAN, *MIXED}


def test_rates_hold():
    counts = Counter(kind for *_, kind in corrupt_pairs(PAIRS * 20, {"misaligned": 0.25, "truncated": 0.1}, seed=1))
    assert counts["misaligned"] / 20_000 == pytest.approx(0.25, abs=0.015)  # five standard deviations
    assert counts["truncated"] / 20_000 == pytest.approx(0.1, abs=0.011)
    assert counts[CLEAN] / 20_000 == pytest.approx(0.65, abs=0.017)


def test_rate_one_spoils_all_and_rate_zero_none():
    assert {kind for *_, kind in corrupt_pairs(PAIRS, {"misaligned": 1.0}, seed=1)} == {"misaligned"}
    assert {kind for *_, kind in corrupt_pairs(PAIRS, {"misaligned": 0.0}, seed=1)} == {CLEAN}


def test_the_seed_decides():
    first, again, other = (corrupted(seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_who_is_spoilt_does_not_depend_on_the_window():
    """A window changes what a misaligned pair gets, never which pairs are misaligned."""
    kinds = [[kind for *_, kind in corrupted(window=window)] for window in (50, 1000)]
    assert kinds[0] == kinds[1]


def test_misaligned_targets_are_each_used_once():
    result = corrupt_pairs(PAIRS, {"misaligned": 0.5}, seed=1)
    assert Counter(tgt for _, tgt, _ in result) == Counter(tgt for _, tgt in PAIRS)


def test_misaligned_gives_another_text_even_where_targets_repeat():
    pairs = [(str(row), "Yes." if row % 10 else "No.") for row in range(100)]
    for (_, tgt, kind), (_, own) in zip(corrupt_pairs(pairs, {"misaligned": 1.0}, seed=1), pairs):
        assert (kind, tgt != own) == ("misaligned", True)


def test_misaligned_takes_a_target_from_the_window_before_if_it_must():
    assert spoil("misaligned", [("a", "own")], donors=[("", "other")]) == {0: ("a", "other")}


def test_what_cannot_be_spoilt_is_called_clean():
    assert list(corrupt_pairs([("ja", "yes")], {"misaligned": 1.0}, 1)) == [("ja", "yes", CLEAN)]
    assert list(corrupt_pairs([("ja", "yes")], {"misordered": 1.0}, 1)) == [("ja", "yes", CLEAN)]
    assert list(corrupt_pairs([("ja", "yes yes")], {"misordered": 1.0}, 1)) == [("ja", "yes yes", CLEAN)]
    assert list(corrupt_pairs([("ja", "yes")], {"truncated": 1.0}, 1)) == [("ja", "yes", CLEAN)]
    assert list(corrupt_pairs([("OK", "OK")], {"untranslated": 1.0}, 1)) == [("OK", "OK", CLEAN)]
    assert list(corrupt_pairs([("OK", "OK")], {"untranslated-source": 1.0}, 1)) == [("OK", "OK", CLEAN)]
    assert list(corrupt_pairs([("ja", "yes")], {"over-under": 1.0}, 1)) == [("ja", "yes", CLEAN)]
    for line in ("yes", " "):
        assert corrupted([("ja", "yes")], {"wrong-language": 1.0}, third=[line]) == [("ja", "yes", CLEAN)]


def test_truncated_is_half_of_the_words():
    pairs = [("", " ".join("abcdefgh"[:length])) for length in range(2, 8)]
    lengths = [len(tgt.split()) for _, tgt in spoil("truncated", pairs).values()]
    assert lengths == [1, 2, 2, 3, 3, 4]


def test_scripts_without_spaces_count_by_characters():
    pairs = [("Guten Tag, Welt", "你好世界")]
    assert spoil("truncated", pairs) == {0: (pairs[0][0], "你好")}
    shuffled = spoil("misordered", pairs)[0][1]
    assert shuffled != "你好世界" and sorted(shuffled) == sorted("你好世界")


@pytest.mark.parametrize("seed", range(20))
def test_misordered_is_always_another_order(seed):
    assert spoil("misordered", [("", "one two")], seed=seed) == {0: ("", "two one")}


# ---- wrong language, over and under -----------------------------------------


def test_a_third_text_is_needed_and_used():
    with pytest.raises(L2RWError, match="--noise wrong-language: needs a text in a third language; give it with --third"):
        list(corrupt_pairs(PAIRS, {"wrong-language": 0.1}, seed=1))
    result = corrupted(rates={"wrong-language": 1.0}, window=7)
    assert [tgt for _, tgt, _ in result] == THIRD


def third_text(tmp_path, lines):
    paths, third = write_bitext(tmp_path), str(tmp_path / "third.fr.gz")
    write_lines(third, lines)
    outputs = [str(tmp_path / name) for name in ("noisy.de", "noisy.en", "labels.tsv")]
    corrupt_files(*paths, *outputs, {"wrong-language": 1.0}, 1, third)
    return list(read_lines(outputs[1]))


def test_a_shorter_third_text_begins_again(tmp_path):
    assert third_text(tmp_path, ["un", "deux", "trois"]) == (["un", "deux", "trois"] * 334)[:1000]


def test_an_empty_third_text(tmp_path):
    with pytest.raises(L2RWError, match="--third .*third.fr.gz: the file is empty"):
        third_text(tmp_path, [])


def test_a_third_text_that_nothing_takes(tmp_path):
    with pytest.raises(L2RWError, match="--third fr: only wrong-language takes lines from it"):
        corrupt_files("a", "b", "c", "d", "e", {"misaligned": 1.0}, 1, "fr")


def test_over_and_under_are_both_made():
    over = [tgt != PAIRS[row][1] for row, (_, tgt, _) in enumerate(corrupted(rates={"over-under": 1.0}))]
    assert 400 < sum(over) < 600


def test_under_drops_one_of_several_sentences():
    pairs, seen = [("Eins. Zwei! Drei?", "One. Two! Three?"), ("x", "y")], set()
    for seed in range(40):
        seen.add(spoil("over-under", pairs, rows=[0], seed=seed)[0])
    assert seen == {(pairs[0][0], tgt) for tgt in ("One. Two! Three? y", "One. Two!", "One. Three?", "Two! Three?")}


def test_neighbours_of_the_first_and_the_last_line():
    for seed in range(10):
        last = spoil("over-under", [("a", "b"), ("c", "d")], rows=[1], seed=seed)[1]
        only = spoil("over-under", [("c", "d")], donors=[("x", "y"), ("a", "b")], seed=seed)[0]
        assert last in {("c", "d b"), ("c a", "d")} and only == last


def test_unspaced_scripts_are_joined_without_a_space():
    seen = {spoil("over-under", [("你好", "世界"), ("再见", "朋友")], rows=[0], seed=seed)[0] for seed in range(20)}
    assert seen == {("你好", "世界朋友"), ("你好再见", "世界")}


# ---- any text ---------------------------------------------------------------

LINE = st.text(st.characters(blacklist_characters="\n", blacklist_categories=("Cs",)))


@settings(deadline=None)
@given(
    pairs=st.lists(st.tuples(LINE, LINE), min_size=1), third=st.lists(LINE, min_size=1), seed=st.integers(0, 5),
    window=st.integers(1, 5),
)  # fmt: skip
def test_any_unicode_keeps_the_alignment(tmp_path_factory, pairs, third, seed, window):
    """As many lines as before, an untouched pair at its place to the character, a label for each, and only true ones."""
    folder = tmp_path_factory.getbasetemp()
    result = corrupted(pairs, {kind: 0.14 for kind in KINDS}, seed, window, third)
    paths = [str(folder / name) for name in ("any.src", "any.tgt", "any.labels.tsv")]
    write_labelled(result, *paths)
    assert list(zip(read_lines(paths[0]), read_lines(paths[1]))) == [(src, tgt) for src, tgt, _ in result]
    labels = read_labels(paths[2])
    assert list(labels) == list(range(len(pairs)))
    for row, pair in enumerate(pairs):
        assert (result[row][:2] == pair) == (labels[row] == CLEAN)
        if labels[row] not in ("untranslated-source", "over-under"):
            assert result[row][0] == pair[0]


def test_memory_does_not_grow_with_the_corpus():
    """What has been read and not yet given back is one window at most."""
    read = 0

    def endless():
        nonlocal read
        for read in itertools.count(1):  # noqa: B007
            yield PAIRS[read % 1000]

    for given_back, _ in enumerate(corrupt_pairs(endless(), MIXED, 1, 100, itertools.cycle(THIRD)), start=1):
        assert read - given_back <= 100
        if given_back == 5_000:
            break


# ---- files ------------------------------------------------------------------


def write_bitext(tmp_path, ending=""):
    paths = [str(tmp_path / f"clean.{lang}{ending}") for lang in ("de", "en")]
    for path, side in zip(paths, zip(*PAIRS)):
        write_lines(path, side)
    return paths


def corrupt_into(folder, paths, ending="", seed=7):
    outputs = [str(folder / f"noisy.{lang}{ending}") for lang in ("de", "en")] + [str(folder / "labels.tsv")]
    third = str(folder.parent / "third.fr")
    write_lines(third, THIRD)
    counts = corrupt_files(*paths, *outputs, MIXED, seed, third)
    return outputs, counts


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_files_labels_and_counts(tmp_path, ending):
    outputs, counts = corrupt_into(tmp_path / "out", write_bitext(tmp_path, ending), ending)
    src, tgt, labels = (list(read_lines(path)) for path in outputs)
    assert labels[0] == "id\tkind"
    rows = [label.split("\t") for label in labels[1:]]
    assert [int(number) for number, _ in rows] == list(range(len(PAIRS)))
    assert all(is_kind(kind, pair, row) for row, (pair, (_, kind)) in enumerate(zip(zip(src, tgt), rows)))
    assert counts == Counter(kind for _, kind in rows)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_same_seed_same_bytes(tmp_path, ending):
    paths = write_bitext(tmp_path, ending)
    first, second, other = (
        corrupt_into(tmp_path / name, paths, ending, seed)[0] for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    contents = [[open(path, "rb").read() for path in outputs] for outputs in (first, second, other)]
    assert contents[0] == contents[1]
    assert contents[0][2] != contents[2][2]


def test_unequal_files_leave_nothing_behind(tmp_path):
    paths = write_bitext(tmp_path)
    write_lines(paths[1], ["one", "two"])
    with pytest.raises(L2RWError, match=r"clean\.de has 1000 lines, .*clean\.en has 2;"):
        corrupt_into(tmp_path / "out", paths)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_is_no_input_and_no_other_output(tmp_path):
    src, tgt = write_bitext(tmp_path)
    with pytest.raises(L2RWError, match=r"--out-tgt .*: the same file as --tgt"):
        corrupt_files(src, tgt, str(tmp_path / "x"), tgt, str(tmp_path / "l"), MIXED, 1)
    with pytest.raises(L2RWError, match=r"--labels .*: the same file as --out-src"):
        corrupt_files(src, tgt, str(tmp_path / "x"), str(tmp_path / "y"), str(tmp_path / "x"), MIXED, 1)
    assert list(read_lines(tgt)) == [target for _, target in PAIRS]


def test_parse_noise():
    assert parse_noise("misaligned:0.25, truncated:.5") == {"misaligned": 0.25, "truncated": 0.5}
    assert parse_noise("misaligned:0.1,untranslated:0.2,misordered:0.7") is not None  # sums to 1, but for rounding


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "shuffled:0.1",
            r"unknown kind of noise 'shuffled'; choose from misaligned, untranslated, untranslated-source, wrong-language, misord",
        ),
        ("", r"unknown kind of noise ''"),
        ("misaligned", r"'misaligned' is not KIND:RATE, as in misaligned:0.25"),
        ("misaligned:half", r"'misaligned:half' is not KIND:RATE"),
        ("misaligned:1.5", r"the rate of misaligned is 1.5; give a number from 0 to 1"),
        ("misaligned:-0.1", r"the rate of misaligned is -0.1"),
        ("misaligned:nan", r"the rate of misaligned is nan"),
        ("misaligned:0.6,truncated:0.6", r"the rates sum to 1.2; together they can be 1 at most"),
        ("misaligned:0.1,misaligned:0.1", r"misaligned is given twice"),
    ],
)
def test_bad_noise_is_refused(text, message):
    with pytest.raises(L2RWError, match=message):
        parse_noise(text)


def test_the_command(tmp_path, capsys):
    src, tgt = write_bitext(tmp_path)
    outputs = ["--out-src", str(tmp_path / "s"), "--out-tgt", str(tmp_path / "t"), "--labels", str(tmp_path / "l")]
    assert main(["corrupt", "--src", src, "--tgt", tgt, *outputs, "--noise", "truncated:1"]) == 0
    assert '"truncated": 1000' in capsys.readouterr().out
    assert main(["corrupt", "--src", src, "--tgt", tgt, *outputs, "--noise", "bad:1"]) == 2
    assert capsys.readouterr().err.startswith("fairseq-l2rw: error: --noise: unknown kind of noise 'bad'")
