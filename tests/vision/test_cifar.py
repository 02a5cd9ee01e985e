"""The official archives: read without executing them, checked, and nothing else taken for them."""

import dataclasses
import hashlib
import io
import pickle
import tarfile

import numpy
import pytest
import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision import cifar, safe_pickle

IMAGES = 6


def batch(seed: int, labels: bytes, classes: int, **more) -> bytes:
    """A batch file, pickled in the protocol of Python 2 as the official ones are."""
    pixels = numpy.random.default_rng(seed).integers(0, 256, (IMAGES, 3072), dtype=numpy.uint8)
    content = {b"batch_label": b"testing", labels: [(seed + i) % classes for i in range(IMAGES)], b"data": pixels}
    content[b"filenames"] = [b"image_%d_%d.png" % (seed, i) for i in range(IMAGES)]
    return pickle.dumps({**content, **more}, protocol=2)


def lay_out(monkeypatch, name: str) -> dict[str, bytes]:
    """Files like the official ones, with their MD5 sums in place of the official ones."""
    official, classes = cifar.OFFICIAL[name], {"cifar10": 10, "cifar100": 100}[name]
    files = {file: batch(i, official.labels, classes) for i, file in enumerate([*official.train, *official.test])}
    names = [f"class {i}".encode() for i in range(classes)]
    files |= {file: pickle.dumps({official.class_names: names}, protocol=2) for file in official.meta}
    adopt(monkeypatch, name, files)
    return files


def adopt(monkeypatch, name, files):
    official = cifar.OFFICIAL[name]
    sums = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    parts = {part: {f: sums[f] for f in getattr(official, part)} for part in ("train", "test", "meta")}
    monkeypatch.setitem(cifar.OFFICIAL, name, dataclasses.replace(official, **parts))


def archive(path, name, files):
    folder = cifar.OFFICIAL[name].folder
    with tarfile.open(path / cifar.OFFICIAL[name].archive, "w:gz") as tar:
        for file, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def unpack(path, files):
    path.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (path / file).write_bytes(content)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_archive_folder_and_the_folder_itself_are_the_same(monkeypatch, tmp_path, name):
    files = lay_out(monkeypatch, name)
    archive(tmp_path, name, files)
    from_archive = cifar.read(name, str(tmp_path))
    folder = tmp_path / "elsewhere" / cifar.OFFICIAL[name].folder
    unpack(folder, files)
    for root in (folder.parent, folder):
        data = cifar.read(name, str(root))
        assert torch.equal(data.train.images, from_archive.train.images) and data.train.names == from_archive.train.names
    batches = len(cifar.OFFICIAL[name].train)
    assert len(data.train) == IMAGES * batches and len(data.test) == IMAGES
    assert data.classes[3] == "class 3"
    raw = pickle.loads(files[next(iter(cifar.OFFICIAL[name].train))], encoding="bytes")
    # a row is the red plane, the green one and the blue one, each row by row
    assert data.train.images[0, 1, 2, 3] == raw[b"data"][0, 1024 + 2 * 32 + 3]
    assert data.train.labels[:IMAGES].tolist() == raw[cifar.OFFICIAL[name].labels]


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    files = lay_out(monkeypatch, "cifar10")
    files["data_batch_2"] = batch(77, b"labels", 10)
    archive(tmp_path, "cifar10", files)
    with pytest.raises(L2RWError, match=r"data_batch_2: not the official file \(its MD5 sum is not .*kriz/cifar.html"):
        cifar.read("cifar10", str(tmp_path))


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_executed(monkeypatch, tmp_path):
    files = lay_out(monkeypatch, "cifar10")
    files["test_batch"] = batch(1, b"labels", 10, x=Attack(str(tmp_path / "owned")))
    adopt(monkeypatch, "cifar10", files)  # even if the sum were right
    unpack(tmp_path / "data", files)
    with pytest.raises(L2RWError, match=f"test_batch: not read, because .* it names {open.__module__}.open"):
        cifar.read("cifar10", str(tmp_path / "data"))
    assert not (tmp_path / "owned").exists()
    pickle.loads(files["test_batch"])  # negative control: an ordinary unpickler runs it
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps([1, 2]), "holds a list"),
        (b"not a pickle", "no pickle"),
        (pickle.dumps({b"a": 1})[:-3], "no pickle"),
        (pickle.dumps({b"a": {1, 2}}, protocol=2), "set"),
        (b"c_codecs\nencode\n(Vabc\nVzlib_codec\ntR.", "codec 'zlib_codec'"),
        (b"cnumpy\nload\n(Vabc\ntR.", "numpy.load"),
    ],
)
def test_what_a_pickle_may_hold(content, reason):
    with pytest.raises(L2RWError, match=f"some_file: not read.*{reason}"):
        safe_pickle.loads(content, "some_file")


