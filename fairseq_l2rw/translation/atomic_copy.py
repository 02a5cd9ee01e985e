"""The one thing in fairseq that is mended: a copy of a checkpoint appears under its name whole, or not at all.

fairseq writes the first checkpoint of a save to a temporary name and renames it, but makes the others, and
``checkpoint_last.pt`` is nearly always one of them, by a plain copy over the file of the save before. A training that is killed
during the copy, or that runs out of disk space, then has neither: the new ``checkpoint_last.pt`` is cut short and the old one gone.
Here the copy too goes to a temporary name first.
"""

from __future__ import annotations

import contextlib
import functools
import os

from fairseq.file_io import PathManager


def mend_copy() -> None:
    """Makes fairseq's ``PathManager.copy`` atomic for files on disk; calling it again changes nothing."""
    plain_copy = PathManager.copy
    if getattr(plain_copy, "_is_atomic", False):
        return

    @functools.wraps(plain_copy)
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> bool:
        if not PathManager.supports_rename(dst_path):
            return plain_copy(src_path, dst_path, overwrite=overwrite)
        temporary = dst_path + ".tmp"  # as fairseq's own saves name it: a later save writes over what a kill left
        try:
            done = plain_copy(src_path, temporary, overwrite=True)
            if done:
                os.replace(temporary, dst_path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            raise
        return done

    copy._is_atomic = True  # type: ignore[attr-defined]
    PathManager.copy = staticmethod(copy)
