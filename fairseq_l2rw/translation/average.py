"""The mean of several checkpoints of one training, as NMT recipes take it before they translate.

The result holds what translating needs, the student and its configuration. The optimizer's state is left out, because its
moments belong to one checkpoint, and so is the teacher: its statistics and its replayed rows do as well, and a mean of
them would weigh pairs by states that no student ever had.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
from pathlib import Path
from typing import Sequence

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.translation.checkpoint import allow_fairseq_globals, explain_unreadable, refuse_code

logger = logging.getLogger(__name__)

TASK_STATE = "L2RWTranslationTask"  # where the teacher is in a checkpoint's extra_state
_NAMES = {"epoch": re.compile(r"checkpoint(\d+)\.pt"), "update": re.compile(r"checkpoint_\d+_(\d+)\.pt")}


def last_checkpoints(folder: str, count: int, by: str | None = None) -> list[str]:
    """The last `count` checkpoints of a save folder, oldest first.

    Args:
        by: ``epoch`` (checkpointN.pt) or ``update`` (checkpoint_E_N.pt); None takes the kind that is there.

    Raises:
        L2RWError: there are fewer, or both kinds are there and `by` does not say which.
    """
    found = {kind: [] for kind in _NAMES}
    for name in os.listdir(folder):
        for kind, pattern in _NAMES.items():
            if match := pattern.fullmatch(name):
                found[kind].append((int(match[1]), os.path.join(folder, name)))
    if by is None:
        there = [kind for kind in found if found[kind]]
        if len(there) == 2:
            raise L2RWError(
                f"{folder}: checkpoints of epochs and of updates are there; choose with --by epoch or --by update"
            )
        by = there[0] if there else "epoch"
    if len(found[by]) < count:
        raise L2RWError(
            f"--last {count}: {folder} has {len(found[by])} checkpoints of single {by}s (checkpoint_last.pt and "
            "checkpoint_best.pt are copies); give a smaller number, or keep more of them in training"
        )
    return [path for _, path in sorted(found[by])[-count:]]


def average_checkpoints(paths: Sequence[str], out: str) -> dict[str, object]:
    """Writes the mean of the students of `paths` to `out`.

    Summed in float64 and rounded once to the parameter's own type. Tensors of whole numbers (counters) are those of the
    last checkpoint named; tied parameters stay tied. One checkpoint is in memory at a time.

    Returns:
        ``out``, ``checkpoints``, ``updates`` and ``left_out``, to be printed.

    Raises:
        L2RWError: a file is no checkpoint, or of another model than the first (the parameter is named).
    """
    allow_fairseq_globals()
    sums: dict[str, torch.Tensor] = {}
    updates = []
    for path in paths:
        state = _load(path)
        model = state["model"]
        if sums:
            _check_same_model(paths[0], sums, path, model)
        for name, value in model.items():
            if not value.is_floating_point():
                sums[name] = value
            elif name in sums:
                sums[name] += value.double()
            else:
                sums[name] = value.to(torch.float64, copy=True)
        updates.append(state["optimizer_history"][-1]["num_updates"] if state.get("optimizer_history") else None)
    state["model"] = _means(sums, model, len(paths))
    left_out = ["optimizer"] if state.pop("last_optimizer_state", None) else []
    if state.get("extra_state", {}).pop(TASK_STATE, None) is not None:
        left_out.append("teacher")
        logger.info("the teacher is left out of the mean: weigh pairs with one of the checkpoints themselves")
    _save(state, out)
    return {"out": out, "checkpoints": list(paths), "updates": updates, "left_out": left_out}


def _load(path: str) -> dict:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state["model"], dict):
            raise TypeError("its model is no dictionary")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise L2RWError(explain_unreadable(path, error)) from error
    refuse_code(path, state)
    return state


def _check_same_model(first: str, sums: dict, path: str, model: dict) -> None:
    names = sorted(set(sums) ^ set(model))
    names += [name for name in sums if name in model and sums[name].shape != model[name].shape]
    if names:
        raise L2RWError(f"{path}: another model than {first} ({names[0]} differs); give checkpoints of one training")


def _means(sums: dict[str, torch.Tensor], model: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """Means under the names of `model`; what is one tensor there is one here."""
    means, known = {}, {}
    for name, value in model.items():
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
        if place not in known or not value.numel():
            known[place] = (sums[name] / count).to(value.dtype) if value.is_floating_point() else sums[name]
        means[name] = known[place]
    return means


def _save(state: dict, out: str) -> None:
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        torch.save(state, partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
