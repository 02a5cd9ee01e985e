"""From raw text to fairseq's binarised data in one step: cleaning, sentencepiece, fairseq-preprocess.

Layout of the folder DATA that `prepare` makes (``de`` and ``en`` stand for the two languages)::

    train|valid|test|meta.de-en.de|en.bin|idx, dict.de|en.txt   what fairseq-train reads
    spm.model, spm.vocab                                         or spm.de.model and spm.en.model with --separate
    raw/train|valid|test|meta.de|en                              the text as it was given, nothing cleaned away
    raw/train.labels.tsv                                         a copy of TRAIN.labels.tsv, where there is one
    train.lines.npy                                              entry i: the raw line number of binarised pair i
    train.dropped.tsv                                            raw line number and reason of each pair cleaned away
    prepare.json                                                 settings, input files with their SHA-256, counts

It is built in a folder beside DATA and renamed when complete, so DATA exists whole or not at all.
"""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import random
import shutil
import subprocess
import sys
from array import array
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from fairseq_l2rw.corpus.bitext import Pair, file_sha256, find_text, read_lines, read_pairs, write_lines, writing
from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)

RECORD = "prepare.json"
FORMAT = 1
SAMPLE = 1_000_000  # sentences that sentencepiece is trained on, at most
CHUNK = 10_000  # pairs encoded at a time


@dataclass(frozen=True)
class Settings:
    """What decides the result, beside the text itself.

    Attributes:
        src, tgt: languages, the endings of the raw files.
        vocab_size: most pieces that a sentencepiece model may have; it has fewer where the text has fewer.
        joint: one model and one dictionary for both languages.
        meta_size: pairs cut off the validation set for the teacher; 0 for none.
        seed: which pairs these are.
        max_pieces: training pairs with a longer side are dropped.
        max_ratio: training pairs whose sides differ more, in pieces, are dropped; 0 drops none.
        normalization: sentencepiece's normalisation rule.
    """

    src: str
    tgt: str
    vocab_size: int = 6000
    joint: bool = True
    meta_size: int = 0
    seed: int = 1
    max_pieces: int = 250
    max_ratio: float = 0.0
    normalization: str = "nmt_nfkc"

    @property
    def languages(self) -> Tuple[str, str]:
        return self.src, self.tgt


def prepare(out: str, prefixes: Dict[str, str], settings: Settings, workers: int = 1) -> Dict[str, object]:
    """Makes DATA, or finds that it is already there; returns what prepare.json says, with ``"reused"``.

    Args:
        out: the folder DATA.
        prefixes: split -> PREFIX of its raw files PREFIX.LANG or PREFIX.LANG.gz; train, valid, test and perhaps meta.
        settings: see `Settings`.
        workers: processes and threads; they do not change the result.
    """
    _check_settings(out, prefixes, settings)
    texts = {split: tuple(find_text(prefix, lang) for lang in settings.languages) for split, prefix in prefixes.items()}
    labels = prefixes["train"] + ".labels.tsv"
    inputs = _describe_inputs(texts, settings, labels if os.path.isfile(labels) else None)
    if _is_made(out, settings, inputs):
        logger.info("%s is there already, made from this text with these settings", out)
        return {**read_record(out), "reused": True}
    with _building(out) as folder:
        splits = _write_raw(folder, texts, settings, inputs)
        kept = _clean_training_text(folder, settings, splits)
        vocabularies = _train_sentencepiece(folder, settings, kept)
        counts = _encode_splits(folder, settings, splits, kept, workers)
        _binarise(folder, settings, splits, workers)
        shutil.rmtree(os.path.join(folder, "work"))
        record = {
            "format": FORMAT,
            "settings": asdict(settings),
            "inputs": inputs,
            "counts": counts,
            "vocabulary": vocabularies,
        }
        write_lines(os.path.join(folder, RECORD), [json.dumps(record, indent=2, ensure_ascii=False)])
    return {**record, "reused": False}


def read_record(data: str) -> Dict[str, object]:
    """What prepare.json in the folder `data` says.

    Raises:
        L2RWError: there is none, or it is not one of ours.
    """
    path = os.path.join(data, RECORD)
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


def _describe_inputs(
    texts: Dict[str, Tuple[str, str]], settings: Settings, labels: Optional[str]
) -> Dict[str, Dict[str, str]]:
    files = {f"{split}.{lang}": path for split, paths in texts.items() for lang, path in zip(settings.languages, paths)}
    if labels:
        files["train.labels.tsv"] = labels
    return {name: {"path": path, "sha256": file_sha256(path)} for name, path in files.items()}


