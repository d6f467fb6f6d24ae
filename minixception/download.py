"""Fetch one file over http(s): with progress, resumed where it broke off, checked, and never half-written.

What speaks http is imported where it is needed: it was a seventh of what importing the package took.
"""

from __future__ import annotations

import hashlib
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from http.client import HTTPResponse

from .errors import ArgumentError, DataError

_BLOCK = 1 << 16  # bytes read at once
_TIMEOUT = 30.0  # seconds without a single byte before the server counts as gone


def cache_dir() -> Path:
    """The folder for downloaded data: $MINIXCEPTION_CACHE, or "minixception" in the user's cache folder.

    It is not created. The user's cache folder is %LOCALAPPDATA% on Windows, ~/Library/Caches on macOS, and
    $XDG_CACHE_HOME or ~/.cache elsewhere.

    >>> cache_dir().is_absolute()
    True
    """
    if own := os.environ.get("MINIXCEPTION_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "minixception"


def download(
    url: str, target: Path, *, md5: str | None = None, sha256: str | None = None, size: int | None = None
) -> Path:
    """Fetch ``url`` into ``target``, unless a file with the right checksum is there already.

    The bytes go to ``target`` + ".part"; a later call goes on where an interrupted one stopped, when the
    server allows it. ``target`` itself appears only when size and checksum are right.

    Args:
        url: an http or https address.
        target: the file to write; its folder is created.
        md5, sha256: exactly one of them, the checksum in hexadecimal digits.
        size: the length in bytes, when it is known.

    Returns:
        target.

    Raises:
        ArgumentError: not http(s), or not exactly one checksum.
        DataError: one line naming the file, where it belongs, and what went wrong.
    """
    from http.client import HTTPException

    if urlsplit(url).scheme not in ("http", "https"):
        raise ArgumentError(f"expected an http or https address, got {url!r}")
    if (md5 is None) == (sha256 is None):
        raise ArgumentError("expected exactly one checksum, md5 or sha256")
    algorithm, expected = ("md5", md5) if md5 is not None else ("sha256", sha256)
    if target.is_file() and _digest(target, algorithm) == expected:
        return target
    part = target.with_name(target.name + ".part")
    wanted = f"could not download {target.name} from {url} into {target.parent}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        total = _fetch(url, part)
    except (OSError, HTTPException) as error:
        raise DataError(f"{wanted}: {error}") from error
    size = total if size is None else size
    got = part.stat().st_size
    if size is not None and got < size:
        raise DataError(
            f"{wanted}: expected {size:,} bytes, the connection ended after {got:,}; run it again to resume"
        )
    actual = _digest(part, algorithm)
    if actual != expected or (size is not None and got != size):
        part.unlink()
        came = f"{algorithm} {actual} and {got:,} bytes"
        raise DataError(f"{wanted}: expected {algorithm} {expected}{_bytes(size)}, got {came}; removed what came")
    os.replace(part, target)
    return target


def _fetch(url: str, part: Path) -> int | None:
    """Append to ``part`` what it lacks. Returns the length of the whole file, when the server tells it."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is as long as the file, or longer: let the checksum judge it
            return None
        raise
    with closing(response):
        resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            raise HTTPException(f"asked for the bytes from {have}, got {response.headers.get('Content-Range')!r}")
        start = have if resumed else 0  # a server without ranges sends the whole file again
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, part.stem, start, total)
    return total


def _copy(response: HTTPResponse, file: BinaryIO, name: str, start: int, total: int | None) -> None:
    """Copy the response's body to the file, with a progress bar on a terminal, until either ends."""
    from tqdm import tqdm

    with tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None) as bar:
        while block := response.read(_BLOCK):
            file.write(block)
            bar.update(len(block))
    file.flush()
    os.fsync(file.fileno())


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _bytes(size: int | None) -> str:
    return "" if size is None else f" and {size:,} bytes"
