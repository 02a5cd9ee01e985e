"""The stages of ``fairseq-l2rw prepare`` up to text in pieces; each leaves its result in the folder that is being built."""

import itertools
import logging
import os
import random
import shutil
from collections import Counter
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from fairseq_l2rw.corpus.bitext import Bitext, Pair, read_pairs, write_lines, writing
from fairseq_l2rw.corpus.build_folder import BuildFolder
from fairseq_l2rw.corpus.lines import iter_labels
from fairseq_l2rw.corpus.prepare_settings import Settings
from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)

CHUNK = 10_000  # pairs cleaned at a time
BLOCK = 100_000  # raw lines whose status is looked at together

# ---------------------------------------------------------------------------------------------------------------------
# text
# ---------------------------------------------------------------------------------------------------------------------


def write_raw(
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


def clean(build: BuildFolder, settings: Settings, splits: Dict[str, List[str]], total: int) -> None:
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


def train_sentencepiece(build: BuildFolder, settings: Settings) -> Dict[str, int]:
    """Trains one model or two on a sample of the kept text; returns file name -> number of pieces."""
    from fairseq_l2rw.corpus.pieces import save_model, train_model

    files: Dict[str, List[str]] = {}
    for path, name in zip(_kept_files(build, settings), settings.models.values()):
        files.setdefault(name, []).append(path)
    kept = _tally(_read_status(build, "status"))["kept"]
    sizes = {}
    for name, paths in files.items():
        part = min(1.0, settings.sample / (kept * len(paths)))
        logger.info("training %s on %d sentences", name, round(part * kept * len(paths)))
        model = train_model(paths, part, settings.seed, settings.vocab_size, settings.normalization)
        sizes[name] = save_model(model, build.path(name))
    return sizes


def cut_into_pieces(
    build: BuildFolder, settings: Settings, splits: Dict[str, List[str]], workers: int
) -> Dict[str, Dict[str, object]]:
    """Writes the pieces of every split, and the map to the raw lines; returns the counts."""
    from fairseq_l2rw.corpus.pieces import Encoder

    encoder = Encoder([build.path(name) for name in settings.models.values()], workers)
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
