"""Compiled kernels on the disk: when they are stale, and what to do where the files are damaged or cannot be written.

Numba looks only at the file that a kernel is written in, so an edit of a helper in another file would go unnoticed:
here a stamp of more files can be added. And Numba raises whatever it meets in the cache: a file that a crash has cut
short would break a kernel until somebody deletes it, and a full disk its first call. But a cache is no more than time
saved: what cannot be read is compiled anew, what cannot be written is compiled in each run, and a line says so.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


def stamp_of(files: Iterable[Path]) -> str:
    """A digest of the files' contents."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_careful(dispatcher: Any, stamp: str) -> None:
    """Let cached code be stale when the stamp is another, and no file of the cache stop a kernel."""
    files = dispatcher._cache
    files._cache_file._source_stamp = (files._cache_file._source_stamp, stamp)
    load, save = files.load_overload, files.save_overload

    def load_overload(signature: Any, target: Any) -> Any:
        try:
            return load(signature, target)
        except Exception as error:  # whatever unpickling a damaged file may raise
            _say(f"a compiled kernel in the cache is damaged ({type(error).__name__}) and is compiled anew")
            _forget(files)
            return None

    def save_overload(signature: Any, compiled: Any) -> None:
        try:
            save(signature, compiled)
        except OSError as error:
            _say(f"compiled kernels cannot be kept for the next run ({error.strerror}); set NUMBA_CACHE_DIR")

    files.load_overload, files.save_overload = load_overload, save_overload


def _forget(files: Any) -> None:
    """Begin the kernel's index anew, if it can be written."""
    try:
        files.flush()
    except OSError:
        return


@cache  # once for each text
def _say(text: str) -> None:
    print(f"minixception: {text}", file=sys.stderr)
