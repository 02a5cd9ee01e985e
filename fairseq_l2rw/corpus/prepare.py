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

import itertools
import json
import logging
import os
import random
import shutil
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from fairseq_l2rw.corpus.binarise import binarise
from fairseq_l2rw.corpus.bitext import (
    Bitext,
    Pair,
    file_sha256,
    find_bitext,
    read_pairs,
    write_lines,
    writing,
)
from fairseq_l2rw.corpus.build_folder import BuildFolder, building
from fairseq_l2rw.corpus.lines import RECORD, data_folder, iter_labels
from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)

FORMAT = 2
CHUNK = 10_000  # pairs cleaned at a time
BLOCK = 100_000  # raw lines whose status is looked at together
MAX_SHARDS = 256  # all of them are written at once, two files each


@dataclass(frozen=True)
class Settings:
    """What decides the result, beside the text itself.

    Attributes:
        src, tgt: languages, the endings of the raw files.
        vocab_size: most pieces that a sentencepiece model may have; it has fewer where the text has fewer.
        joint: one model and one dictionary for both languages.
        meta_size: pairs cut off the validation set for the teacher; 0 for none.
        seed: which pairs these are, and which sentences sentencepiece sees.
        max_pieces: training pairs with a longer side are dropped; 0 drops none.
        max_ratio: training pairs whose sides differ more, in pieces, are dropped; 0 drops none. None: 1.5, but 0 where a
            label file stands beside the text, because a noise experiment would lose its noise.
        drop_duplicates: drop training pairs that were there before. None: yes, but no where there is a label file.
        drop_held_out: drop training pairs that are in another split.
        normalization: sentencepiece's normalisation rule.
        sample: sentences that sentencepiece is trained on, at most (drawn one by one, so it may be a few more or less).
        shards: folders that the training pairs are dealt out to.
        columns: of a TSV, the columns of source and target, counted from 1.
    """

    src: str
    tgt: str
    vocab_size: int = 6000
    joint: bool = True
    meta_size: int = 0
    seed: int = 1
    max_pieces: int = 250
    max_ratio: Optional[float] = None
    drop_duplicates: Optional[bool] = None
    drop_held_out: bool = True
    normalization: str = "nmt_nfkc"
    sample: int = 1_000_000
    shards: int = 1
    columns: Tuple[int, int] = (1, 2)

    @property
    def languages(self) -> Tuple[str, str]:
        return self.src, self.tgt

    @property
    def shard_names(self) -> List[str]:
        """The shards' folders in DATA; none where DATA has the training pairs itself."""
        return [f"shard{number}" for number in range(self.shards)] if self.shards > 1 else []

    def resolve(self, labelled: bool) -> "Settings":
        """The same without None."""
        ratio = self.max_ratio if self.max_ratio is not None else 0.0 if labelled else 1.5
        duplicates = self.drop_duplicates if self.drop_duplicates is not None else not labelled
        return replace(self, max_ratio=ratio, drop_duplicates=duplicates)


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


def sentencepiece_models(settings: Settings) -> Dict[str, str]:
    """Language -> file name of its sentencepiece model in DATA."""
    return {lang: "spm.model" if settings.joint else f"spm.{lang}.model" for lang in settings.languages}


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
    lines = build.once("raw", lambda: _write_raw(splits, texts, settings, inputs))
    build.once("cleaned", lambda: _clean(build, settings, splits, lines["train"]))
    vocabulary = build.once("models", lambda: _train_sentencepiece(build, settings))
    counts = build.once("pieces", lambda: _cut_into_pieces(build, settings, splits, workers))
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


# ---------------------------------------------------------------------------------------------------------------------
# text
# ---------------------------------------------------------------------------------------------------------------------


def _write_raw(
    splits: Dict[str, List[str]], texts: Dict[str, Bitext], settings: Settings, inputs: Dict[str, Dict[str, str]]
) -> Dict[str, int]:
    """Copies the raw text into DATA/raw, cuts the meta split off; returns the number of lines of each split."""
    lines = {}
    for split, text in texts.items():
        lines[split] = _write_pairs(_progress(text.pairs(), f"reading {split}"), splits[split])
        if not lines[split]:
            raise L2RWError(f"{text}: the {split} split is empty; give files with sentence pairs")
    if settings.meta_size:
        lines["meta"] = settings.meta_size
        lines["valid"] = _cut_meta(splits, str(texts["valid"]), settings)
    if "train.labels.tsv" in inputs:
        folder = os.path.dirname(splits["train"][0])
        shutil.copyfile(inputs["train.labels.tsv"]["path"], os.path.join(folder, "train.labels.tsv"))
    return lines


