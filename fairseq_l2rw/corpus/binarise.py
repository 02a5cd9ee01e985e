"""fairseq-preprocess on the pieces of all splits, in a folder that `prepare` makes."""

import logging
import os
import shutil
import subprocess
import sys
from typing import Sequence

from fairseq_l2rw.corpus.build_folder import BuildFolder
from fairseq_l2rw.errors import L2RWError

logger = logging.getLogger(__name__)


def binarise(build: BuildFolder, src: str, tgt: str, splits: Sequence[str], joint: bool, shards: Sequence[str], workers: int) -> None:
    """Makes dictionaries and binarised splits of the pieces in work/SPLIT.LANG (work/SHARD.train.LANG).

    Args:
        build: the data folder in the making.
        src, tgt: languages.
        splits: train and valid, perhaps test and meta.
        joint: one dictionary for both languages.
        shards: folders that the training pairs are dealt out to; none: the data folder itself has them.
        workers: of fairseq-preprocess.

    Raises:
        L2RWError: fairseq-preprocess failed; its messages are on stderr.
    """
    for name in build.files():  # what a killed run left
        if name.endswith((".bin", ".idx")) or os.path.basename(name).startswith("dict."):
            os.remove(build.path(name))
    tests = [split for split in ("test", "meta") if split in splits]
    others = ["--validpref", "work/valid"]
    others += ["--testpref", ",".join(f"work/{split}" for split in tests)] if tests else []
    joined = ["--joined-dictionary"] if joint else []
    always = ["--source-lang", src, "--target-lang", tgt, "--workers", str(workers)]
    if not shards:
        _preprocess(build, [*always, "--trainpref", "work/train", *others, *joined])
    else:
        known = ["--srcdict", f"dict.{src}.txt", "--tgtdict", f"dict.{tgt}.txt"]
        _preprocess(build, [*always, "--trainpref", "work/train", "--dict-only", *joined])
        _preprocess(build, [*always, *others, *known])
        for shard in shards:
            _preprocess(build, [*always, "--trainpref", f"work/{shard}.train", *known], shard)
    for number, split in enumerate(tests):  # fairseq numbers them: test, test1
        given = f"test{number or ''}"
        for name in os.listdir(build.folder):
            if split != given and name.startswith(f"{given}.{src}-{tgt}."):
                os.rename(build.path(name), build.path(split + name.removeprefix(given)))
    for shard in shards:
        for name in os.listdir(build.folder):
            if name.endswith((".bin", ".idx")):
                shutil.copyfile(build.path(name), build.path(shard, name))


def _preprocess(build: BuildFolder, options: Sequence[str], out: str = ".") -> None:
    command = [sys.executable, "-m", "fairseq_cli.preprocess", "--destdir", out, *options]
    # Relative names, since fairseq splits prefixes at commas. Its joined dictionary goes through a Python set of file
    # names: without a fixed hash seed, words of equal frequency change places from run to run.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}
    logger.info("fairseq-preprocess %s", " ".join(options))
    done = subprocess.run(
        command, cwd=build.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise L2RWError(
            f"fairseq-preprocess ended with status {done.returncode}; its messages stand above. Run the same command "
            "again to go on from here"
        )
    os.remove(build.path(out, "preprocess.log"))  # it tells of a folder that is gone when the work is done
