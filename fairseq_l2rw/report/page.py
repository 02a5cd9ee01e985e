"""The page: what the template is filled with."""

import datetime
import os
import shlex
import statistics
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fairseq_l2rw.corpus.bitext import writing
from fairseq_l2rw.report import charts
from fairseq_l2rw.report.pairs import CLEAN, UNKNOWN, PairTable, highest, lowest, read_pairs
from fairseq_l2rw.report.run import Run
from fairseq_l2rw.report.text import visible
from fairseq_l2rw.report.training_log import curve
from fairseq_l2rw.version import __version__

# Metric, title, unit, logarithmic.
CURVES = (
    ("image_loss", "Training loss", "nats per image, without the weights", False),
    ("accuracy", "Accuracy on the test images", "%", False),
    ("valid_accuracy", "Accuracy on the images for validation", "%", False),
    ("auc", "Weights as a detector of wrong labels", "area under the ROC curve", False),
    ("image_meta_loss", "Loss on the teacher's dev batches", "nats per image", False),
    ("meta_loss", "Loss on the teacher's dev batches", "bits per token, with label smoothing", False),
    ("w_mean", "Weights", "mean, and a standard deviation on either side", False),
    ("ess", "Effective sample size", "(Σw)² / (N Σw²)", False),
    ("teacher_gnorm", "Teacher's gradient norm", "logarithmic", True),
    ("gnorm", "Student's gradient norm", "before clipping, logarithmic", True),
    ("wps", "Speed", "target tokens per second", False),
    ("lr", "Learning rate", "of the student", False),
)
HEADER = ("task.teacher", "task.data", "vision.data", "vision.noise", "vision.model")
LOWER_IS_BETTER = ("TER",)
# Options by which two runs of one setting differ: seeds and places.
PLACES = (
    "seed", "save_dir", "tensorboard_logdir", "log_file", "influence_log", "plasma_path", "wandb_project", "restore_file",
    "distributed_init_method", "distributed_port", "distributed_rank", "device_id", "user_dir",
)  # fmt: skip
OPTION_GROUPS = (
    ("Teacher", ("task.teacher", "task.meta_", "task.weight_normalization", "task.influence_", "task.skip_below")),
    ("Student", ("model.arch", "model.encoder_layers", "model.decoder_layers", "model.encoder_embed_dim",
                 "model.encoder_ffn_embed_dim", "model.encoder_attention_heads", "model.dropout", "model.share_",
                 "criterion.")),
    ("Training", ("task._name", "task.data", "optimizer.", "lr_scheduler.", "optimization.max_update",
                  "optimization.max_epoch", "optimization.clip_norm", "optimization.update_freq", "dataset.max_tokens",
                  "dataset.batch_size", "dataset.train_subset", "dataset.valid_subset", "common.seed", "common.fp16",
                  "common.bf16", "common.cpu", "distributed_training.distributed_world_size")),
)  # fmt: skip


def write_page(runs: Sequence[Run], path: str, pairs: int = 10) -> None:
    """Writes the report of `runs` to `path`, with `pairs` sentence pairs in each list."""
    text = render(runs, pairs)
    with writing(path) as (out,):
        out.write(text)


def render(runs: Sequence[Run], pairs: int = 10) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(os.path.dirname(__file__)), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["text"] = visible
    return environment.get_template("page.html").render(
        runs=[_header(run) for run in runs],
        scores=[_scores(runs, split) for split in _ordered(split for run in runs for split in run.scores)],
        weights=[_weights(run) for run in runs if run.table or run.history],
        curves=_curves(runs),
        pairs=[{"run": run.name, "lists": _pair_lists(run.table, pairs)} for run in runs if run.table],
        options=_options(runs),
        files=[path for run in runs for path in run.files],
        missing=[note for run in runs for note in _missing(run)],
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
    )


def _header(run: Run) -> Dict[str, object]:
    facts: List[Tuple[str, object]] = []
    log = run.log
    if log:
        most = run.option("optimization.max_update")
        facts.append(("status", "finished" if log.done else "in progress or stopped"))
        facts.append(("update", f"{log.update:,}" + (f" of {most:,}" if isinstance(most, int) and most else "")))
        facts.append(("last line", log.time))
        known = [(name.split(".")[1], run.option(name)) for name in HEADER]
        facts = [(name, value) for name, value in facts + known if value not in (None, "")]
    return {"name": run.name, "path": run.path, "facts": facts}