def _write_pairs(pairs: Iterable[Pair], paths: Sequence[str]) -> int:
    count = 0
    with writing(*paths) as handles:
        for count, pair in enumerate(pairs, start=1):
            for handle, text in zip(handles, pair):
                handle.write(text + "\n")
    return count


def _cut_meta(splits: Dict[str, List[str]], given: str, settings: Settings) -> int:
    """Takes pairs of the validation split for the split meta; returns how many are left."""
    pairs = list(read_pairs(*splits["valid"]))
    if settings.meta_size >= len(pairs):
        raise L2RWError(
            f"--meta-size {settings.meta_size}: {given} has {len(pairs)} lines, and some must be left to validate; "
            "give a smaller number"
        )
    chosen = set(random.Random(f"meta {settings.seed}").sample(range(len(pairs)), settings.meta_size))
    _write_pairs([pair for row, pair in enumerate(pairs) if row in chosen], splits["meta"])
    return _write_pairs([pair for row, pair in enumerate(pairs) if row not in chosen], splits["valid"])


def _clean(build: BuildFolder, settings: Settings, splits: Dict[str, List[str]], total: int) -> None:
    """Writes the status of each raw line (work/status: a byte, see `cleaning.REASONS`) and the text of those kept."""
    import numpy as np

    from fairseq_l2rw.corpus.cleaning import KEPT, Cleaner

    held_out: Dict[Pair, str] = {}
    for split in splits if settings.drop_held_out else ():
        if split != "train":
            held_out.update((pair, f"in_{split}") for pair in read_pairs(*splits[split]))
    cleaner = Cleaner(held_out, settings.drop_duplicates)
    status = np.memmap(build.path("work", "status"), np.uint8, "w+", shape=(total,))
    pairs = _progress(read_pairs(*splits["train"]), "cleaning", total)
    first = 0
    with writing(*_kept_files(build, settings)) as handles:
        while chunk := list(itertools.islice(pairs, CHUNK)):
            reasons = cleaner.reasons(chunk)
            status[first : first + len(chunk)] = reasons
            first += len(chunk)
            for row in np.flatnonzero(reasons == KEPT):
                for handle, text in zip(handles, chunk[row]):
                    handle.write(text + "\n")
    status.flush()
    _check_not_empty(_tally(status))


def _kept_files(build: BuildFolder, settings: Settings) -> List[str]:
    return [build.path("work", f"kept.{lang}") for lang in settings.languages]


# ---------------------------------------------------------------------------------------------------------------------
# pieces
# ---------------------------------------------------------------------------------------------------------------------


def _train_sentencepiece(build: BuildFolder, settings: Settings) -> Dict[str, int]:
    """Trains one model or two on a sample of the kept text; returns file name -> number of pieces."""
    from fairseq_l2rw.corpus.pieces import save_model, train_model

    files: Dict[str, List[str]] = {}
    for path, name in zip(_kept_files(build, settings), sentencepiece_models(settings).values()):
        files.setdefault(name, []).append(path)
    kept = _tally(_read_status(build, "status"))["kept"]
    sizes = {}
    for name, paths in files.items():
        part = min(1.0, settings.sample / (kept * len(paths)))
        logger.info("training %s on %d sentences", name, round(part * kept * len(paths)))
        model = train_model(paths, part, settings.seed, settings.vocab_size, settings.normalization)
        sizes[name] = save_model(model, build.path(name))
    return sizes


def _cut_into_pieces(
    build: BuildFolder, settings: Settings, splits: Dict[str, List[str]], workers: int
) -> Dict[str, Dict[str, object]]:
    """Writes the pieces of every split, and the map to the raw lines; returns the counts."""
    from fairseq_l2rw.corpus.pieces import Encoder

    encoder = Encoder([build.path(name) for name in sentencepiece_models(settings).values()], workers)
    counts: Dict[str, Dict[str, object]] = {}
    for split, paths in splits.items():
        if split != "train":
            pieces = encoder.pairs(_progress(read_pairs(*paths), f"encoding {split}"))
            texts = ((" ".join(source), " ".join(target)) for source, target in pieces)
            counts[split] = {"pairs": _write_pairs(texts, _piece_files(build, split, settings))}
    _cut_training_text(build, settings, encoder)
    counts["train"] = _write_line_map(build, settings)
    logger.info("training pairs: %d of %d kept", counts["train"]["pairs"], counts["train"]["read"])
    for what in ("dropped", "dropped_by_kind"):
        if counts["train"].get(what):
            logger.info("%s: %s", what, ", ".join(f"{name} {count}" for name, count in counts["train"][what].items()))
    return counts