def test_pickles_of_both_pythons_and_protocols():
    array = numpy.arange(6, dtype=numpy.uint8).reshape(2, 3)
    for protocol in range(2, 5):
        read = safe_pickle.loads(pickle.dumps({b"data": array, b"names": [b"a\xff"], b"n": 3}, protocol=protocol), "f")
        assert numpy.array_equal(read[b"data"], array) and read[b"names"] == [b"a\xff"] and read[b"n"] == 3


def test_missing_data_never_try_the_network(monkeypatch, tmp_path):
    def network(*_):
        raise AssertionError("network")

    monkeypatch.setattr(cifar.urllib.request, "urlretrieve", network)
    with pytest.raises(L2RWError) as error:
        cifar.read("cifar100", str(tmp_path))
    for part in ("cifar-100-python.tar.gz", str(tmp_path), "https://www.cs.toronto.edu/~kriz/cifar.html", "--download"):
        assert part in str(error.value)
    with pytest.raises(L2RWError, match="give --root"):
        cifar.read("cifar10", None)


def test_download(monkeypatch, tmp_path):
    files = lay_out(monkeypatch, "cifar10")
    (tmp_path / "page").mkdir()
    archive(tmp_path / "page", "cifar10", files)
    content = (tmp_path / "page" / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(cifar.urllib.request, "urlretrieve", lambda url, to: to.write_bytes(content))
    root = tmp_path / "root"
    with pytest.raises(L2RWError, match="not the official file"):  # the archive's own sum is still the official one
        cifar.read("cifar10", str(root), download=True)
    assert not list(root.iterdir())
    official = dataclasses.replace(cifar.OFFICIAL["cifar10"], archive_md5=hashlib.md5(content).hexdigest())
    monkeypatch.setitem(cifar.OFFICIAL, "cifar10", official)
    assert len(cifar.read("cifar10", str(root), download=True).test) == IMAGES
    assert [p.name for p in root.iterdir()] == ["cifar-10-python.tar.gz"]


def test_incomplete_and_damaged_archives(monkeypatch, tmp_path):
    files = lay_out(monkeypatch, "cifar10")
    archive(tmp_path, "cifar10", {f: c for f, c in files.items() if f != "data_batch_4"})
    with pytest.raises(L2RWError, match="cifar-10-batches-py/data_batch_4 is not in it"):
        cifar.read("cifar10", str(tmp_path))
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(L2RWError, match="not a readable archive"):
        cifar.read("cifar10", str(tmp_path))
    (tmp_path / "data_batch_1").write_bytes(files["data_batch_1"])
    with pytest.raises(L2RWError, match="data_batch_2: missing"):
        cifar.read("cifar10", str(tmp_path))


def test_labels_out_of_range(monkeypatch, tmp_path):
    files = lay_out(monkeypatch, "cifar10")
    files["data_batch_1"] = pickle.dumps({**pickle.loads(files["data_batch_1"]), b"labels": [10] * IMAGES}, protocol=2)
    adopt(monkeypatch, "cifar10", files)
    unpack(tmp_path, files)
    with pytest.raises(L2RWError, match="data_batch_1: its labels do not fit"):
        cifar.read("cifar10", str(tmp_path))
