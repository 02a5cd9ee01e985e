"""Reading and writing parallel text: plain or gzip (by extension), UTF-8, one sentence a line.

Python's own text mode also ends a line at ``\\r``, and ``str.splitlines`` at U+2028, U+0085 and more. In web-crawled
text those stand inside sentences, and one of them would shift every pair after it. So files are split as bytes.
"""

import contextlib
import gzip
import hashlib
import io
import os
import zlib
from typing import IO, Iterable, Iterator, List, Tuple

from fairseq_l2rw.errors import L2RWError

Pair = Tuple[str, str]  # (source sentence, target sentence), without the line end


def read_lines(path: str) -> Iterator[str]:
    """Yields the lines of `path`, without their ``\\n`` and otherwise unchanged.

    Raises:
        L2RWError: the file is missing, unreadable, a damaged gzip file or not UTF-8 (the line is named).
    """
    number = 0
    try:
        with _open_bytes(path) as handle:
            for number, line in enumerate(handle, start=1):
                yield line.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise L2RWError(
            f"{path}, line {number}: not UTF-8 ({error.reason}); convert the file, for example with iconv"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise L2RWError(
            f"{path}: damaged gzip file after line {number} ({error}); fetch or compress it again"
        ) from error
    except OSError as error:
        raise L2RWError(f"{path}: cannot be read ({error.strerror or error}); check the name and its rights") from error


def read_pairs(src: str, tgt: str) -> Iterator[Pair]:
    """Yields the pairs of two files, line by line.

    Raises:
        L2RWError: the files have unequal line counts. It is known at the end only, so whoever writes on the way should
            do it with `writing`, which drops what was written.
    """
    sides = read_lines(src), read_lines(tgt)
    count = 0
    while True:
        lines = [next(side, None) for side in sides]
        if None in lines:
            break
        count += 1
        yield lines[0], lines[1]
    counts = [count + (line is not None) + sum(1 for _ in side) for line, side in zip(lines, sides)]
    if counts[0] != counts[1]:
        raise L2RWError(
            f"unequal line counts: {src} has {counts[0]} lines, {tgt} has {counts[1]}; give two files in which line N "
            "is the translation of line N"
        )


def find_text(prefix: str, lang: str) -> str:
    """The raw file PREFIX.LANG, or PREFIX.LANG.gz where only that exists."""
    plain = f"{prefix}.{lang}"
    for path in (plain, plain + ".gz"):
        if os.path.isfile(path):
            return path
    raise L2RWError(f"{plain}: no such file (nor {plain}.gz); a prefix is what stands before .{lang}")


@contextlib.contextmanager
def writing(*paths: str) -> Iterator[List[IO[str]]]:
    """Opens text files for writing that appear under their names together, and only if the block ends well."""
    partial = [
        os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.partial-{os.getpid()}") for path in paths
    ]
    try:
        with contextlib.ExitStack() as stack:
            handles = []
            for path, temporary in zip(paths, partial):
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                handles.append(stack.enter_context(_create_text(temporary, compress=path.endswith(".gz"))))
            yield handles
        for path, temporary in zip(paths, partial):
            os.replace(temporary, path)
    finally:
        for temporary in partial:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


def write_lines(path: str, lines: Iterable[str]) -> int:
    """Writes `lines` to `path`, each with a ``\\n``, and returns their number."""
    count = 0
    with writing(path) as (handle,):
        for count, line in enumerate(lines, start=1):
            handle.write(line + "\n")
    return count


def file_sha256(path: str) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open_bytes(path: str) -> IO[bytes]:
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


@contextlib.contextmanager
def _create_text(path: str, compress: bool) -> Iterator[IO[str]]:
    with contextlib.ExitStack() as stack:
        handle = stack.enter_context(open(path, "wb"))
        if compress:
            # No name and no time in the header: the same text gives the same bytes.
            handle = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0))
        yield stack.enter_context(io.TextIOWrapper(handle, encoding="utf-8", newline="\n"))