def _is_made(out: str, settings: Settings, inputs: Dict[str, Dict[str, str]]) -> bool:
    """Whether `out` is there, made by the same settings from the same text; an error if it is there but is not."""
    if not os.path.lexists(out) or (os.path.isdir(out) and not os.listdir(out)):
        return False
    if not os.path.isfile(os.path.join(out, RECORD)):
        raise L2RWError(f"--out {out}: exists and was not made by prepare; choose another folder")
    record = read_record(out)
    old, new = record["settings"], asdict(settings)
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
    return True


# ---------------------------------------------------------------------------------------------------------------------
# text
# ---------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _building(out: str) -> Iterator[str]:
    """A folder beside `out` that takes its name if the block ends well, and goes if it does not."""
    out = os.path.abspath(out)
    folder = os.path.join(os.path.dirname(out), f".{os.path.basename(out)}.partial-{os.getpid()}")
    os.makedirs(os.path.join(folder, "work"))
    try:
        yield folder
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_raw(
    folder: str, texts: Dict[str, Tuple[str, str]], settings: Settings, inputs: Dict[str, Dict[str, str]]
) -> Dict[str, Tuple[str, str]]:
    """Copies the raw text into DATA/raw, cuts the meta split off, and returns the two raw files of each split."""
    raw = os.path.join(folder, "raw")
    names = [*texts, "meta"] if settings.meta_size else list(texts)
    splits = {split: tuple(os.path.join(raw, f"{split}.{lang}") for lang in settings.languages) for split in names}
    for split, paths in texts.items():
        if not _write_pairs(read_pairs(*paths), splits[split]):
            raise L2RWError(f"{paths[0]}, {paths[1]}: the {split} split is empty; give files with sentence pairs")
    if settings.meta_size:
        _cut_meta(splits, texts["valid"][0], settings)
    if "train.labels.tsv" in inputs:
        shutil.copyfile(inputs["train.labels.tsv"]["path"], os.path.join(raw, "train.labels.tsv"))
    return splits


def _write_pairs(pairs: Iterable[Pair], paths: Sequence[str]) -> int:
    count = 0
    with writing(*paths) as handles:
        for count, pair in enumerate(pairs, start=1):
            for handle, text in zip(handles, pair):
                handle.write(text + "\n")
    return count


def _cut_meta(splits: Dict[str, Tuple[str, str]], given: str, settings: Settings) -> None:
    pairs = list(read_pairs(*splits["valid"]))
    if settings.meta_size >= len(pairs):
        raise L2RWError(
            f"--meta-size {settings.meta_size}: {given} has {len(pairs)} lines, and some must be left to validate; "
            "give a smaller number"
        )
    chosen = set(random.Random(f"meta {settings.seed}").sample(range(len(pairs)), settings.meta_size))
    _write_pairs([pair for row, pair in enumerate(pairs) if row in chosen], splits["meta"])
    _write_pairs([pair for row, pair in enumerate(pairs) if row not in chosen], splits["valid"])


@dataclass(frozen=True)
class _Kept:
    """The training pairs that are left after cleaning.

    Attributes:
        paths: the two files of their text.
        lines: the raw line number of each.
        dropped: raw line number -> reason, for the others.
    """

    paths: Tuple[str, str]
    lines: "array[int]"
    dropped: Dict[int, str]


def _clean_training_text(folder: str, settings: Settings, splits: Dict[str, Tuple[str, str]]) -> _Kept:
    """Drops empty pairs, duplicates, and pairs that are in another split. The text of the others is unchanged."""
    held_out: Dict[Pair, str] = {}
    for split in splits:
        if split != "train":
            held_out.update((pair, f"in_{split}") for pair in read_pairs(*splits[split]))
    kept = _Kept(tuple(os.path.join(folder, "work", f"kept.{lang}") for lang in settings.languages), array("q"), {})
    seen: Set[int] = set()
    with writing(*kept.paths) as handles:
        for number, pair in enumerate(_progress(read_pairs(*splits["train"]), "cleaning")):
            reason = _why_drop(pair, held_out, seen)
            if reason:
                kept.dropped[number] = reason
                continue
            kept.lines.append(number)
            for handle, text in zip(handles, pair):
                handle.write(text + "\n")
    _check_not_empty(kept.lines, kept.dropped)
    return kept


