"""What every result carries: machine, versions, date, configuration; as JSON and as a table."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from fairseq_l2rw.corpus.bitext import writing

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "fairseq-fixed", "numpy", "sacrebleu", "sentencepiece", "scikit-learn", "higher")


def environment() -> dict:
    """Machine, versions, commit and date, as JSON takes them."""
    cuda = torch.cuda.is_available()
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(ROOT),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
    }


def write_json(path: str | os.PathLike, configuration: dict, results: object) -> None:
    """Writes ``environment``, ``command``, ``configuration`` and ``results`` to a file, at once or not at all."""
    content = {
        "environment": environment(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "configuration": configuration,
        "results": results,
    }
    with writing(os.fspath(path)) as (out,):
        out.write(json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n")


def table(rows: list[dict], columns: list[str] | None = None, digits: int = 3) -> str:
    """A Markdown table.

    Args:
        rows: column -> value; a missing value, or None, is an empty cell.
        columns: their order; default: that of their first appearance.
        digits: after the point, of floats.
    """
    columns = columns or list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name), digits) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells)]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in [columns, *cells]]
    lines.insert(1, "| " + " | ".join("-" * max(width, 3) for width in widths) + " |")
    return "\n".join(lines)


def _cell(value, digits):
    if value is None:
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _plain(value):
    """numpy's and torch's numbers, and paths."""
    return value.item() if hasattr(value, "item") else str(value)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit(folder: str | os.PathLike) -> str | None:
    """Of a checkout, with a plus where it has changes; None where the folder is none."""
    if not Path(folder, ".git").exists():  # nor may it be one of a checkout's folders
        return None
    git = ["git", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changes.strip() else "")


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
