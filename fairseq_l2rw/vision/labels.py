"""Labels that people gave, from a TSV, in place of the official ones."""

from __future__ import annotations

import csv
import gzip
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from fairseq_l2rw.errors import L2RWError
from fairseq_l2rw.vision.data import DataSet


def join(data: DataSet, file: str, column: str | None) -> DataSet:
    """The data with training labels from ``column``, joined by the column ``file`` and the images' names.

    The official labels stay as the truth. A label is the number of a class, or its name; .gz is read as gzip. Every
    training image needs a row; further rows are left alone.

    Raises:
        L2RWError: the file, the column or an image's row is missing, or a label names no class.
    """
    if not Path(file).is_file():
        raise L2RWError(f"--labels {file}: there is no such file")
    if data.train.names is None:
        raise L2RWError(f"--labels: the images of {data.name} have no file names to join by")
    given = _labels(file, column, {name: i for i, name in enumerate(data.classes)})
    missing = [name for name in data.train.names if name not in given]
    if missing:
        raise L2RWError(f"--labels {file}: no row for {missing[0]} (nor for {len(missing) - 1} other training images)")
    labels = torch.tensor([given[name] for name in data.train.names])
    return replace(data, train=replace(data.train, labels=labels))


def _labels(file: str, column: str | None, classes: dict[str, int]) -> dict[str, int]:
    opened = gzip.open if file.endswith(".gz") else open
    try:
        with opened(file, "rt", encoding="utf-8", newline="") as stream:
            table = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            columns = table.fieldnames or []
            if "file" not in columns:
                raise L2RWError(f"--labels {file}: it has no column 'file' (columns: {', '.join(columns)})")
            if column is None or column not in columns:
                raise L2RWError(f"--label-column: {file} has no column {column!r}; choose one of {', '.join(columns)}")
            given = {}
            for row in table:
                text = row[column] or ""
                label = classes.get(text, int(text) if text.isdecimal() else -1)
                if not 0 <= label < len(classes):
                    raise L2RWError(f"{file}, line {table.line_num}: {text!r} is neither the number nor the name of a class")
                given[row["file"]] = label
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise L2RWError(f"--labels {file}: not readable as TSV ({error})") from error
    return given
