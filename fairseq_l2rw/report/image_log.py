"""The files of an image classifier's run (``fairseq-l2rw vision``), in the form that a translation run has here."""

import json
import math
import os
from typing import Dict, List, Optional

import numpy as np

from fairseq_l2rw.report.over_time import BINS, STRETCHES, WeightHistory
from fairseq_l2rw.report.training_log import Row, TrainingLog

METRICS, CONFIG, RESULT = "metrics.jsonl", "config.json", "result.json"
# Names of its figures that mean something else in a translation run: nats per image, not bits per token.
_RENAMED = {"loss": "image_loss", "meta_loss": "image_meta_loss"}
_PERCENT = ("accuracy", "valid_accuracy")
LABELS = ("clean", "wrong")


def read_image_log(folder: str) -> TrainingLog:
    """Figures by update, an entry an epoch, and the options."""
    entries = _read_entries(folder)
    options = _read_json(os.path.join(folder, CONFIG))
    return TrainingLog(
        options={
            ("task." if name.startswith(("teacher", "meta_", "skip_below")) else "vision.") + name: options[name] for name in options
        },
        train=[_row(entry) for entry in entries],
        done=os.path.isfile(os.path.join(folder, RESULT)),
        images=True,
    )


def read_image_scores(folder: str) -> Dict[str, dict]:
    """What the run came to, in percent; empty before its end."""
    result = _read_json(os.path.join(folder, RESULT))
    names = {"accuracy": "accuracy, %", "auc": "AUC of the weights, %"}
    return {title: {"score": 100 * result[name]} for name, title in names.items() if _is_number(result.get(name))}


def read_image_history(folder: str) -> Optional[WeightHistory]:
    """Histograms of the weights by whether the label is right; None with uniform weights."""
    entries = [entry for entry in _read_entries(folder) if _histograms(entry) is not None]
    if not entries:
        return None
    counts = np.stack([_histograms(entry) for entry in entries], axis=1)
    together = math.ceil(len(entries) / STRETCHES)
    counts = np.pad(counts, [(0, 0), (0, -len(entries) % together), (0, 0)])
    counts = counts.reshape(len(LABELS), -1, together, BINS).sum(2)
    return WeightHistory(LABELS, counts, max(1, together * round(entries[-1]["updates"] / len(entries))))


def _read_entries(folder: str) -> List[dict]:
    """The entries in order; a last line that is still being written is left out."""
    entries = []
    with open(os.path.join(folder, METRICS), encoding="utf-8", errors="replace") as handle:
        for line in handle:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                break
            if isinstance(entry, dict) and _is_number(entry.get("updates")):
                entries.append(entry)
    return entries


def _row(entry: dict) -> Row:
    row = {_RENAMED.get(name, name): float(value) for name, value in entry.items() if _is_number(value)}
    row.update({name: 100 * row[name] for name in _PERCENT if name in row})
    row["update"] = row.pop("updates")
    return row


def _histograms(entry: dict) -> Optional[np.ndarray]:
    weights = entry.get("weights")
    if not isinstance(weights, dict):
        return None
    shown = [weights.get(label) or [0] * BINS for label in LABELS]
    return np.array(shown) if all(len(counts) == BINS for counts in shown) else None


def _read_json(path: str) -> Dict[str, object]:
    try:
        with open(path, encoding="utf-8") as handle:
            content = json.load(handle)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
