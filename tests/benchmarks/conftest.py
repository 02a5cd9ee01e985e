"""One tiny queue of trainings that the tests of the experiments share."""

import pytest

from benchmarks import noisy_bitext

FIGURES = "figures need matplotlib: pip install '.[benchmarks]'"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folder of ``benchmarks.noisy_bitext --size tiny``, with four trainings that are done."""
    pytest.importorskip("matplotlib", reason=FIGURES)
    out = tmp_path_factory.mktemp("queue") / "out"
    only = "mixed/uniform,mixed/deep,mixed/l2r,mixed/told"
    assert noisy_bitext.main(["--size", "tiny", "--out", str(out), "--stages", "1,3,6", "--only", only]) == 0
    return out
