"""A run's checkpoint: everything that the next epoch depends on, read without executing anything."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from fairseq_l2rw.errors import L2RWError

FILE = "checkpoint_last.pt"
#: options that may change when a run goes on: they decide no number
FREE = ("save_dir", "tensorboard_logdir", "root", "download", "labels", "compare", "cpu", "compile")


def save(folder: Path, state: dict) -> None:
    """Writes ``checkpoint_last.pt``, at once or not at all."""
    part = folder / f"{FILE}.part"  # one name: what a killed save left there, the next one overwrites
    try:
        torch.save(state, part)
        part.replace(folder / FILE)
    finally:
        part.unlink(missing_ok=True)


def load(folder: Path, config: dict) -> dict | None:
    """The state in a run's folder; None where there is none.

    Raises:
        L2RWError: it is damaged, of something else, or of a run with other options.
    """
    file = folder / FILE
    if not file.exists():
        return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        before = state["config"]
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise L2RWError(f"{file}: no checkpoint of this command, or damaged ({reason}); remove it or give another --save-dir") from error
    for name, value in config.items():
        if name not in FREE and before.get(name) != value:
            option = "--" + name.replace("_", "-")
            if name not in before:
                raise L2RWError(f"{file}: of a version that had no {option}; give another --save-dir")
            raise L2RWError(
                f"{file}: that run had {option} {before.get(name)}, this one {value}; "
                "go on with its options or give another --save-dir"
            )
    return state
