"""What lies in the folder of a run; everything but the folder itself may be missing."""

import glob
import json
import os
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence

from fairseq_l2rw.corpus import influence_log
from fairseq_l2rw.corpus.lines import read_labels
from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.report import image_log
from fairseq_l2rw.report.over_time import WeightHistory, summarize
from fairseq_l2rw.report.pairs import Labels, PairTable, read_table
from fairseq_l2rw.report.training_log import TrainingLog, read_log

LOG, WEIGHTS, LABELS = "train.log", "weights.tsv", "train.labels.tsv"


@dataclass
class Run:
    """A run.

    Attributes:
        path: its folder.
        name: the end of the path by which it differs from the other runs.
        log: of the training; None without a log.
        scores: split -> metric -> ``{"score": ..., "signature": ...}``.
        table: weights of all pairs, or None.
        history: weights over time, or None.
        files: what was read, for the reader of the report.
    """

    path: str
    name: str
    log: Optional[TrainingLog] = None
    scores: Dict[str, Dict[str, dict]] = field(default_factory=dict)
    table: Optional[PairTable] = None
    history: Optional[WeightHistory] = None
    files: List[str] = field(default_factory=list)

    def option(self, name: str) -> object:
        """Value of ``section.name``; None where it is not known."""
        return self.log.option(name) if self.log else None


def read_runs(folders: Sequence[str], labels: Optional[str] = None) -> List[Run]:
    """Reads the folders of several runs.

    Args:
        folders: one for each run.
        labels: label file of the raw training text; None looks for the one that the data of each run came with.

    Raises:
        L2RWError: a folder that is none, in which there is nothing to report, or a damaged file in one.
    """
    return [_read_run(folder, name, labels) for folder, name in zip(folders, short_names(folders))]


def short_names(paths: Sequence[str]) -> List[str]:
    """The shortest ends of the paths that differ: ``a/deep b/deep`` stay, of ``a/deep a/uniform`` the last part is enough."""
    parts = [os.path.abspath(path).split(os.sep) for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise L2RWError(f"RUN_DIR {', '.join(paths)}: the same folder twice; give each run once")


def _read_run(folder: str, name: str, labels_path: Optional[str]) -> Run:
    if not os.path.isdir(folder):
        raise L2RWError(f"RUN_DIR {folder}: no such folder; give the --save-dir of a training")
    run = Run(folder, name)
    metrics = os.path.join(folder, image_log.METRICS)
    if os.path.isfile(metrics):
        run.log = image_log.read_image_log(folder)
        run.history = image_log.read_image_history(folder)
        if scores := image_log.read_image_scores(folder):
            run.scores["test images"] = scores
        _note(run, metrics)
    elif log := _find_log(folder):
        run.log = read_log(_note(run, log))
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*eval", "*.json"))):
        _read_scores(run, path)
    weights = _first(os.path.join(folder, WEIGHTS + ending) for ending in ("", ".gz", ".zst"))
    history = _find_influence_log(run)
    if weights or history:
        labels = _read_labels(run, labels_path)
        if weights:
            run.table = read_table(_note(run, weights), labels)
        if history:
            run.history = summarize(influence_log.read_log(_note(run, history)), labels)
    if not run.files:
        inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and _is_run(entry.path))
        remedy = (
            f"give {' '.join(os.path.join(folder, name) for name in inner)}"
            if inner
            else "give a training's --save-dir"
        )
        raise L2RWError(f"RUN_DIR {folder}: no {LOG}, no {WEIGHTS} and no scores (eval/*.json) in it; {remedy}")
    return run


def _is_run(folder: str) -> bool:
    return _find_log(folder) is not None or os.path.isfile(os.path.join(folder, image_log.METRICS))


def _find_log(folder: str) -> Optional[str]:
    path = os.path.join(folder, LOG)
    return path if os.path.isfile(path) else _first(sorted(glob.glob(os.path.join(glob.escape(folder), "*.log"))))


def _find_influence_log(run: Run) -> Optional[str]:
    """The log that the options name, or one in the folder under the usual name."""
    named = run.option("task.influence_log")
    inside = sorted(glob.glob(os.path.join(glob.escape(run.path), "influence*.gz")))
    return _first([*inside, *(_places(run, str(named)) if named else [])])


def _places(run: Run, path: str) -> List[str]:
    """Where a relative path of the options may lie: the training ran in a folder that nobody wrote down."""
    folders = [os.curdir, os.path.abspath(run.path)]
    while os.path.dirname(folders[-1]) != folders[-1]:
        folders.append(os.path.dirname(folders[-1]))
    return [os.path.join(folder, path) for folder in folders]


def _read_labels(run: Run, path: Optional[str]) -> Optional[Labels]:
    """Labels from the given file, else from the folder of the run, else from the data that it was trained on."""
    if path is None:
        data = str(run.option("task.data") or "").split(os.pathsep)[0]
        folders = [data, os.path.dirname(data)] if data else []  # the second: of DATA/shard0
        copies = [place for folder in folders for place in _places(run, os.path.join(folder, "raw", LABELS))]
        path = _first([os.path.join(run.path, LABELS), *copies])
    return Labels(read_labels(_note(run, path))) if path else None


def _read_scores(run: Run, path: str) -> None:
    """Adds what ``evaluate`` wrote; another JSON file is left alone."""
    try:
        with open(path, encoding="utf-8") as handle:
            result = json.load(handle)
    except (ValueError, RecursionError):
        return
    if not isinstance(result, dict):
        return
    scores = {
        metric: entry
        for metric, entry in result.items()
        if isinstance(entry, dict) and isinstance(entry.get("score"), (int, float))
    }
    if scores:
        folder, split = os.path.basename(os.path.dirname(path)), os.path.splitext(os.path.basename(path))[0]
        run.scores[split if folder == "eval" else f"{split}, {folder.removesuffix('.eval')}"] = scores
        _note(run, path)


def _first(paths) -> Optional[str]:
    return next((path for path in paths if os.path.isfile(path)), None)


def _note(run: Run, path: str) -> str:
    run.files.append(path)
    return path
