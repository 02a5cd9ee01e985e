"""Memory of ``weights`` and ``filter`` while the corpus grows: peak resident size for synthetic corpora of several sizes.

    python -m benchmarks.weights_memory                                # 20,000 and 200,000 pairs, minutes
    python -m benchmarks.weights_memory --pairs 1000000,10000000       # the figures in the documentation

The pairs are three random words a side; the student is as small as can be, since what matters is all around it: reading,
sorting, writing, the summary, the selection. ``weights --from-log`` reads a synthetic log with a row for each pair. Peak: the
largest resident size of the process, pages of files included (:func:`benchmarks.apart.most_resident`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import ROOT, table, write_json
from fairseq_l2rw.corpus.influence_log import InfluenceLog
from fairseq_l2rw.corpus.prepare import FORMAT

WORDS, LENGTH, BLOCK = 60, 3, 500_000
STUDENT = (
    "--arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 8 --decoder-embed-dim 8 "
    "--encoder-ffn-embed-dim 8 --decoder-ffn-embed-dim 8 --encoder-attention-heads 1 --decoder-attention-heads 1 "
    "--share-all-embeddings --optimizer adam --lr 0.001 --max-tokens 2000 --max-update 3 --meta-start 1 --teacher-hidden-dim 8 "
    "--teacher-replay 1 --cpu --num-workers 0 --disable-validation --seed 1"
).split()

#: runs a module as a program and leaves its peak, in MiB, in a file
NOTING_THE_PEAK = """
import atexit, runpy, sys
from benchmarks.apart import most_resident
path, module = sys.argv[1:3]
del sys.argv[1:3]
atexit.register(lambda: open(path, "w").write(str(most_resident())))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="20000,200000", help="sizes, comma-separated (default: %(default)s)")
    parser.add_argument("--steps", default="weights,from-log,filter", help="what is measured (default: %(default)s)")
    parser.add_argument("--json", default="weights_memory.json", help="where the result goes (default: %(default)s)")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        small = write_corpus(Path(folder, "small"), 2000)
        if "weights" in args.steps:
            train = ["-m", "fairseq_cli.train", small, "--user-dir", ROOT / "fairseq_l2rw", "--task", "l2rw_translation", *STUDENT]
            measured([*train, "--save-dir", Path(folder, "run")])
        for pairs in map(int, args.pairs.split(",")):
            data = write_corpus(Path(folder, f"corpus{pairs}"), pairs)
            out = data / "weights.tsv"
            for step in args.steps.split(","):
                rows.append({"step": step, "pairs": pairs, **measured(command(step, data, out, Path(folder)))})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            subprocess.run(["rm", "-r", str(data)], check=True)
    rows.sort(key=lambda row: (row["step"], row["pairs"]))
    print(table(rows, digits=1))
    write_json(args.json, vars(args), rows)


def command(step: str, data: Path, out: Path, folder: Path) -> list:
    ours = ["-m", "fairseq_l2rw.cli.main"]
    if step == "weights":
        path = folder / "run" / "checkpoint_last.pt"
        return [*ours, "weights", data, "--path", path, "--out", out, "--cpu", "--labels", data / "raw" / "train.labels.tsv"]
    if step == "from-log":
        return [*ours, "weights", data, "--from-log", data / "log.gz", "--out", data / "gains.tsv"]
    raw = [data / "raw" / "train.de", data / "raw" / "train.en"]
    scores = out if out.exists() else data / "gains.tsv"
    return [*ours, "filter", "--weights", scores, "--input", *raw, "--out", data / "best.de", data / "best.en", "--keep", "0.7"]


def measured(words: list) -> dict:
    """Runs a command of Python's and says how long it took and how large it grew."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as log, tempfile.NamedTemporaryFile("r") as peak:
        command = [sys.executable, "-c", NOTING_THE_PEAK, peak.name, *map(str, words[1:])]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{words} failed:\n{log.read()[-2000:].decode()}")
        mebibytes = float(peak.read())
    cpu = usage.ru_utime + usage.ru_stime
    return {"peak MiB": mebibytes, "CPU s": cpu, "wall s": time.perf_counter() - begun}


def write_corpus(folder: Path, pairs: int) -> Path:
    """A folder as ``prepare`` makes it, written block by block, and a log with a row for each pair."""
    (folder / "raw").mkdir(parents=True)
    words = np.array([f"w{i}" for i in range(WORDS)])
    for seed, lang in enumerate(("de", "en")):
        (folder / f"dict.{lang}.txt").write_text("".join(f"{word} 1\n" for word in words))
        for split in ("train", "valid"):
            write_side(folder, split, lang, pairs if split == "train" else 50, words, seed)
    np.save(folder / "train.lines.npy", np.arange(pairs))
    with open(folder / "raw" / "train.labels.tsv", "w") as labels:
        labels.write("id\tkind\n")
        labels.writelines(f"{n}\t{'misaligned' if n % 3 else 'clean'}\n" for n in range(pairs))
    (folder / "prepare.json").write_text(json.dumps({"format": FORMAT, "settings": {"src": "de", "tgt": "en", "joint": True}}))
    log, rng = InfluenceLog(str(folder / "log.gz")), np.random.default_rng(5)
    for start in range(0, pairs, 1000):
        ids = range(start, min(start + 1000, pairs))
        log.write(start // 1000, "misaligned", ids, *rng.normal(size=(3, len(ids))).tolist())
    log.flush()
    return folder


def write_side(folder: Path, split: str, lang: str, pairs: int, words: np.ndarray, seed: int) -> None:
    """Text, and fairseq's mmap format, of sentences that are all of one length."""
    rng, size = np.random.default_rng(seed), LENGTH + 1
    prefix = folder / f"{split}.de-en.{lang}"
    header = b"MMIDIDX\x00\x00" + (1).to_bytes(8, "little") + bytes([8]) + pairs.to_bytes(8, "little")
    with open(f"{prefix}.bin", "wb") as data, open(folder / "raw" / f"{split}.{lang}", "w") as text:
        for start in range(0, pairs, BLOCK):
            drawn = rng.integers(0, WORDS, (min(BLOCK, pairs - start), LENGTH))
            text.writelines(" ".join(row) + "\n" for row in words[drawn].tolist())
            tokens = np.full((len(drawn), size), 2, dtype=np.uint16)  # the end of sentence; words come after 4 special symbols
            tokens[:, :LENGTH] = drawn + 4
            data.write(tokens.tobytes())
    with open(f"{prefix}.idx", "wb") as index:
        index.write(header)
        index.write(np.full(pairs, size, dtype=np.int32).tobytes())
        index.write((np.arange(pairs, dtype=np.int64) * size * 2).tobytes())


if __name__ == "__main__":
    main()
