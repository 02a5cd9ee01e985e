"""From raw text to fairseq's binarised data in one step: cleaning, sentencepiece, fairseq-preprocess.

Layout of the folder DATA that `prepare` makes (``de`` and ``en`` stand for the two languages)::

    train|valid|test|meta.de-en.de|en.bin|idx, dict.de|en.txt   what fairseq-train reads
    spm.model, spm.vocab                                         or spm.de.model and spm.en.model with --separate
    raw/train|valid|test|meta.de|en                              the text as it was given, nothing cleaned away
    raw/train.labels.tsv                                         a copy of TRAIN.labels.tsv, where there is one
    train.lines.npy, train.dropped.tsv                           the way from binarised to raw lines (`corpus.lines`)
    prepare.json                                                 settings, input files with their SHA-256, counts

With ``--shards N`` the training pairs lie in DATA/shard0 … DATA/shardN-1 instead, dealt out in turn so that each is a
sample of the whole. Each is a data folder of its own (dictionaries, other splits and ``train.lines.npy`` included);
fairseq takes one an epoch from ``DATA/shard0:DATA/shard1:…``. DATA itself then serves for the other splits.

It is built in a folder beside DATA and renamed when complete, so DATA exists whole or not at all. What is done is noted
stage by stage: after a kill the same command goes on from there. Bad text leaves nothing behind.

The corpus is streamed. Memory that grows with it: eight bytes a pair to find duplicates (`corpus.cleaning`), and what
fairseq-preprocess keeps of a shard (about 40 bytes a pair). While it is made, the folder takes about five times the text.
"""

import json
import logging
import os
import shutil
from dataclasses import asdict
from typing import Dict, List, Optional, Sequence

from fairseq_l2rw.corpus.binarise import binarise
from fairseq_l2rw.corpus.bitext import Bitext, file_sha256, find_bitext, write_lines
from fairseq_l2rw.corpus.build_folder import BuildFolder, building
from fairseq_l2rw.corpus.lines import RECORD, data_folder
from fairseq_l2rw.corpus.prepare_settings import Settings
from fairseq_l2rw.corpus.prepare_stages import clean, cut_into_pieces, train_sentencepiece, write_raw
from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)

FORMAT = 2
MAX_SHARDS = 256  # all of them are written at once, two files each


def prepare(out: str, prefixes: Dict[str, str], settings: Settings, workers: int = 1) -> Dict[str, object]:
    """Makes DATA, or finds that it is already there.

    Args:
        out: the folder DATA.
        prefixes: split -> what `corpus.bitext.find_bitext` takes; train, valid and perhaps test and meta.
        settings: see `Settings`.
        workers: processes and threads; they do not change the result.

    Returns:
        What prepare.json says, with ``"data"``, the data argument of fairseq-train, and ``"reused"``.
    """
    _check_settings(out, prefixes, settings)
    texts = {split: find_bitext(prefix, settings.languages, settings.columns) for split, prefix in prefixes.items()}
    labels = _label_file(prefixes["train"])
    if labels and None in (settings.max_ratio, settings.drop_duplicates):
        logger.info(
            "%s: a noise experiment, so what you did not ask for stays off: --max-ratio, --duplicates drop. Give the corpus "
            "that you compare it with the same options",
            labels,
        )
    settings = settings.resolve(labels is not None)
    inputs = _describe_inputs(texts, settings, labels)
    record = _record_of_same(out, settings, inputs)
    missing = _missing_files(out, record) if record else []
    reused = record is not None and not missing
    if reused:
        logger.info("%s is there already, made from this text with these settings", out)
    else:
        hashes = {name: entry["sha256"] for name, entry in inputs.items()}
        plan = _as_json({"format": FORMAT, "settings": asdict(settings), "sha256": hashes})
        with building(out, plan, there=record is not None, worth_keeping="pieces") as build:
            if record is not None:  # DATA is there, some of its files are not
                _mark_what_is_there(build, record, missing)
            record = _make(build, settings, texts, inputs, workers)
    return {**record, "data": _data_argument(out, settings), "reused": reused}


def read_record(data: str) -> Dict[str, object]:
    """What prepare.json in the folder `data` (or above it, where it is a shard) says.

    Raises:
        L2RWError: there is none, or it is not one of ours.
    """
    path = os.path.join(data_folder(data), RECORD)
    if not os.path.isfile(path):
        raise L2RWError(f"{path}: no such file; give a folder that 'fairseq-l2rw prepare' has made")
    try:
        with open(path, encoding="utf-8") as handle:
            record = json.load(handle)
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, this version reads {FORMAT}")
    except (ValueError, KeyError, TypeError) as error:
        raise L2RWError(f"{path}: not readable ({error}); remove the folder and prepare it again") from error
    return record


def _data_argument(out: str, settings: Settings) -> str:
    return os.pathsep.join(os.path.join(out, shard) for shard in settings.shard_names) or out


# ---------------------------------------------------------------------------------------------------------------------
# checks
# ---------------------------------------------------------------------------------------------------------------------


