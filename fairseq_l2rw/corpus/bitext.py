"""Reading and writing parallel text: plain, gzip or Zstandard (by extension), UTF-8, one sentence a line.

Python's own text mode also ends a line at ``\\r``, and ``str.splitlines`` at U+2028, U+0085 and more. In web-crawled
text those stand inside sentences, and one of them would shift every pair after it. So files are split as bytes.
"""

import contextlib
import gzip
import hashlib
import io
import os
import zlib
from typing import IO, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from fairseq_l2rw.errors import L2RWError

Pair = Tuple[str, str]  # (source sentence, target sentence), without the line end
ENDINGS = ("", ".gz", ".zst")


class Bitext(NamedTuple):
    """Where the pairs of a corpus lie.

    Attributes:
        paths: the source file and the target file, or one TSV file.
        columns: of that TSV, the columns of source and target, counted from 1; None for two files.
    """

    paths: Tuple[str, ...]
    columns: Optional[Tuple[int, int]] = None

    def __str__(self) -> str:
        return ", ".join(self.paths)

    def pairs(self) -> Iterator[Pair]:
        """Yields the pairs; see `read_pairs` and `read_tsv`."""
        return read_tsv(self.paths[0], self.columns) if self.columns else read_pairs(*self.paths)


def read_lines(path: str) -> Iterator[str]:
    """Yields the lines of `path`, without their ``\\n`` and otherwise unchanged.

    Raises:
        L2RWError: the file is missing, unreadable, damaged (gzip, Zstandard) or not UTF-8 (the line is named).
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
        kind = "Zstandard" if path.endswith(".zst") else "gzip"
        raise L2RWError(
            f"{path}: damaged {kind} file after line {number} ({error}); fetch or compress it again"
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


def read_tsv(path: str, columns: Tuple[int, int] = (1, 2)) -> Iterator[Pair]:
    """Yields the pairs of two columns, counted from 1, of a file with tab-separated columns and no header.

    Raises:
        L2RWError: a line has fewer columns (it is named).
    """
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.split("\t")
        if len(cells) < max(columns):
            raise L2RWError(
                f"{path}, line {number}: {len(cells)} columns, and column {max(columns)} is wanted; mend the line or name "
                "the columns of source and target"
            )
        yield cells[columns[0] - 1], cells[columns[1] - 1]


def find_text(prefix: str, lang: str) -> str:
    """The raw file PREFIX.LANG, or PREFIX.LANG.gz or .zst where only that exists."""
    return _first_file([f"{prefix}.{lang}"]) or _fail_to_find(
        f"{prefix}.{lang}", f"a prefix is what stands before .{lang}"
    )


def find_bitext(prefix: str, langs: Sequence[str], columns: Tuple[int, int] = (1, 2)) -> Bitext:
    """The files PREFIX.LANG of both languages, or PREFIX itself or PREFIX.tsv as TSV; each plain, .gz or .zst.

    Raises:
        L2RWError: there are no such files.
    """
    if prefix.removesuffix(".gz").removesuffix(".zst").endswith(".tsv"):
        return Bitext((_first_file([prefix]) or _fail_to_find(prefix, "give a TSV file, or a prefix"),), columns)
    sides = [_first_file([f"{prefix}.{lang}"]) for lang in langs]
    table = _first_file([f"{prefix}.tsv"])
    if table and not any(sides):
        return Bitext((table,), columns)
    return Bitext(tuple(find_text(prefix, lang) for lang in langs))


def _first_file(names: Sequence[str]) -> Optional[str]:
    return next((name + end for name in names for end in ENDINGS if os.path.isfile(name + end)), None)


def _fail_to_find(name: str, remedy: str) -> str:
    raise L2RWError(f"{name}: no such file (nor {name}.gz, nor {name}.zst); {remedy}")


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
                handles.append(stack.enter_context(_create_text(temporary, os.path.splitext(path)[1])))
            yield handles
        for path, temporary in zip(paths, partial):
            os.replace(temporary, path)
    finally:
        for temporary in partial:
            with contextlib.suppress(FileNotFoundError):
                os.remove(temporary)


def remove_partial(folder: str) -> None:
    """Removes what `writing` left below `folder` when its process was killed; nobody else may be writing there."""
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and ".partial-" in name:
                os.remove(os.path.join(place, name))


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
    if path.endswith(".zst"):
        return io.BufferedReader(_ZstdReader(path), 1 << 17)
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


class _ZstdReader(io.RawIOBase):
    """The bytes of a Zstandard file of one or more frames. (The library's own reader takes a cut file for a whole one.)

    Raises:
        EOFError: the file ends within a frame.
        zlib.error: it is not Zstandard, or damaged.
    """

    def __init__(self, path: str):
        self._library = _zstandard(path)
        self._file = open(path, "rb")
        self._frame, self._input, self._output = None, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._output:
            self._input = self._input or self._file.read(1 << 17)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("it ends too early")
                return 0
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            try:
                self._output = self._frame.decompress(self._input)
            except self._library.ZstdError as error:
                raise zlib.error(str(error)) from error
            self._input = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size], self._output = self._output[:size], self._output[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _zstandard(path: str):
    try:
        import zstandard
    except ImportError as error:
        raise L2RWError(f"{path}: .zst files need the library zstandard: pip install zstandard") from error
    return zstandard


@contextlib.contextmanager
def _create_text(path: str, ending: str) -> Iterator[IO[str]]:
    with contextlib.ExitStack() as stack:
        if ending == ".zst":
            library = _zstandard(path)  # before a file is made
        handle = stack.enter_context(open(path, "wb"))
        if ending == ".gz":
            # No name and no time in the header: the same text gives the same bytes.
            handle = stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0))
        elif ending == ".zst":
            handle = stack.enter_context(library.ZstdCompressor().stream_writer(handle, closefd=False))
        yield stack.enter_context(io.TextIOWrapper(handle, encoding="utf-8", newline="\n"))
