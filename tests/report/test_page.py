"""The page: what stands in it, in which order, that nothing in it can run, and that a browser finds nothing to complain of."""

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from fairseq_l2rw.cli import main as cli
from fairseq_l2rw.corpus.influence_log import InfluenceLog
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.report.page import render
from fairseq_l2rw.report.run import read_runs, short_names
from report.folders import make_labels, make_log, make_run, make_scores, make_table

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VOID = ("meta", "link", "br")
HOSTILE = "<script>alert(1)</script></bdi></svg>\u202e\x1b[31m <img src=x onerror=alert(1)> ' \" $\\frac{"


class Page(HTMLParser):
    """Tags, attributes and text of a page; fails where tags are not nested."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(html)
        assert self._open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.texts))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.texts.append(data)


def page(*folders, **how):
    return Page(render(read_runs([str(folder) for folder in folders], **how)))


def write_influence_log(path, updates=200):
    """Six pairs at every update, every third of them misaligned and at 0.1."""
    log = InfluenceLog(str(path))
    for update in range(1, updates + 1):
        log.write(update, "misaligned", range(6), [0.1, 0.9, 0.9] * 2, [0.0] * 6, [0.0] * 6)
    log.flush()


# ---- one run ----------------------------------------------------------------


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    """The page of a complete run."""
    return render(read_runs([str(make_run(tmp_path_factory.mktemp("runs") / "deep"))]))


def test_what_was_won_stands_first(html):
    found = Page(html)
    heads = ["Scores", "Do the weights separate?", "Training", "Pairs", "Options", "Not there yet", "Sources"]
    assert re.findall(r"<h2>(.*?)</h2>", html) == heads
    assert "finished" in found.text and "400 of 400" in found.text
    assert "signature of BLEU" in found.text and "20.0" in found.text
    assert "area under the ROC curve 1.000" in found.text
    for title in ("How the weights are spread", "What is left of each label", "Weight against loss", "Weight against length",
                  "Training and validation loss", "Effective sample size", "Teacher's gradient norm"):  # fmt: skip
        assert title in found.text, title
    assert found.tags.count("svg") == 4 + 7
    for title in (
        "Lowest weights",
        "Highest weights",
        "Put down though clean",
        "Kept though spoilt",
        "Head misaligned",
    ):
        assert title in found.text, title
    assert "put down by misaligned" in found.text
    assert "task.meta_start" in found.text and "model.arch" in found.text


def test_it_stands_alone(html):
    found = Page(html)
    assert not {"script", "iframe", "object", "embed", "img", "form"} & set(found.tags)
    policy = next(value for tag, name, value in found.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy and "script-src" not in policy
    for tag, name, value in found.attributes:
        assert not name.startswith("on") and name not in ("src", "srcset"), (tag, name, value)
        if name in ("href", "xlink:href"):
            assert value.startswith("#") or value == "data:,", (tag, value)
        assert "://" not in (value or ""), (tag, name, value)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)", str(found.attributes))) <= set(ids)


def test_colours_are_those_of_the_style_sheet(html):
    style, body = html.split("</style>", 1)
    assert not re.findall(r"#[0-9a-f]{6}\b", body), "a colour that does not change in the dark"
    assert set(re.findall(r"var\((--\w+)\)", body)) <= set(re.findall(r"(--\w+):", style))
    assert style.count("--c7:") == 2 and "prefers-color-scheme: dark" in style


def test_a_run_in_progress(tmp_path):
    (tmp_path / "deep").mkdir()
    make_log(tmp_path / "deep" / "train.log", last=60, done=False)
    found = page(tmp_path / "deep")
    assert "in progress or stopped" in found.text and "60 of 400" in found.text
    assert "Scores" not in found.text.split("Not there yet")[0] and "Pairs" not in found.text
    assert "fairseq-l2rw evaluate data --path" in found.text and "--influence-log" in found.text
    (tmp_path / "deep" / "train.log").write_text("")  # it has only just begun
    assert "in progress" in page(tmp_path / "deep").text


def test_without_labels(tmp_path):
    folder = make_run(tmp_path / "deep")
    (folder / "train.labels.tsv").unlink()
    found = page(folder)
    assert "Do the weights separate" not in found.text and "all pairs 300" in found.text
    assert "Where a threshold would cut" in found.text and "Kept though spoilt" not in found.text
    make_labels(tmp_path / "labels.tsv")
    assert "Kept though spoilt" in page(folder, labels=str(tmp_path / "labels.tsv")).text


@pytest.mark.parametrize("data", ["my/data", "my/data/shard0:my/data/shard1"])
def test_labels_that_came_with_the_data(tmp_path, monkeypatch, data):
    folder = make_run(tmp_path / "runs" / "deep", data=data)
    (tmp_path / "my" / "data" / "raw").mkdir(parents=True)
    (folder / "train.labels.tsv").rename(tmp_path / "my" / "data" / "raw" / "train.labels.tsv")
    monkeypatch.chdir("/")
    assert "Kept though spoilt" in page(folder).text


def test_weights_over_time(tmp_path):
    folder = make_run(tmp_path / "deep")
    write_influence_log(folder / "influence.tsv.gz")
    (run,) = read_runs([str(folder)])
    assert run.history.counts.sum((1, 2)).tolist() == [800, 400, 0]
    found = Page(render([run]))
    assert "Weights over time" in found.text
    assert found.tags.count("svg") == 4 + 7 + 2


# ---- several runs -----------------------------------------------------------


def test_several_runs(tmp_path):
    deep = make_run(tmp_path / "deep", bleu=21.5)
    uniform = make_run(tmp_path / "uniform", bleu=20, teacher="uniform")
    html = render(read_runs([str(deep), str(uniform)]))
    found = Page(html)
    assert "2 runs" in found.text and "difference to uniform" in found.text
    assert "21.5 +1.5" in found.text and "20.0 +" not in found.text
    row = next(row for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL) if "task.teacher<" in row)
    assert 'class="differs"' in row and "deep" in row and "uniform" in row
    assert "Over seeds" not in found.text
    missing = found.text.split("Not there yet")[-1]
    assert "uniform: weights" not in missing and "deep: weights over time" in missing


def test_the_best_of_ter_is_the_lowest(tmp_path):
    runs = read_runs([str(make_run(tmp_path / name, bleu=bleu)) for name, bleu in (("a", 20), ("b", 22))])
    rows = re.findall(r"<td>(?:<span[^>]*></span>)([ab])</td>(.*?)</tr>", render(runs), re.DOTALL)
    best = {name: re.findall(r'class="best">([\d.]+)', cells) for name, cells in rows}
    assert best == {"a": ["22.0"], "b": ["22.0", "23.0"]}  # TER, and BLEU with chrF
    make_scores(tmp_path / "a" / "eval", 22)
    assert 'class="best"' not in render(read_runs([str(tmp_path / name) for name in "ab"])), "equal ones"


def test_means_over_seeds(tmp_path):
    runs = [make_run(tmp_path / f"deep{seed}", bleu=20 + seed, seed=seed) for seed in (1, 2, 3)]
    runs.append(make_run(tmp_path / "uniform", bleu=20, teacher="uniform"))
    found = page(*runs)
    assert "Over seeds" in found.text and "22.0 ± 1.0" in found.text


def test_other_splits_and_default_names_of_evaluate(tmp_path):
    folder = make_run(tmp_path / "deep")
    make_scores(folder / "checkpoint_best.eval", 33.3, split="valid")
    (folder / "eval" / "other.json").write_text("[1, 2]")
    found = page(folder)
    assert "valid, checkpoint_best" in found.text and "33.3" in found.text


def test_names():
    assert short_names(["a/deep", "a/uniform"]) == ["deep", "uniform"]
    assert short_names(["a/1/deep", "a/2/deep"]) == [os.path.join("1", "deep"), os.path.join("2", "deep")]
    with pytest.raises(L2RWError, match="the same folder twice"):
        short_names(["a", "a"])


# ---- hostile text -----------------------------------------------------------


@pytest.fixture
def hostile(tmp_path):
    """A run in which everything that can come from outside is meant badly."""
    folder = tmp_path / "<i>deep&"
    folder.mkdir()
    make_log(folder / "train.log", data=HOSTILE, teacher=HOSTILE)
    make_scores(folder / "eval", 20, split="<b>test")
    (folder / "eval" / "x.json").write_text(json.dumps({HOSTILE: {"score": 1, "signature": HOSTILE}}))
    make_table(folder / "weights.tsv", pairs=30)
    text = (folder / "weights.tsv").read_text()
    text = text.replace("weight_untranslated", f"weight_{HOSTILE}").replace("Satz 3 .", HOSTILE + "x" * 100_000)
    (folder / "weights.tsv").write_text(text)
    (folder / "train.labels.tsv").write_text(
        "id\tkind\n" + "".join(f"{i}\t{HOSTILE if i % 3 == 0 else 'clean'}\n" for i in range(30))
    )
    return folder


def test_hostile_text_is_text(hostile):
    html = render(read_runs([str(hostile)]))
    found = Page(html)
    assert not {"script", "img"} & set(found.tags)
    assert not any(name.startswith("on") for _, name, _ in found.attributes)
    assert not set(html) & {"\u202e", "\x1b"} and "U+202E" in found.text and "U+001B" in found.text
    assert len(html) < 700_000 and "more" in found.text
    assert found.text.count("<script>alert(1)</script>") >= 5


# ---- bad input --------------------------------------------------------------


def test_nothing_to_report(tmp_path):
    with pytest.raises(L2RWError, match="no such folder"):
        read_runs([str(tmp_path / "absent")])
    with pytest.raises(L2RWError, match="give a training's --save-dir"):
        read_runs([str(tmp_path)])
    make_run(tmp_path / "deep")
    with pytest.raises(L2RWError, match=re.escape(f"give {tmp_path / 'deep'}")):
        read_runs([str(tmp_path)])


def test_command(tmp_path, capsys):
    runs = [str(make_run(tmp_path / name)) for name in ("deep", "other")]
    assert cli.main(["report", *runs]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "report.html")}
    assert cli.main(["report", runs[0]]) == 0
    assert sorted(path.name for path in (tmp_path / "deep").iterdir() if "report" in path.name) == ["report.html"]
    (tmp_path / "deep" / "weights.tsv").write_text("id\tweight\n0\theavy\n")
    assert cli.main(["report", *runs, "--out", str(tmp_path / "none.html")]) == 2
    assert "line 2: 'heavy'" in capsys.readouterr().err and not (tmp_path / "none.html").exists()


# ---- in a browser -----------------------------------------------------------


def console(path, folder):
    """What a browser without a window writes to its console about a page, and the page as it then stands."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    options = ["--headless", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # it refuses to start as root otherwise
    command = [browser, *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=240)
    if "</html>" not in done.stdout:
        pytest.skip(f"{browser} does not run here: {done.stderr[-300:]}")
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stdout


def test_a_browser_finds_no_error(hostile, tmp_path):
    write_influence_log(hostile / "influence.tsv.gz")
    path = tmp_path / "report.html"
    path.write_text(render(read_runs([str(hostile)])), encoding="utf-8")
    messages, dom = console(path, tmp_path)
    assert messages == []
    assert dom.count("<svg") == 4 + 7 + 2 and "alert(1)" in dom


def test_the_second_wall(html, tmp_path):
    """A script that had come in would not run, and the test above would see it."""
    path = tmp_path / "report.html"
    path.write_text(html.replace("</header>", "<script>document.title = 'it ran'</script></header>"), encoding="utf-8")
    messages, dom = console(path, tmp_path)
    assert "it ran</title>" not in dom and any("Content Security Policy" in message for message in messages)
