"""A file that is written chunk by chunk and survives a kill: the next run goes on after the last whole chunk.

While it grows, its text lies in ``.NAME.partial`` beside its name, and how far it has come in ``.NAME.partial.json``. The
second is renamed into place after each chunk, so it never promises more than the first holds; what lies beyond is cut off.
"""

import contextlib
import gzip
import json
import logging
import os
from typing import Any, Dict, Optional

logger = logging.getLogger(__name__)


class ChunkedFile:
    """The file `path`, to be written in chunks.

    Args:
        path: its name; with ``.gz`` at the end each chunk becomes a gzip member.
        made_from: all that decides its text (plain JSON). What another setting left half-written is thrown away.

    Attributes:
        chunks: whole chunks written so far.
        notes: what came with the last of them.
    """

    def __init__(self, path: str, made_from: Dict[str, Any]):
        self.path = path
        folder, name = os.path.split(path)
        os.makedirs(folder or ".", exist_ok=True)
        self._partial = os.path.join(folder, f".{name}.partial")
        self._record = self._partial + ".json"
        self._made_from = json.loads(json.dumps(made_from))
        state = self._read_state()
        self.chunks, self.notes, self._bytes = state["chunks"], state["notes"], state["bytes"]
        with open(self._partial, "r+b" if self.chunks else "wb") as handle:
            handle.truncate(self._bytes)

    def _read_state(self) -> Dict[str, Any]:
        new: Dict[str, Any] = {"chunks": 0, "notes": None, "bytes": 0}
        try:
            with open(self._record, encoding="utf-8") as handle:
                state = json.load(handle)
        except (OSError, ValueError):
            return new
        if state.get("made_from") != self._made_from or not os.path.exists(self._partial):
            logger.warning("%s: was begun with other settings; it begins anew", self.path)
            return new
        return state if os.path.getsize(self._partial) >= state["bytes"] else new

    def write(self, text: str, notes: Any = None) -> None:
        """Adds a chunk; it is on the disk when this returns."""
        content = text.encode("utf-8")
        if self.path.endswith(".gz"):
            content = gzip.compress(content, mtime=0)
        with open(self._partial, "ab") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        self._bytes, self.chunks, self.notes = self._bytes + len(content), self.chunks + 1, notes
        state = {"made_from": self._made_from, "chunks": self.chunks, "bytes": self._bytes, "notes": notes}
        with open(self._record + ".new", "w", encoding="utf-8") as handle:
            json.dump(state, handle)
        os.replace(self._record + ".new", self._record)

    def finish(self) -> None:
        """Gives the file its name."""
        os.replace(self._partial, self.path)
        self.discard()

    def discard(self) -> None:
        """Removes what is half-written: after bad input there is nothing to go on with."""
        for path in (self._partial, self._record):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def identity(path: str) -> Optional[Dict[str, int]]:
    """Size and time of change of a file: enough to see that it is not the one of before."""
    status = os.stat(path)
    return {"bytes": status.st_size, "changed": status.st_mtime_ns}
