"""The folder of a run: one process at a time, which removes what an earlier one left there when it was killed."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import CheckpointError
from ..files import remove_leftovers

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"

_LOCK = ".lock"  # says who has the folder; what counts is the system's lock on it, which ends with its process
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_BEHIND = 1 << 30  # the byte that Windows locks: those it locks cannot be read


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Have the folder for the block. CheckpointError, with the other process's number, if another run has it.

    However a process ends, its folder is free at once. Where the file system has no locks, nothing is locked.
    """
    path = folder / _LOCK
    file = _locked(path)
    try:
        for name in (CHECKPOINT, LOG):
            remove_leftovers(folder / name)
        yield
    finally:
        if sys.platform == "win32":  # which removes no open file
            file.close()
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _locked(path: Path) -> IO[str]:
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _HELD:
                with file:
                    file.seek(0)
                    holder = file.read() or "unknown"
                raise CheckpointError(
                    f"another run has the folder {path.parent}, process {holder}: let it end, or name another folder"
                ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"{os.getpid()} on {platform.node()}")
                file.flush()
                return file
        file.close()  # the run before removed it after we had opened it: what we have locked is no longer there


def _lock(file: IO[str]) -> None:
    """The system's lock on an open file, without waiting: OSError if another process has it, or there are none."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(_BEHIND)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
