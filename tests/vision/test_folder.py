"""Folders of images, and labels that people gave."""

import gzip
from pathlib import Path

import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision import folder, labels, sources
from fairseq_l2rw.vision.config import VisionConfig
from fairseq_l2rw.vision.data import DataSet, ImageSet, cut

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the tests of image folders are left out")

REAL = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def lay_out(root: Path, classes=("cat", "dog"), train=6, test=2, size=(4, 4)) -> Path:
    for split, count in (("train", train), ("test", test)):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", size, (10 * c, 20 * i, 30)).save(root / split / name / f"{i:04}.png")
    return root


def test_images_classes_and_names(tmp_path):
    data = folder.read(str(lay_out(tmp_path)))
    assert data.classes == ("cat", "dog")
    assert data.train.images.shape == (12, 3, 4, 4) and data.test.images.shape == (4, 3, 4, 4)
    assert data.train.names[7] == "dog/0001.png" and int(data.train.labels[7]) == 1
    assert data.train.images[7, :, 0, 0].tolist() == [10, 20, 30]


def test_image_size(tmp_path):
    lay_out(tmp_path)
    wide = Image.new("RGB", (12, 6))
    wide.paste((255, 255, 255), (4, 0, 8, 6))  # the middle
    wide.save(tmp_path / "train" / "cat" / "wide.png")
    with pytest.raises(L2RWError, match=r"wide.png is not square \(12 x 6 pixels\): give --image-size N"):
        folder.read(str(tmp_path))
    data = folder.read(str(tmp_path), 6)
    assert data.train.images.shape == (13, 3, 6, 6)
    assert data.train.images[6, 0, 2].tolist() == [0, 255, 255, 255, 255, 0]
    Image.new("RGB", (5, 5)).save(tmp_path / "train" / "cat" / "wide.png")
    with pytest.raises(L2RWError, match="wide.png has .5, 5. pixels, .*0000.png .4, 4.: give --image-size N"):
        folder.read(str(tmp_path))


def test_bad_folders(tmp_path):
    with pytest.raises(L2RWError, match="give --root"):
        folder.read(None)
    with pytest.raises(L2RWError, match=f"there is no folder {tmp_path}/train"):
        folder.read(str(tmp_path))
    lay_out(tmp_path)
    (tmp_path / "test" / "bird").mkdir()
    with pytest.raises(L2RWError, match="test/bird: train has no class of that name"):
        folder.read(str(tmp_path))
    (tmp_path / "test" / "bird").rmdir()
    (tmp_path / "train" / "cat" / "bad.jpg").write_text("no image")
    with pytest.raises(L2RWError, match="bad.jpg: not a readable image"):
        folder.read(str(tmp_path))


TABLE = "file\tlabel\tworst\tnamed\n" + "".join(
    f"{c}/{i:04}.png\t{int(c == 'dog')}\t{int(i < 2)}\t{'dog' if i < 2 else 'cat'}\n" for c in ("cat", "dog") for i in range(6)
)


@pytest.mark.parametrize("column", ["worst", "named"])
@pytest.mark.parametrize("packed", [False, True])
def test_labels_that_people_gave(tmp_path, column, packed):
    file = tmp_path / ("labels.tsv.gz" if packed else "labels.tsv")
    (gzip.open if packed else open)(file, "wt").write(TABLE)
    config = VisionConfig(data="folder", root=str(lay_out(tmp_path)), labels=str(file), label_column=column)
    parts = cut(sources.read(config), 4, 0, 0, "none", 1)
    for name, label, truth in zip(parts.train.names, parts.train.labels.tolist(), parts.train.truth.tolist()):
        assert label == int(int(name[4:8]) < 2) and truth == int(name.startswith("dog"))
    assert parts.wrong.any() and torch.equal(parts.meta.labels, parts.meta.truth)
    assert torch.equal(parts.meta.truth, torch.tensor([int(n.startswith("dog")) for n in parts.meta.names]))


@pytest.mark.parametrize(
    ("table", "column", "message"),
    [
        (TABLE, None, "--label-column: .* choose one of file, label, worst, named"),
        (TABLE, "best", "no column 'best'"),
        (TABLE.replace("file", "name", 1), "worst", "no column 'file'"),
        (TABLE.replace("cat/0003.png", "cat/3.png"), "worst", r"no row for cat/0003.png \(nor for 0 other"),
        (TABLE.replace("\t0\t1\t", "\t0\t2\t", 1), "worst", "line 2: '2' is neither"),
    ],
)
def test_bad_labels(tmp_path, table, column, message):
    data = folder.read(str(lay_out(tmp_path)))
    (tmp_path / "t.tsv").write_text(table)
    with pytest.raises(L2RWError, match=message):
        labels.join(data, str(tmp_path / "t.tsv"), column)


def test_labels_exclude_noise(tmp_path):
    with pytest.raises(L2RWError, match="give one of the two"):
        sources.read(VisionConfig(data="folder", root=str(tmp_path), labels="x.tsv", label_column="a", noise="flip:0.1"))


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data beside the checkout")
def test_real_labels_of_people():
    """CIFAR-10N's worst labels, as its authors describe them: 40.2 % wrong."""
    with gzip.open(REAL / "train.tsv.gz", "rt") as table:
        rows = [line.split("\t")[:2] for line in table][1:]
    truth = torch.tensor([int(label) for _, label in rows])
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    train = ImageSet(torch.zeros(len(rows), 3, 1, 1, dtype=torch.uint8), truth, truth, tuple(name for name, _ in rows))
    data = labels.join(DataSet("folder", classes, train, train), str(REAL / "train.tsv.gz"), "human_worst")
    parts = cut(data, 1000, 0, 0, "none", 1)
    assert float((data.train.labels != truth).double().mean()) == pytest.approx(0.402, abs=0.001)
    assert len(parts.meta) == 1000 and torch.equal(parts.meta.labels, parts.meta.truth)
