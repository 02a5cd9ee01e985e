"""fairseq's own exceptions in one line; each text is fairseq's, found in its source."""

from pathlib import Path

import fairseq
import pytest

from fairseq_l2rw.translation.fairseq_errors import _KNOWN, explain

CASES = {
    "Cannot load model parameters from checkpoint a b.pt; please ensure that the architectures match.": "a b.pt: its parameters do not",
    "Model file not found: x.pt": "x.pt: no such file; give a checkpoint",
    "Could not infer language pair, please provide it explicitly": "no binarised data found in DATA; give",
    "Must specify batch size either with --max-tokens or --batch-size": "no size of a batch; give --max-tokens or --batch-size",
    "--cpu-offload requires --ddp-backend=fully_sharded": "--cpu-offload: fairseq has it with --ddp-backend fully_sharded only; leave it",
    "Dataset not found: dev (data bin)": "data bin: no binarised split 'dev'; ",
    "Size of sample #7 is invalid (=(9, 8)) since max_positions=(5, 5), skip this example with --skip-invalid":
        "pair 7 (counted from 0) of a split is longer ((9, 8)) than the model takes ((5, 5)); give --skip-invalid",
}  # fmt: skip


def test_each_has_a_line():
    lines = [explain(Exception(text)) for text in CASES]
    assert all(line.startswith(start) for line, start in zip(lines, CASES.values()))
    assert len(CASES) == len(_KNOWN)


def test_the_texts_are_fairseqs():
    folder = Path(fairseq.__file__).parent
    files = ["trainer.py", "checkpoint_utils.py", "tasks/translation.py", "data/data_utils.py", "../fairseq_cli/train.py"]
    source = " ".join((folder / name).read_text(encoding="utf-8") for name in files).replace('"\n', "")
    for fragment in ("Cannot load model parameters from checkpoint {}; ", "Model file not found: {}", "Could not infer language pair, ",
                     "Must specify batch size either with --max-tokens", "Dataset not found: {} ({})",
                     "--cpu-offload requires --ddp-backend=fully_sharded",
                     "Size of sample #{} is invalid (={}) since max_positions={}, "):  # fmt: skip
        assert fragment in source


def test_a_missing_file():
    error = FileNotFoundError(2, "No such file or directory", "dict.de.txt")
    assert explain(error) == "dict.de.txt: no such file or folder; check the path"


@pytest.mark.parametrize("error", [ValueError("other"), KeyError("Model file not found"), FileNotFoundError("no name")])
def test_all_else_keeps_its_traceback(error):
    assert explain(error) is None