def _why_drop(pair: Pair, held_out: Dict[Pair, str], seen: Set[int]) -> Optional[str]:
    if not (pair[0].strip() and pair[1].strip()):
        return "empty"
    if pair in held_out:
        return held_out[pair]
    before = len(seen)
    seen.add(int.from_bytes(hashlib.blake2b("\n".join(pair).encode(), digest_size=8).digest(), "big"))
    return "duplicate" if len(seen) == before else None


# ---------------------------------------------------------------------------------------------------------------------
# pieces
# ---------------------------------------------------------------------------------------------------------------------


def _train_sentencepiece(folder: str, settings: Settings, kept: _Kept) -> Dict[str, int]:
    """Trains one model or two on a sample of the kept text; returns file name -> number of pieces."""
    files: Dict[str, List[str]] = {}
    for path, name in zip(kept.paths, sentencepiece_models(settings).values()):
        files.setdefault(name, []).append(path)
    step = max(1, -(-len(kept.lines) * len(kept.paths) // SAMPLE))  # every step-th pair, from all over the corpus
    sizes = {}
    for name, paths in files.items():
        logger.info("training %s on %d sentences", name, len(paths) * -(-len(kept.lines) // step))
        model = _fit_model(paths, step, settings)
        sizes[name] = _save_model(model, os.path.join(folder, name))
    return sizes


def _sentences(paths: Sequence[str], step: int) -> Iterator[str]:
    for path in paths:
        yield from (_plain_spaces(line) for line in itertools.islice(read_lines(path), 0, None, step))


def _fit_model(paths: Sequence[str], step: int, settings: Settings) -> bytes:
    """Fits a BPE model, on one thread: the model file records their number, and it should not depend on the machine."""
    import sentencepiece

    # Cover every character where that leaves room for words; on web-crawled text it does not.
    alphabet = {character for sentence in _sentences(paths, step) for character in sentence}
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(paths, step),
            model_writer=model,
            model_type="bpe",
            vocab_size=settings.vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0 if len(alphabet) <= settings.vocab_size // 4 else 0.9995,
            normalization_rule_name=settings.normalization,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        if "required_chars" in str(error):
            raise L2RWError(
                f"--vocab-size {settings.vocab_size}: the text has {len(alphabet)} different characters and each needs "
                "a piece; give more"
            ) from error
        raise L2RWError(f"sentencepiece: {' '.join(str(error).split())}; check the training text") from error
    return model.getvalue()


def _save_model(model: bytes, path: str) -> int:
    """Writes the model and, to be read by people, its pieces and their scores; returns their number."""
    import sentencepiece

    with open(path, "wb") as handle:
        handle.write(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = range(processor.get_piece_size())
    vocabulary = (f"{processor.id_to_piece(piece)}\t{processor.get_score(piece):g}" for piece in pieces)
    return write_lines(path.removesuffix(".model") + ".vocab", vocabulary)


def _encode_splits(
    folder: str, settings: Settings, splits: Dict[str, Tuple[str, str]], kept: _Kept, workers: int
) -> Dict[str, Dict[str, object]]:
    """Writes the pieces of every split, and train.lines.npy and train.dropped.tsv; returns the counts."""
    import numpy as np

    encode = _Encoder(folder, settings, workers)
    counts: Dict[str, Dict[str, object]] = {}
    for split, paths in splits.items():
        if split != "train":
            pieces = (pair for _, pair in encode.pairs(paths, f"encoding {split}"))
            counts[split] = {"pairs": _write_pairs(pieces, _piece_files(folder, split, settings))}
    train = _select_by_length(encode.pairs(kept.paths, "encoding train", len(kept.lines)), kept, settings)
    lines = array("q")
    _write_pairs((pair for number, pair in train if not lines.append(number)), _piece_files(folder, "train", settings))
    _check_not_empty(lines, kept.dropped)
    np.save(os.path.join(folder, "train.lines.npy"), np.array(lines, dtype=np.int64))
    dropped = (f"{number}\t{kept.dropped[number]}" for number in sorted(kept.dropped))
    write_lines(os.path.join(folder, "train.dropped.tsv"), itertools.chain(["id\treason"], dropped))
    read = len(lines) + len(kept.dropped)
    counts["train"] = {"read": read, "pairs": len(lines), "dropped": dict(_tally(kept.dropped))}
    logger.info("training pairs: %d of %d kept; dropped: %s", len(lines), read, counts["train"]["dropped"] or "none")
    return counts


class _Encoder:
    """Cuts text into pieces, many lines at a time."""

    def __init__(self, folder: str, settings: Settings, workers: int):
        import sentencepiece

        self._workers = workers
        names = sentencepiece_models(settings).values()
        self._models = [sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, name)) for name in names]

    def pairs(self, paths: Sequence[str], what: str, total: Optional[int] = None) -> Iterator[Tuple[int, Pair]]:
        """Yields (row, pair of lines of pieces)."""
        pairs = _progress(read_pairs(*paths), what, total)
        row = 0
        while chunk := list(itertools.islice(pairs, CHUNK)):
            sides = [self._lines(model, side) for model, side in zip(self._models, zip(*chunk))]
            for pair in zip(*sides):
                yield row, pair
                row += 1

    def _lines(self, model, texts: Sequence[str]) -> List[str]:
        plain = [_plain_spaces(text) for text in texts]
        return [" ".join(pieces) for pieces in model.encode(plain, out_type=str, num_threads=self._workers)]


def _select_by_length(
    encoded: Iterator[Tuple[int, Pair]], kept: _Kept, settings: Settings
) -> Iterator[Tuple[int, Pair]]:
    """Yields (raw line number, pieces) of the pairs that are not too long and not too different in length."""
    for row, pair in encoded:
        lengths = [len(side.split()) for side in pair]
        if not min(lengths):
            kept.dropped[kept.lines[row]] = "empty"  # nothing but characters that sentencepiece drops
        elif max(lengths) > settings.max_pieces:
            kept.dropped[kept.lines[row]] = "too_long"
        elif settings.max_ratio and max(lengths) > settings.max_ratio * min(lengths):
            kept.dropped[kept.lines[row]] = "ratio"
        else:
            yield kept.lines[row], pair


def _plain_spaces(text: str) -> str:
    """Single spaces for whatever Unicode calls white space: fairseq would split a piece or a line at some of it."""
    return " ".join(text.split())


def _piece_files(folder: str, split: str, settings: Settings) -> List[str]:
    return [os.path.join(folder, "work", f"{split}.{lang}") for lang in settings.languages]


def _check_not_empty(lines: "array[int]", dropped: Dict[int, str]) -> None:
    if not lines:
        raise L2RWError(f"nothing is left of the training text after cleaning ({_tally(dropped)}); check the files")


def _tally(dropped: Dict[int, str]) -> Dict[str, int]:
    return dict(sorted(Counter(dropped.values()).items()))


# ---------------------------------------------------------------------------------------------------------------------
# fairseq
# ---------------------------------------------------------------------------------------------------------------------


def _binarise(folder: str, settings: Settings, splits: Dict[str, Tuple[str, str]], workers: int) -> None:
    """Runs fairseq-preprocess on the pieces."""
    test = "work/test,work/meta" if "meta" in splits else "work/test"
    command = [sys.executable, "-m", "fairseq_cli.preprocess"]
    command += [
        "--source-lang",
        settings.src,
        "--target-lang",
        settings.tgt,
        "--destdir",
        ".",
        "--workers",
        str(workers),
    ]
    command += ["--trainpref", "work/train", "--validpref", "work/valid", "--testpref", test]
    command += ["--joined-dictionary"] if settings.joint else []
    # Relative names, since fairseq splits prefixes at commas. Its joined dictionary goes through a Python set of file
    # names: without a fixed hash seed, words of equal frequency change places from run to run.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    logger.info("binarising with fairseq-preprocess")
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise L2RWError(f"fairseq-preprocess ended with status {done.returncode}; its messages stand above")
    os.remove(os.path.join(folder, "preprocess.log"))  # it tells of a folder that is gone when the work is done
    for name in os.listdir(folder):
        if name.startswith("test1."):  # fairseq's name for a second test set
            os.rename(os.path.join(folder, name), os.path.join(folder, "meta." + name.removeprefix("test1.")))


def _progress(items: Iterable, what: str, total: Optional[int] = None) -> Iterator:
    from tqdm import tqdm

    return iter(tqdm(items, desc=what, total=total, unit=" pairs", unit_scale=True, mininterval=1.0, leave=False))
