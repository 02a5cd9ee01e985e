"""The toy corpus."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from fairseq_l2rw.cli.main import main
from fairseq_l2rw.corpus import toy
from fairseq_l2rw.corpus.bitext import read_lines, read_pairs
from fairseq_l2rw.errors import L2RWError

SIZES = {"train": 2000, "valid": 200, "test": 100}
NOISE = {"misaligned": 0.25, "untranslated": 0.25}
FILES = {f"{split}.{lang}" for split in SIZES for lang in ("de", "en")}


def contents(folder):
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


@pytest.fixture(scope="module")
def default_corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    toy.write_toy(str(folder))
    return folder


def test_default_size_is_distinct_on_both_sides_and_splits_are_disjoint(default_corpus):
    assert set(os.listdir(default_corpus)) == FILES
    counts = {}
    for lang in ("de", "en"):
        splits = {split: list(read_lines(str(default_corpus / f"{split}.{lang}"))) for split in SIZES}
        counts[lang] = {split: len(lines) for split, lines in splits.items()}
        everything = list(itertools.chain(*splits.values()))
        assert len(set(everything)) == len(everything)
    assert counts["de"] == counts["en"] == {"train": 20_000, "valid": 1_000, "test": 500}


def test_sentences_are_short_words_not_digits_and_no_copies(default_corpus):
    pairs = list(read_pairs(str(default_corpus / "train.de"), str(default_corpus / "train.en")))
    shared = total = 0
    for de, en in pairs:
        assert re.fullmatch(r"[A-ZÄÖÜ][^][{}|_\d]*[.?!]", de), de
        assert re.fullmatch(r"[A-Z][^][{}|_\d]*[.?!]", en), en
        assert "  " not in de + en
        assert 4 <= len(de.split()) <= 18 and 4 <= len(en.split()) <= 18
        german = set(de.lower().split())
        shared += sum(word in german for word in en.lower().split())
        total += len(en.split())
    assert shared / total < 0.06  # a copied sentence is no translation
    vocabulary = [{word for pair in pairs for word in pair[side].split()} for side in (0, 1)]
    assert all(len(words) < 1_000 for words in vocabulary)


def test_same_seed_same_bytes_in_another_process_locale_and_hash_seed(tmp_path):
    toy.write_toy(str(tmp_path / "here"), sizes=SIZES, seed=5, noise=NOISE)
    command = "import sys; from fairseq_l2rw.corpus.toy import *; write_toy(sys.argv[1], sizes=%r, seed=5, noise=%r)"
    for name, hash_seed, locale in (("a", "1", "C"), ("b", "2", "C.UTF-8")):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "LC_ALL": locale, "PYTHONUTF8": "0"}
        subprocess.run(
            [sys.executable, "-c", command % (SIZES, NOISE), str(tmp_path / name)], env=environment, check=True
        )
        assert contents(tmp_path / name) == contents(tmp_path / "here")


def test_another_seed_is_another_corpus(tmp_path):
    for seed in (1, 2):
        toy.write_toy(str(tmp_path / str(seed)), sizes=SIZES, seed=seed)
    first, second = (contents(tmp_path / str(seed)) for seed in (1, 2))
    assert all(first[name] != second[name] for name in FILES)


def test_size_and_noise_leave_valid_and_test_alone(tmp_path):
    toy.write_toy(str(tmp_path / "small"), sizes=SIZES)
    toy.write_toy(str(tmp_path / "large"), sizes={**SIZES, "train": 3000}, noise=NOISE)
    small, large = contents(tmp_path / "small"), contents(tmp_path / "large")
    for name in FILES - {"train.de", "train.en"}:
        assert small[name] == large[name]
    assert large["train.de"].startswith(small["train.de"])


def test_labels_are_true(tmp_path):
    toy.write_toy(str(tmp_path / "clean"), sizes=SIZES)
    summary = toy.write_toy(str(tmp_path / "noisy"), sizes=SIZES, noise=NOISE)
    clean = list(read_pairs(str(tmp_path / "clean/train.de"), str(tmp_path / "clean/train.en")))
    noisy = list(read_pairs(str(tmp_path / "noisy/train.de"), str(tmp_path / "noisy/train.en")))
    header, *labels = read_lines(str(tmp_path / "noisy/train.labels.tsv"))
    assert header == "id\tkind"
    assert len(labels) == len(clean) == len(noisy)
    targets = {en for _, en in clean}
    for number, ((de, en), (src, tgt), label) in enumerate(zip(clean, noisy, labels)):
        kind = {en: "clean", de: "untranslated"}.get(tgt, "misaligned" if tgt in targets else "unknown")
        assert (src, label) == (de, f"{number}\t{kind}")
    assert 400 < summary["kinds"]["misaligned"] < 600 and 400 < summary["kinds"]["untranslated"] < 600


def test_labels_of_an_earlier_run_go(tmp_path):
    toy.write_toy(str(tmp_path), sizes=SIZES, noise=NOISE)
    (tmp_path / "notes.txt").write_text("mine")
    toy.write_toy(str(tmp_path), sizes=SIZES)
    assert set(os.listdir(tmp_path)) == FILES | {"notes.txt"}


def test_the_other_direction_is_the_same_pairs(tmp_path):
    for src, tgt in (("de", "en"), ("en", "de")):
        toy.write_toy(str(tmp_path / src), src, tgt, SIZES)
    assert contents(tmp_path / "de") == contents(tmp_path / "en")


def test_fillers_differ_between_the_languages_and_are_unambiguous():
    for kind, fillers in toy.make_fillers().items():
        for language in ("de", "en"):
            assert len({filler[language] for filler in fillers}) == len(fillers), (kind, language)
        assert not [filler for filler in fillers if filler["de"] == filler["en"]], kind


@pytest.mark.parametrize(
    "hour, minute, de, en",
    [
        (1, 0, "ein Uhr", "one o'clock"),
        (1, 15, "[Viertel nach eins|ein Uhr fünfzehn]", "a quarter [past|after] one"),
        (3, 25, "fünf vor halb vier", "twenty-five [past|after] three"),
        (3, 30, "[halb vier|drei Uhr dreißig]", "[half past three|three thirty]"),
        (12, 30, "[halb eins|zwölf Uhr dreißig]", "[half past twelve|twelve thirty]"),
        (3, 35, "fünf nach halb vier", "twenty-five [to|before] four"),
        (12, 40, "[zwanzig vor eins|zwölf Uhr vierzig]", "twenty [to|before] one"),
        (11, 45, "[Viertel vor zwölf|elf Uhr fünfundvierzig]", "a quarter [to|before] twelve"),
    ],
)
def test_clock_times(hour, minute, de, en):
    assert toy._clock_time(hour, minute) == (de, en)


def test_both_alternatives_are_used_and_the_first_one_more():
    rng = random.Random(0)
    texts = Counter(
        toy._render("[{time}|nie|nimmer] da", "de", {"time": {"de": "um [eins|zwei]"}}, rng) for _ in range(4000)
    )
    expected = {"Um eins da": 0.36, "Um zwei da": 0.24, "Nie da": 0.2, "Nimmer da": 0.2}
    assert {text: count / 4000 for text, count in texts.items()} == pytest.approx(expected, abs=0.03)


def test_forms_of_fillers():
    fillers = toy.make_fillers()
    assert {"de": "dritte März", "de_dative": "dritten März", "en": "[the third of March|March the third]"} in fillers[
        "date"
    ]
    assert len(fillers["date"]) == 366
    assert {"de": "Jahre", "de_dative": "Jahren", "en": "years"} in fillers["duration"]
    assert {"de": "Wochen", "de_dative": "Wochen", "en": "weeks"} in fillers["duration"]
    assert {"de": "neunzehnhundertvierundachtzig", "en": "nineteen eighty-four"} in fillers["year"]


def test_other_languages_are_refused(tmp_path):
    with pytest.raises(L2RWError, match=r"--src de --tgt fr: the toy corpus is German and English"):
        toy.write_toy(str(tmp_path), "de", "fr")
    with pytest.raises(L2RWError, match=r"--src de --tgt de"):
        toy.write_toy(str(tmp_path), "de", "de")


def test_more_than_there_is_is_refused(tmp_path, monkeypatch):
    template = ("heute ist {weekday}, der {date}.", "today is {weekday}, {date}.")  # 7 * 366 sentences, no more
    monkeypatch.setattr(toy, "_TEMPLATES", [template])
    with pytest.raises(L2RWError, match=r"--size: the toy corpus has not many more than \d+ distinct pairs"):
        toy.write_toy(str(tmp_path))
    assert not os.listdir(tmp_path)


def test_the_command(tmp_path, capsys):
    sizes = ["--size", "60", "--valid-size", "20", "--test-size", "10"]
    assert main(["toy", str(tmp_path / "out"), *sizes, "--noise", "truncated:1"]) == 0
    assert json.loads(capsys.readouterr().out)["kinds"] == {"truncated": 60}
    assert main(["toy", str(tmp_path / "bad"), "--noise", "bad:1"]) == 2
    assert "--noise: unknown kind of noise 'bad'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["toy", str(tmp_path / "bad"), "--size", "-3"])
    assert "argument --size: '-3' is not a whole number of 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()
