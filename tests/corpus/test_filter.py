"""``filter``: what is kept is what the rule says, in order, unchanged; the account adds up."""

import gzip

import pytest

from fairseq_l2rw.corpus.filter import Rule, Text, filter_bitext
from fairseq_l2rw.errors import L2RWError

SOURCE = ["eins", "", "drei drei", "\u2028vier\x85", "fünf"]
TARGET = ["one one", "", "three", "four four four", "five \u202e"]
TABLE = """id\tweight\tweight_misaligned\tweight_truncated\treason
0\t0.5\t0.9\t0.55\t
1\t0\t\t\tempty
2\t0.9\t0.95\t0.95\t
3\t0.1\t0.2\t0.5\t
4\t0.5\t0.5\t1\t
"""


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "Daten und so ä"
    folder.mkdir()
    for name, lines in (("train.de", SOURCE), ("train.en", TARGET)):
        (folder / name).write_bytes("".join(line + "\n" for line in lines).encode())
    (folder / "weights.tsv").write_text(TABLE)
    (folder / "scores").write_text("0.5\n0\n0.9\n0.1\n0.5\n")
    (folder / "train.labels.tsv").write_text("id\tkind\n" + "".join(f"{i}\t{'clean' if i % 2 else 'noise'}\n" for i in range(5)))
    return folder


def run(corpus, scores="weights.tsv", labels=None, column=None, **rule):
    out = [str(corpus / "best.de"), str(corpus / "best.en")]
    text = Text((str(corpus / "train.de"), str(corpus / "train.en")))
    account = filter_bitext(str(corpus / scores), text, out, Rule(**rule), column, labels and str(corpus / labels))
    kept = [open(path, "rb").read().decode().split("\n")[:-1] for path in out]
    rows = [SOURCE.index(source) for source in kept[0]]
    assert kept[1] == [TARGET[row] for row in rows]
    assert account["kept"] == len(rows) and account["read"] == 5 and account["removed"] == 5 - len(rows)
    return rows, account


@pytest.mark.parametrize(
    "rule, rows",
    [
        ({"keep": 0.2}, [2]),
        ({"keep": 0.4}, [0, 2]),  # of equal weights the first
        ({"keep": 0.6}, [0, 2, 4]),
        ({"keep": 0.0}, []),
        ({"keep": 1.0}, [0, 2, 3, 4]),  # what has no weight is never kept
        ({"threshold": 0.5}, [0, 2, 4]),
        ({"threshold": 0.51}, [2]),
        ({"threshold": -1.0}, [0, 2, 3, 4]),
        ({"tokens": 1}, [2]),
        ({"tokens": 3}, [0, 2]),
        ({"tokens": 4}, [0, 2]),  # the next best has two words
        ({"tokens": 5}, [0, 2, 4]),
        ({"tokens": 100}, [0, 2, 3, 4]),
        ({"keep": 0.2, "column": "weight_truncated"}, [4]),
    ],
)
def test_rules(corpus, rule, rows):
    assert run(corpus, **rule)[0] == rows


def test_plain_numbers_know_no_reason(corpus):
    assert run(corpus, "scores", keep=0.6)[0] == [0, 2, 4]
    assert run(corpus, "scores", keep=1.0)[0] == [0, 1, 2, 3, 4]


def test_account(corpus):
    account = run(corpus, labels="train.labels.tsv", keep=0.4)[1]
    assert account["removed_without_weight"] == {"empty": 1}
    assert account["removed_by_lowest_head"] == {"misaligned": 2}
    assert (account["lowest_kept"], account["highest_removed"]) == (0.5, 0.5)
    assert account["words"] == {"source": 5, "target": 8} and account["words_kept"] == {"source": 3, "target": 3}
    assert account["kinds"] == {"clean": {"read": 2, "kept": 0}, "noise": {"read": 3, "kept": 2}}


def test_table_in_and_out(corpus):
    lines = ["u\teins\tone\r", "u\tzwei\t", "u\t\tx\ty"]
    (corpus / "crawl.tsv").write_bytes("".join(line + "\n" for line in lines).encode())
    (corpus / "scores").write_text("0.5\n0.1\n0.9\n")
    text = Text((str(corpus / "crawl.tsv"),), (2, 3))
    filter_bitext(str(corpus / "scores"), text, [str(corpus / "best.tsv.gz")], Rule(keep=0.67))
    assert gzip.open(corpus / "best.tsv.gz").read().decode() == f"{lines[0]}\n{lines[2]}\n"


@pytest.mark.parametrize("rule", [{"keep": 0.5}, {"threshold": 0.5}, {"tokens": 3}])
@pytest.mark.parametrize("scores", ["0.5\n" * 4, "0.5\n" * 6])
def test_another_corpus(corpus, scores, rule):
    (corpus / "scores").write_text(scores)
    with pytest.raises(L2RWError, match="scores has the numbers of . lines, and .*train.de has 5; give the raw files"):
        run(corpus, "scores", **rule)
    assert not list(corpus.glob("best*")) and not list(corpus.glob(".best*"))


def test_labels_of_another_corpus(corpus):
    (corpus / "train.labels.tsv").write_text("id\tkind\n0\tclean\n")
    with pytest.raises(L2RWError, match="train.labels.tsv: fewer labels than there are raw lines"):
        run(corpus, labels="train.labels.tsv", keep=0.5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rule": Rule()}, "give one of --keep"),
        ({"rule": Rule(keep=0.5, tokens=3)}, "give one of --keep"),
        ({"rule": Rule(keep=70)}, "--keep 70: a part of the corpus, from 0 to 1"),
        ({"out": ["a"]}, "--out: 1 files for the 2 of --input"),
        ({"out": ["a", "a"]}, "--out a: a file that is read, or named twice"),
        ({"out": ["a", "train.de"]}, "--out train.de: a file that is read"),
    ],
)
def test_what_does_not_fit(corpus, monkeypatch, change, message):
    monkeypatch.chdir(corpus)
    arguments = {"scores": "scores", "text": Text(("train.de", "train.en")), "out": ["a", "b"], "rule": Rule(keep=0.5), **change}
    with pytest.raises(L2RWError, match=message):
        filter_bitext(**arguments)
    assert (corpus / "train.de").read_bytes()