def _cut_training_text(build: BuildFolder, settings: Settings, encoder) -> None:
    """Writes the pieces of the pairs that are not too long; notes the others in a second status file."""
    import numpy as np

    from fairseq_l2rw.corpus.cleaning import KEPT, length_reason

    before = _read_status(build, "status")
    shutil.copyfile(build.path("work", "status"), build.path("work", "final_status"))
    status = np.memmap(build.path("work", "final_status"), np.uint8, "r+")
    pairs = _progress(read_pairs(*_kept_files(build, settings)), "encoding train", _tally(before)["kept"])
    paths = _piece_files(build, "train", settings)
    if settings.shards > 1:
        paths += [path for shard in settings.shard_names for path in _piece_files(build, f"{shard}.train", settings)]
    written = 0
    with writing(*paths) as handles:
        for number, pieces in zip(_rows(before, lambda block: block == KEPT), encoder.pairs(pairs)):
            status[number] = length_reason([len(side) for side in pieces], settings.max_pieces, settings.max_ratio)
            if status[number] != KEPT:
                continue
            place = 2 + 2 * (written % settings.shards)
            written += 1
            for side, text in enumerate(map(" ".join, pieces)):
                handles[side].write(text + "\n")
                if settings.shards > 1:
                    handles[place + side].write(text + "\n")
    status.flush()


def _write_line_map(build: BuildFolder, settings: Settings) -> Dict[str, object]:
    """Writes train.lines.npy (for each shard as well) and train.dropped.tsv; returns what went and why."""
    import numpy as np

    from fairseq_l2rw.corpus.cleaning import KEPT, REASONS

    status = _read_status(build, "final_status")
    tally = _tally(status)
    _check_not_empty(tally)
    if settings.shards > tally["kept"]:
        raise L2RWError(
            f"--shards {settings.shards}: more than the {tally['kept']} pairs that are left; give a smaller number"
        )
    lines = np.lib.format.open_memmap(build.path("train.lines.npy"), "w+", np.int64, (tally["kept"],))
    place = 0
    for first in range(0, len(status), BLOCK):
        found = first + np.flatnonzero(status[first : first + BLOCK] == KEPT)
        lines[place : place + len(found)] = found
        place += len(found)
    lines.flush()
    for number, shard in enumerate(settings.shard_names):
        os.makedirs(build.path(shard), exist_ok=True)
        np.save(build.path(shard, "train.lines.npy"), lines[number :: settings.shards])
    rows = _rows(status, lambda block: block != KEPT)
    dropped = (f"{row}\t{REASONS[status[row]]}" for row in rows)
    write_lines(build.path("train.dropped.tsv"), itertools.chain(["id\treason"], dropped))
    reasons = {name: count for name, count in sorted(tally.items()) if name != "kept"}
    counts = {"read": len(status), "pairs": tally["kept"], "dropped": reasons}
    labels = build.path("raw", "train.labels.tsv")
    if os.path.exists(labels):
        counts["dropped_by_kind"] = _dropped_by_kind(labels, status)
    return counts


def _dropped_by_kind(labels: str, status) -> Dict[str, int]:
    """How many pairs of each kind of noise were cleaned away: an experiment should know."""
    gone: Counter = Counter()
    for number, kind in iter_labels(labels):
        if number >= len(status):
            raise L2RWError(
                f"{labels}: line {number} is labelled, and the text has {len(status)} lines; give its own labels"
            )
        gone[kind] += int(status[number] != 0)
    return dict(sorted(gone.items()))


def _read_status(build: BuildFolder, name: str):
    import numpy as np

    return np.memmap(build.path("work", name), np.uint8, "r")


def _tally(status) -> Counter:
    """Reason (or "kept") -> number of raw lines."""
    import numpy as np

    from fairseq_l2rw.corpus.cleaning import REASONS

    counts = sum(np.bincount(status[i : i + BLOCK], minlength=len(REASONS)) for i in range(0, len(status), BLOCK))
    return Counter({reason: int(count) for reason, count in zip(REASONS, counts) if count})


def _rows(status, choose: Callable) -> Iterator[int]:
    """The raw lines that `choose` takes by their status."""
    import numpy as np

    for first in range(0, len(status), BLOCK):
        yield from (first + np.flatnonzero(choose(status[first : first + BLOCK]))).tolist()


def _check_not_empty(tally: Counter) -> None:
    if not tally["kept"]:
        reasons = {name: count for name, count in sorted(tally.items()) if name != "kept"}
        raise L2RWError(f"nothing is left of the training text after cleaning ({reasons}); check the files")


def _piece_files(build: BuildFolder, split: str, settings: Settings) -> List[str]:
    return [build.path("work", f"{split}.{lang}") for lang in settings.languages]


def _progress(items: Iterable, what: str, total: Optional[int] = None) -> Iterator:
    from tqdm import tqdm

    return iter(tqdm(items, desc=what, total=total, unit=" pairs", unit_scale=True, mininterval=1.0, leave=False))
