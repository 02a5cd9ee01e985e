"""The example without fairseq learns, runs in seconds, and is short."""

import importlib.util
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "plain_torch.py"


def load():
    spec = importlib.util.spec_from_file_location("plain_torch", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_weights_find_the_wrong_labels_and_help():
    accuracy, auc = load().main()
    plain_accuracy, plain_auc = load().main(start=10**9)  # the teacher never learns: all weights stay 1
    assert accuracy > 0.9 and auc > 0.95
    assert plain_auc == 0.5
    assert accuracy > plain_accuracy + 0.03


def test_it_is_short():
    assert len(PATH.read_text(encoding="utf-8").splitlines()) < 60