def _check_settings(out: str, prefixes: Dict[str, str], settings: Settings) -> None:
    if settings.src == settings.tgt:
        raise L2RWError(f"--tgt {settings.tgt}: the same language as --src; the two files need different endings")
    if "meta" in prefixes and settings.meta_size:
        raise L2RWError("--meta-size: --meta gives the teacher's split already; give one of the two")
    if ":" in os.path.basename(os.path.abspath(out)):
        raise L2RWError(f"--out {out}: fairseq takes ':' in a data folder for a list of folders; choose another name")
    if settings.max_ratio and settings.max_ratio < 1:
        raise L2RWError(f"--max-ratio {settings.max_ratio:g}: longer by shorter side is 1 at least; 0 switches it off")
    if settings.shards > MAX_SHARDS:
        raise L2RWError(f"--shards {settings.shards}: {MAX_SHARDS} at most; give a smaller number")
    if min(settings.columns) < 1 or settings.columns[0] == settings.columns[1]:
        raise L2RWError(f"--columns {settings.columns[0]},{settings.columns[1]}: give two different columns from 1 on")


def _label_file(prefix: str) -> Optional[str]:
    """PREFIX.labels.tsv, where there is one: what 'corrupt' did to each line."""
    stem = prefix.removesuffix(".gz").removesuffix(".zst").removesuffix(".tsv")
    return f"{stem}.labels.tsv" if os.path.isfile(f"{stem}.labels.tsv") else None


def _describe_inputs(texts: Dict[str, Bitext], settings: Settings, labels: Optional[str]) -> Dict[str, Dict[str, str]]:
    files = {}
    for split, text in texts.items():
        endings = ["tsv"] if text.columns else settings.languages
        files.update({f"{split}.{ending}": path for ending, path in zip(endings, text.paths)})
    if labels:
        files["train.labels.tsv"] = labels
    return {name: {"path": path, "sha256": file_sha256(path)} for name, path in files.items()}


def _record_of_same(out: str, settings: Settings, inputs: Dict[str, Dict[str, str]]) -> Optional[Dict[str, object]]:
    """The record of `out` if it is there; an error if it was made from another text or with other settings."""
    if not os.path.lexists(out) or (os.path.isdir(out) and not os.listdir(out)):
        return None
    if not os.path.isfile(os.path.join(out, RECORD)):
        raise L2RWError(f"--out {out}: exists and was not made by prepare; choose another folder")
    record = read_record(out)
    old, new = record["settings"], _as_json(asdict(settings))
    changed = [f"{name} was {old.get(name)!r}, is now {new[name]!r}" for name in new if old.get(name) != new[name]]
    hashes = {name: entry["sha256"] for name, entry in record["inputs"].items()}
    for name in sorted(set(hashes) | set(inputs)):
        if name not in inputs:
            changed.append(f"{name} was given, is now missing")
        elif hashes.get(name) != inputs[name]["sha256"]:
            changed.append(f"{inputs[name]['path']} is not the file it was made from")
    if changed:
        raise L2RWError(
            f"--out {out}: was made with other settings ({'; '.join(changed)}); choose another folder, or remove it"
        )
    return record


def _missing_files(out: str, record: Dict[str, object]) -> List[str]:
    return [name for name in record["files"] if not os.path.exists(os.path.join(out, name))]


def _as_json(value):
    return json.loads(json.dumps(value))


# ---------------------------------------------------------------------------------------------------------------------
# stages
# ---------------------------------------------------------------------------------------------------------------------


def _mark_what_is_there(build: BuildFolder, record: Dict[str, object], missing: Sequence[str]) -> None:
    """Notes the stages that need not be done again to get the missing files back."""
    again = {
        "raw" if name.startswith("raw") else "models" if name.startswith("spm") else "binarised" for name in missing
    }
    if again & {"models", "binarised"}:
        again |= {"cleaned", "pieces", "binarised"}
    logger.info("%s: %d files are missing and are made again", build.folder, len(missing))
    results = {"raw": record["lines"], "cleaned": None, "models": record["vocabulary"], "pieces": record["counts"]}
    for stage, result in {**results, "binarised": None}.items():
        if stage not in again:
            build.mark(stage, result)


def _make(
    build: BuildFolder, settings: Settings, texts: Dict[str, Bitext], inputs: Dict[str, Dict[str, str]], workers: int
) -> Dict[str, object]:
    """All stages; returns the record."""
    names = [*texts, "meta"] if settings.meta_size else list(texts)
    splits = {split: [build.path("raw", f"{split}.{lang}") for lang in settings.languages] for split in names}
    lines = build.once("raw", lambda: write_raw(splits, texts, settings, inputs))
    build.once("cleaned", lambda: clean(build, settings, splits, lines["train"]))
    vocabulary = build.once("models", lambda: train_sentencepiece(build, settings))
    counts = build.once("pieces", lambda: cut_into_pieces(build, settings, splits, workers))
    build.once("binarised", lambda: binarise(build, *settings.languages, names, settings.joint, settings.shard_names, workers))
    record = {
        "format": FORMAT,
        "settings": _as_json(asdict(settings)),
        "inputs": inputs,
        "lines": lines,
        "counts": counts,
        "vocabulary": vocabulary,
        "files": [name for name in build.files() if name != RECORD],
    }
    write_lines(build.path(RECORD), [json.dumps(record, indent=2, ensure_ascii=False)])
    shutil.rmtree(build.path("work"))
    return record