def _scores(runs: Sequence[Run], split: str) -> Dict[str, object]:
    """A table of one split: a row for each run, the difference to the baseline, the best of each metric; means over seeds."""
    metrics = _ordered(metric for run in runs for metric in run.scores.get(split, ()))
    scored = [run for run in runs if split in run.scores]
    uniform = [run for run in scored if run.option("task.teacher") == "uniform"]
    baseline = (uniform or scored)[0]
    rows = []
    for run in scored:
        cells = []
        for metric in metrics:
            value, base = _score(run, split, metric), _score(baseline, split, metric)
            others = [score for other in scored if (score := _score(other, split, metric)) is not None]
            best = (min if metric in LOWER_IS_BETTER else max)(others)
            cells.append({
                "value": value,
                "best": len(set(others)) > 1 and value == best,
                "difference": value - base if None not in (value, base) and run is not baseline else None,
            })  # fmt: skip
        rows.append({"run": run.name, "number": runs.index(run), "cells": cells})
    signatures = _ordered(
        (metric, str(run.scores[split][metric].get("signature", ""))) for metric in metrics for run in scored
        if metric in run.scores[split]
    )  # fmt: skip
    return {
        "split": split, "metrics": metrics, "rows": rows, "baseline": baseline.name, "signatures": signatures,
        "lower": LOWER_IS_BETTER, "seeds": _over_seeds(scored, split, metrics),
    }  # fmt: skip


def _over_seeds(runs: Sequence[Run], split: str, metrics: Sequence[str]) -> List[Dict[str, object]]:
    """Mean and standard deviation for each setting, where one of them was run more than once."""
    groups: Dict[str, List[Run]] = {}
    for run in runs:
        if run.log and run.log.options:
            key = {name: value for name, value in run.log.options.items() if name.split(".")[1] not in PLACES}
            groups.setdefault(repr(sorted(key.items(), key=lambda item: item[0])), []).append(run)
    if not any(len(group) > 1 for group in groups.values()):
        return []
    rows = []
    for group in groups.values():
        cells = []
        for metric in metrics:
            values = [score for run in group if (score := _score(run, split, metric)) is not None]
            spread = statistics.stdev(values) if len(values) > 1 else None
            cells.append({"mean": statistics.fmean(values) if values else None, "spread": spread})
        rows.append(
            {"runs": [run.name for run in group], "teacher": group[0].option("task.teacher") or "", "cells": cells}
        )
    return rows


def _score(run: Run, split: str, metric: str) -> Optional[float]:
    entry = run.scores.get(split, {}).get(metric)
    return None if entry is None else float(entry["score"])


def _weights(run: Run) -> Dict[str, object]:
    """Whether the weights separate: a table by label, and charts."""
    table, history = run.table, run.history
    shown = {
        "run": run.name,
        "rows": [],
        "kinds": [],
        "heads": [],
        "charts": [],
        "history": [],
        "auc": None,
        "dropped": {},
    }
    if history:
        shown["history"] = charts.history_charts(history, "histogram of the weights over time")
    shown["labelled"] = bool(table and table.kinds) or len(shown["history"]) > 1
    if not table:
        return shown
    shown.update(kinds=table.kinds, heads=list(table.heads), dropped=table.dropped, auc=table.auc())
    rows = [_weight_row(table, kind, number) for number, kind in enumerate(table.kinds or ("",))]
    shown["rows"] = [row for row in rows if row["pairs"]]
    shown["charts"].append(("How the weights are spread", charts.weight_histogram(table, "histogram of the weights")))
    title = "What is left of each label" if table.kinds else "Where a threshold would cut"
    shown["charts"].append((title, charts.kept_chart(table, "what is left when the best part of the corpus is kept")))
    if len(table.losses):
        chart = charts.weight_against(table, table.losses, "loss, nats per target token", "weight against loss")
        shown["charts"].append(("Weight against loss", chart))
    if len(table.lengths):
        unit = f"target length, {table.length_unit}"
        chart = charts.weight_against(table, table.lengths, unit, "weight against length", log=True)
        shown["charts"].append(("Weight against length", chart))
    return shown


def _weight_row(table: PairTable, kind: str, number: int) -> Dict[str, object]:
    mask = table.of_kind(kind) if kind else np.ones(len(table.weights), dtype=bool)
    if not mask.any():
        return {"pairs": 0}
    weights = table.weights[mask]
    return {
        "kind": kind,
        "number": number,
        "pairs": int(mask.sum()),
        "mean": float(weights.mean()),
        "median": float(np.median(weights)),
        "below": float((weights < 0.5).mean()),
        "auc": table.auc(kind) if kind not in ("", CLEAN, UNKNOWN) else None,
        "heads": [float(column[mask].mean()) for column in table.heads.values()],
    }


