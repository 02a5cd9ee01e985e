"""Which tests go to one process where several run side by side (``pytest -n 2 --dist loadfile``)."""

from pathlib import Path

import pytest

#: files that need the queue of tiny trainings (benchmarks/conftest.py), which takes minutes to make
TINY = {f"test_{name}" for name in ("ablation", "noisy_bitext", "signal", "time_to_bleu")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Those of a file, which share its fixtures, and those of all files of TINY. (Groups of xdist 3.8 do nothing under pytest 9.)"""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "tiny" if Path(file).stem in TINY else file

    return Files(config, log)


def pytest_collection_modifyitems(items):
    found = {item.path.stem for item in items if "tiny" in item.fixturenames}
    assert found <= TINY, f"these need the queue of tiny trainings, too; add them to TINY: {found - TINY}"
