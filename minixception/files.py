"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .errors import ArgumentError


def check_writable(path: str | os.PathLike[str]) -> None:
    """Ask before the work whose result goes there; ArgumentError if ``path`` cannot be written."""
    path = Path(path)
    if path.is_dir():
        raise ArgumentError(f"expected a file to write to, {path} is a folder")
    if not path.parent.is_dir():
        raise ArgumentError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise ArgumentError(f"{path} cannot be written: the folder {path.parent} is read-only")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it replaces ``path`` when the block ends well, else it is removed.

    An OSError of writing, such as that of a full disk, names ``path``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(folder + "/a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     Path(folder, "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # The system names no file when it has no room for more; and nobody knows the temporary one.
        if error.errno is None or error.filename not in (None, temporary, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # of the block's own error, if there was one, is to be told
            temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed while they wrote ``path`` left beside it; no other may be writing it."""
    left = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    for entry in path.parent.iterdir():
        if left.fullmatch(entry.name):
            entry.unlink(missing_ok=True)
