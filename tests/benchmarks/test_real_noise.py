"""The noise of the real web, on toy texts laid out like the real ones."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import real_noise
from benchmarks.real_noise import auc_rows, judged_detectors, make_texts
from fairseq_l2rw.corpus.toy import write_toy
from fairseq_l2rw.errors import L2RWError

LABELS = ["V", "A", "V", "L", "MT"] * 4


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("matplotlib", reason="figures need matplotlib: pip install '.[benchmarks]'")
    folder = tmp_path_factory.mktemp("real") / "data"
    for name, sizes in (("tatoeba", {"train": 400, "valid": 20, "test": 20}), ("ted", {"train": 60, "valid": 20, "test": 20}),
                        ("wiki_postedit", {"train": 50, "valid": 20, "test": 20})):  # fmt: skip
        write_toy(str(folder / name), "en", "de", sizes, seed=len(name))
        for lang in ("en", "de"):
            if name == "tatoeba":
                (folder / name / f"valid.{lang}").rename(folder / name / f"val.{lang}")
            else:
                (folder / name / f"train.{lang}").rename(folder / name / f"dev.{lang}")
    lines = [["v3", f"word {i}", f"Wort {i}", str(i / 20), label] for i, label in enumerate(LABELS)]
    (folder / "paracrawl_human").mkdir()
    with gzip.open(folder / "paracrawl_human" / "v3.tsv.gz", "wt", encoding="utf-8") as handle:
        handle.writelines("\t".join(cells) + "\n" for cells in [["release", "en", "de", "bicleaner", "label"], *lines])
    return folder


def test_the_queue(data, tmp_path, capsys):
    assert real_noise.main(["--data", str(data), "--out", str(tmp_path), "--size", "tiny", "--only", "half/deep-ted"]) == 0
    content = json.loads((tmp_path / "results.json").read_text())["results"]
    detectors = {row["detector"]: row for row in content["judged"]}
    assert {"bicleaner", "weight", "loss per token"} <= set(detectors)
    assert detectors["weight"]["pairs"] == len(LABELS) and 0 <= detectors["weight"]["A, L against V"] <= 1
    (means,) = content["mean weights by judgement"].values()
    assert set(means) == set(LABELS) and all(0 < mean < 1 for mean in means.values())
    for name in ("judged_auc", "over_time_mean", "over_time_auc"):
        assert (tmp_path / "figures" / f"{name}.png").exists() and (tmp_path / "figures" / f"{name}.svg").exists()
    assert "A, L against the rest" in capsys.readouterr().out


def test_texts(data, tmp_path):
    texts = make_texts(data, tmp_path)
    dev, scored = ((tmp_path / f"{name}.en").read_text().splitlines() for name in ("ted-dev", "ted-scored"))
    assert dev + scored == (data / "ted" / "dev.en").read_text().splitlines() and len(dev) == len(scored) == 30
    assert texts["ted-dev"] == str(tmp_path / "ted-dev")
    assert (tmp_path / "judged.de").read_text().splitlines() == [f"Wort {i}" for i in range(20)]


def test_detectors_and_their_auc(tmp_path):
    rows = [{"bicleaner": "0.9"}, {"bicleaner": "0.1"}, {"bicleaner": "0.8"}]
    (tmp_path / "judged.tsv").write_text("id\tweight\tweight_a\tloss\tsource\n0\t0.9\t0.8\t1.5\tx\n2\t0.2\t0.3\t2.5\ty\n1\t\t\t\tz\n")
    found = judged_detectors(tmp_path, rows)
    assert list(found) == ["bicleaner", "weight", "weight a", "loss per token"]
    assert found["weight"][[0, 2]].tolist() == [-0.9, -0.2] and np.isnan(found["weight"][1])
    assert found["loss per token"][0] == 1.5 and found["bicleaner"][1] == pytest.approx(0.9)
    row = next(r for r in auc_rows("x", found, np.array(["V", "A", "L"])) if r["detector"] == "weight")
    assert (row["pairs"], row["L against V"], row["A against V"], row["A, L against V"]) == (2, 1.0, None, 1.0)
    row = auc_rows("x", found, np.array(["V", "A", "MT"]))[0]
    assert row["A, L against the rest"] == 1.0 and row["L against V"] is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(L2RWError, match=r"tatoeba/train.en: no such file"):
        real_noise.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])
