"""`meta` knows torch only, and imports point downwards only."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fairseq_l2rw"
#: what each layer may import of this package
MAY = {
    "errors.py": (),
    "meta": ("errors", "meta"),
    "corpus": ("errors", "corpus"),
    "vision": ("errors", "meta", "vision"),
    "translation": ("errors", "meta", "corpus", "translation"),
}

# any import of fairseq, or of a part of it, ends the script
TRAIN = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
import torch
from tests.meta.harness import fresh, make_trainer, run_update
from tests.oracles import toy_batch

student, optimizer = fresh(lambda p: torch.optim.Adam(p, lr=0.01))
settings = dict(objective="contrastive", contrast={{"rotated": 0.5}}, replay=2, prior_strength=0.1)
trainer = make_trainer(student, optimizer, **settings)
for t in range(4):
    report = run_update(trainer, [toy_batch(5, t)], t, 1.0, updates=t)[0]
print(report.head, report.gradient_norm > 0, "fairseq" in sys.modules)
"""


def run(*blocked):
    return subprocess.run(
        [sys.executable, "-c", TRAIN.format(blocked=blocked)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_meta_trains_without_fairseq():
    done = run("fairseq", "omegaconf", "hydra")
    assert done.stdout.split() == ["rotated", "True", "False"], done.stderr


def test_the_block_works():  # negative control
    assert "blocked: torch" in run("torch").stderr


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("layer", MAY)
def test_imports_point_downwards(layer):
    path = PACKAGE / layer
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == "fairseq_l2rw":
                assert parts[1:2] == [] or parts[1] in MAY[layer], f"{file.relative_to(ROOT)} imports {name}"
            if layer in ("errors.py", "meta"):
                assert parts[0] not in ("fairseq", "omegaconf", "numpy"), f"{file.relative_to(ROOT)} imports {name}"
            if layer == "vision":
                assert parts[0] not in ("fairseq", "omegaconf"), f"{file.relative_to(ROOT)} imports {name}"