def _curves(runs: Sequence[Run]) -> List[Tuple[str, str, object]]:
    """Title, note and chart of every metric that a log has; both losses in one."""
    logs = [(number, run.log) for number, run in enumerate(runs) if run.log]
    starts = {run.option("task.meta_start") for run in runs if run.option("task.teacher") not in (None, "uniform")}
    start = starts.pop() if len(starts) == 1 else None
    end = max((log.update for _, log in logs), default=0)
    shown = []
    lines = [charts.Line(*curve(log.train, "nll_loss"), number) for number, log in logs]
    lines += [charts.Line(*curve(log.valid, "nll_loss"), number, dots=True) for number, log in logs]
    if lines := [line for line in lines if len(line.x)]:
        shown.append(("Training and validation loss", "bits per token; line: training, dots: validation",
                      charts.line_chart(lines, "training and validation loss", end, start=start)))  # fmt: skip
    for name, title, unit, log_scale in CURVES:
        lines = []
        for number, log in logs:
            x, y = curve(log.train, name)
            spread = curve(log.train, "w_std")[1] if name == "w_mean" else []
            if x and not (log_scale and min(y) <= 0):
                lines.append(charts.Line(x, y, number, spread=spread if len(spread) == len(x) else ()))
        if lines:
            shown.append((title, unit, charts.line_chart(lines, title.lower(), end, log_scale, start)))
    return shown


def _pair_lists(table: PairTable, count: int) -> List[Dict[str, object]]:
    """Lists of pairs with a title: the extremes; with labels, what the weights got wrong; the lowest of each head."""
    lists = [("Lowest weights", "", lowest(table, count), True), ("Highest weights", "", highest(table, count), True)]
    if table.kinds and table.spoilt().any():
        rows = lowest(table, count, table.of_kind(CLEAN))
        lists.append(("Put down though clean", "label clean, lowest weights", rows, False))
        rows = highest(table, count, table.spoilt())
        lists.append(("Kept though spoilt", "any other label, highest weights", rows, False))
    if table.heads:
        least = np.argmin(np.stack(list(table.heads.values())), axis=0)
        for number, head in enumerate(table.heads):
            note = "lowest weights of the pairs of which this head thinks least"
            lists.append((f"Head {head}", note, lowest(table, count, least == number), False))
    found = read_pairs(table, (row for _, _, rows, _ in lists for row in rows))
    return [
        {"title": title, "note": note, "pairs": [found[row] for row in rows], "open": is_open}
        for title, note, rows, is_open in lists
        if rows
    ]


def _options(runs: Sequence[Run]) -> List[Dict[str, object]]:
    """Groups of options, one column a run: those that matter most, then everything that the log tells."""
    known = [run for run in runs if run.log and run.log.options]
    if not known:
        return []
    elsewhere = {name.split(".")[1] for run in known for name in run.log.options if not name.startswith("model.")}
    names = [
        name for name in _ordered(name for run in known for name in run.log.options)
        if not (name.startswith("model.") and name.split(".")[1] in elsewhere)
    ]  # fmt: skip
    groups = [(title, [n for n in names if n.startswith(starts)], True) for title, starts in OPTION_GROUPS]
    groups.append((f"All {len(names)} options", names, False))
    return [
        {
            "title": title,
            "open": is_open,
            "rows": [_option_row(name, known) for name in some],
            "runs": [r.name for r in known],
        }
        for title, some, is_open in groups
    ]


def _option_row(name: str, runs: Sequence[Run]) -> Dict[str, object]:
    values = ["" if (value := run.option(name)) is None else str(value) for run in runs]
    return {"name": name, "values": values, "differs": len(set(values)) > 1}


def _missing(run: Run) -> List[Dict[str, str]]:
    """What the run has not yet, and the command that makes it."""
    if run.log and run.log.images:  # its training writes everything by itself
        return []
    data = shlex.quote(str(run.option("task.data") or "DATA"))
    checkpoint, scores, weights, history = (
        shlex.quote(os.path.join(run.path, name))
        for name in ("checkpoint_last.pt", "eval", "weights.tsv", "influence.tsv.gz")
    )
    notes = []
    if not run.scores:
        command = f"fairseq-l2rw evaluate {data} --path {checkpoint} --out {scores}"
        notes.append({"run": run.name, "what": "scores", "command": command})
    if not run.table and run.option("task.teacher") != "uniform":
        command = f"fairseq-l2rw weights {data} --path {checkpoint} --out {weights}"
        notes.append({"run": run.name, "what": "weights of all pairs", "command": command})
    if not run.history and run.option("task.teacher") != "uniform":
        command = f"fairseq-train ... --influence-log {history}"
        notes.append({"run": run.name, "what": "weights over time", "command": command})
    return notes


def _ordered(items: Iterable) -> List:
    """The different items, in the order in which they come."""
    return list(dict.fromkeys(items))
