"""Bytes on disk, read by offset and never past the end, and tensors that are read only when a model takes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from ..errors import WeightsError


class Source:
    """``size`` bytes of an open file from ``start`` on: a whole file, or one stored in an archive."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; WeightsError where the source does not have them."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise WeightsError(f"expected {length:,} bytes at offset {offset:,}, the file has {self.size:,}")
        self.file.seek(self.start + offset)
        data = self.file.read(length)
        if len(data) != length:
            raise WeightsError(f"expected {length:,} bytes at offset {offset:,}, the file ended after {len(data):,}")
        return data

    def array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The array stored at ``offset`` in C order."""
        if 0 in shape:  # its offset may be undefined
            return np.empty(shape, dtype)
        length = math.prod(shape) * dtype.itemsize  # Python integers: a claimed shape cannot overflow them
        return np.frombuffer(self.read(offset, length), dtype).reshape(shape)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its name there, its shape, and ``read()``, which brings the values."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def reshaped(self, shape: tuple[int, ...]) -> StoredTensor:
        """The same values, in the same order, in another shape."""
        return StoredTensor(self.name, shape, lambda: self.read().reshape(shape))

    def transposed(self, *axes: int) -> StoredTensor:
        """The same values with the axes in another order."""
        return StoredTensor(self.name, tuple(self.shape[a] for a in axes), lambda: self.read().transpose(axes))
