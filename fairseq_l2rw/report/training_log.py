"""fairseq's training log: the options of the run and its metrics by update."""

import ast
import json
import math
import re
from dataclasses import dataclass, field
from typing import Dict, Iterable, List, Optional, Tuple

Row = Dict[str, float]  # one log entry; "update" is always in it

_TIME = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)"
_LINE = re.compile(_TIME + r" \| \w+ \| ([\w.-]+) \| (.*)\n")  # fairseq-train
_HYDRA_LINE = re.compile(r"\[" + _TIME + r",\d+\]\[([\w.-]+)\]\[\w+\] - (.*)\n")  # fairseq-hydra-train
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)", re.IGNORECASE)
_SIMPLE = re.compile(r"([A-Za-z_]\w*)[= ](\S+?)(?=,|$)")  # loss=12.1, nll_loss=11.9   and, between bars,   loss 12.1


@dataclass
class TrainingLog:
    """What a log says.

    Attributes:
        options: ``section.name`` -> value, as fairseq prints them when it starts (the last start counts).
        train: an entry for each ``--log-interval`` (or each epoch, where the log has nothing finer), by update.
        valid: an entry for each validation on the first validation split, by update.
        time: when the last line was written; empty if no line has a time.
        done: the training came to its end.
        images: of an image classifier, with other names and units.
    """

    options: Dict[str, object] = field(default_factory=dict)
    train: List[Row] = field(default_factory=list)
    valid: List[Row] = field(default_factory=list)
    time: str = ""
    done: bool = False
    images: bool = False

    @property
    def update(self) -> int:
        """The last update that the log knows of."""
        return int(max((rows[-1]["update"] for rows in (self.train, self.valid) if rows), default=0))

    def option(self, name: str) -> Optional[object]:
        """Value of ``section.name``; None where the log does not tell it."""
        return self.options.get(name)


def read_log(path: str) -> TrainingLog:
    """Reads a log of ``fairseq-train`` or ``fairseq-hydra-train``, of a run that may still go on.

    The progress lines may be of ``--log-format simple`` or ``json``; with ``tqdm`` there are only the ends of epochs.
    """
    with open(path, encoding="utf-8", errors="replace", newline="\n") as handle:
        return parse_log(handle)


def parse_log(lines: Iterable[str]) -> TrainingLog:
    """As :func:`read_log`, from lines with their ends."""
    log, epochs, subset = TrainingLog(), [], "valid"
    for line in lines:
        match = _LINE.fullmatch(line) or _HYDRA_LINE.fullmatch(line)
        if not match:  # the output of something else, or a line that is still being written
            continue
        log.time, tag, message = match.groups()
        if tag == "train_inner":
            _add(log.train, _parse_entry(message, ""))
        elif tag == "train":
            _add(epochs, _parse_entry(message, "train_"))
        elif tag == subset:
            _add(log.valid, _parse_entry(message, subset + "_"))
        elif message.startswith("{") and tag.endswith("train"):  # fairseq_cli.train
            log.options, log.done = _parse_options(message), False
            subset = str(log.options.get("dataset.valid_subset") or subset).split(",")[0]
        elif message.startswith("done training"):
            log.done = True
    log.train = log.train or epochs
    return log


def curve(rows: List[Row], name: str, points: int = 300) -> Tuple[List[float], List[float]]:
    """Updates and values of a metric, at most `points` of them: more are averaged in runs of equal length."""
    known = [(row["update"], row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    step = -(-len(known) // points) or 1
    runs = [known[first : first + step] for first in range(0, len(known), step)]
    return [run[-1][0] for run in runs], [sum(value for _, value in run) / len(run) for run in runs]


def _add(rows: List[Row], row: Optional[Row]) -> None:
    """Appends an entry; a resumed training puts its own in the place of those it repeats."""
    if row is None:
        return
    while rows and rows[-1]["update"] >= row["update"]:
        rows.pop()
    rows.append(row)


def _parse_entry(message: str, prefix: str) -> Optional[Row]:
    if message.startswith("{"):
        try:
            cells = json.loads(message).items()
        except (ValueError, RecursionError):
            return None
    else:
        cells = [cell for part in message.split("|") for cell in _SIMPLE.findall(part.strip())]
    row = {name.removeprefix(prefix): float(value) for name, value in cells if _NUMBER.fullmatch(str(value))}
    update = row.pop("num_updates", None)
    return None if update is None else {**row, "update": update}


def _parse_options(message: str) -> Dict[str, object]:
    """The configuration, printed as a Python value: read as a syntax tree, nothing of it is run."""
    try:
        sections = _value(ast.parse(message.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return {
        f"{section}.{name}": value
        for section, options in sections.items()
        if isinstance(options, dict)
        for name, value in options.items()
        if name != "_name" or section in ("task", "criterion", "optimizer", "lr_scheduler")
    }


def _value(node: ast.AST):
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Call):  # Namespace(arch='transformer', ...)
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)  # an enumeration
