"""What the integration tests share: a tiny corpus and a few tiny trainings, each made once a session."""

import shutil

import pytest

from fairseq_l2rw.corpus.prepare import Settings, prepare
from fairseq_l2rw.corpus.toy import write_toy
from integration.commands import SMOOTHED, TEACHER, TRANSFORMER, train

SIZES = {"train": 600, "valid": 60, "test": 24}
NOISE = {"misaligned": 0.25, "untranslated": 0.25}
DROPPED = 5  # raw line of the training text
HALF, WHOLE = 10, 18  # updates; both fall into the middle of an epoch, of the first and of the second


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder with raw text."""
    folder = tmp_path_factory.mktemp("Übung mit Leerraum") / "corpus"  # every test then has such a path
    write_toy(str(folder), "de", "en", SIZES, seed=1, noise=NOISE)
    target = folder / "train.en"
    lines = target.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[DROPPED] = "\n"  # a pair that `prepare` cleans away
    target.write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data(corpus):
    """A folder that ``fairseq-l2rw prepare`` makes of it."""
    folder = corpus.parent / "data"
    prefixes = {split: str(corpus / split) for split in SIZES}
    prepare(str(folder), prefixes, Settings("de", "en", vocab_size=300, meta_size=30))
    return folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder of the shared trainings."""
    return tmp_path_factory.mktemp("Läufe 2")


@pytest.fixture(scope="session")
def plain(data, runs):
    """Save folder of a training under fairseq's own task, with checkpoints at 6, 12, 18 and 20 updates."""
    save = runs / "plain"
    train(data, save, *TRANSFORMER, *SMOOTHED, "--save-interval-updates", 6, "--max-update", 20, task="translation")
    return save


@pytest.fixture(scope="session")
def deep_options():
    """Options of the shared training with the deep teacher, and of all that go on from it."""
    return [*TRANSFORMER, *SMOOTHED, *TEACHER, "--save-interval-updates", HALF, "--max-update", WHOLE]


@pytest.fixture(scope="session")
def deep(data, runs, deep_options):
    """The deep teacher, trained at one go: ``(Run, save folder)``; there are checkpoints at HALF and at WHOLE."""
    save = runs / "deep"
    return train(data, save, *deep_options, "--tensorboard-logdir", runs / "tensorboard"), save


@pytest.fixture(scope="session")
def half_way(deep):
    """Path of the checkpoint of the shared training at HALF updates."""
    return deep[1] / f"checkpoint_1_{HALF}.pt"


@pytest.fixture(scope="session")
def resumed(data, runs, deep_options, half_way):
    """The same training, cut off at HALF and gone on with in a second process: ``(Run, save folder)``."""
    save = runs / "resumed"
    save.mkdir()
    shutil.copy(half_way, save / "checkpoint_last.pt")
    return train(data, save, *deep_options, "--log-format", "simple"), save


@pytest.fixture(scope="session")
def last(deep):
    """The last checkpoint of the shared training."""
    return deep[1] / "checkpoint_last.pt"
