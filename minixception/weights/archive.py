"""A .keras archive: a zip of config.json, metadata.json and model.weights.h5, of which only the last is opened.

No name in the archive becomes a path on disk, and nothing of the configuration is read. Keras stores the weights as
they are, so they are read where they lie; from a packed copy they go through a temporary file without a name.
"""

from __future__ import annotations

import contextlib
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import WeightsError
from .source import Source

SIGNATURE = b"PK\x03\x04"
MEMBER = "model.weights.h5"
MAX_DIRECTORY = 1 << 20  # bytes; zipfile keeps some hundred bytes of its own for each entry
MAX_GROWTH = 2  # weights hardly shrink when packed: what claims more is no weights file
ALLOWANCE = 1 << 20  # bytes that a small archive may grow by in any case
_BLOCK = 1 << 16
# What zipfile raises for a damaged archive: its own error; its decompressor's; those of headers that are cut short or
# hold impossible numbers; NotImplementedError for a way of packing that it does not know; and OSError when it is sent
# to before the start of the file. Each becomes a WeightsError, and any other is a mistake of ours and shows.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, OSError)


@contextlib.contextmanager
def open_weights(file: BinaryIO, size: int) -> Iterator[Source]:
    """The bytes of model.weights.h5 in this archive; WeightsError for all that a .keras archive is not."""
    with contextlib.ExitStack() as stack:
        try:
            _check_directory(file, size)
            archive = stack.enter_context(zipfile.ZipFile(file))
            info = _member(archive, size)
            packed = info.compress_type == zipfile.ZIP_DEFLATED
            target = stack.enter_context(tempfile.TemporaryFile()) if packed else None
            with archive.open(info) as member:  # reads to the end even where nothing is kept: the checksum is there
                while block := member.read(_BLOCK):
                    if target:
                        target.write(block)
            source = Source(target, 0, info.file_size) if target else _stored(file, info, size)
        except WeightsError:
            raise
        except _DAMAGE as error:
            raise WeightsError(f"expected a whole .keras archive: {error}") from None
        yield source


def _check_directory(file: BinaryIO, size: int) -> None:
    """Look at the size of the directory before zipfile builds an object for each entry that it claims."""
    length = min(size, (1 << 16) + 42)
    file.seek(size - length)
    tail = file.read(length)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise WeightsError("expected a whole .keras archive: it has no directory at its end")
    (directory,) = struct.unpack_from("<I", tail, end + 12)
    if directory > MAX_DIRECTORY or tail[max(0, end - 20) : end].startswith(b"PK\x06\x07"):
        raise WeightsError(f"expected an archive with a directory of at most {MAX_DIRECTORY:,} bytes")


def _member(archive: zipfile.ZipFile, size: int) -> zipfile.ZipInfo:
    infos = archive.infolist()
    for name, count in Counter(info.filename for info in infos).items():
        if count > 1:
            raise WeightsError(f"duplicated in the archive: {name!r}")
        if name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/"):
            raise WeightsError(f"expected plain names in the archive, got {name!r}")
    if any(info.flag_bits & 1 for info in infos):
        raise WeightsError("expected an archive without encryption")
    claimed = sum(info.file_size for info in infos)
    if claimed > MAX_GROWTH * size + ALLOWANCE:
        raise WeightsError(f"expected at most {MAX_GROWTH} times the archive's {size:,} bytes, it claims {claimed:,}")
    for info in infos:
        if info.filename == MEMBER:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise WeightsError(f"expected {MEMBER} stored or deflated, got method {info.compress_type}")
            return info
    raise WeightsError(f"expected {MEMBER} in the archive, got {', '.join(i.filename for i in infos[:8])}")


def _stored(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> Source:
    """The member where it lies, behind its own header, which zipfile has just checked."""
    header = Source(file, 0, size).read(info.header_offset, 30)
    name, extra = struct.unpack_from("<HH", header, 26)
    return Source(file, info.header_offset + 30 + name + extra, info.file_size)
