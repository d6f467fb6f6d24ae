"""Our own layout in .safetensors: one tensor per name of ``state_dict()``."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import WeightsError
from ..files import atomic_path
from .source import StoredTensor

MAX_HEADER = 1 << 22  # bytes; a thousand tensors need some 100 KiB
_FLOATS = ("F16", "F32", "F64")


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[dict[str, StoredTensor]]:
    """The tensors by name, to be read while the file is open. WeightsError unless the file is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise WeightsError(f"neither HDF5, nor a .keras archive, nor a whole .safetensors file: {error}") from None
    _check_unique(path)
    with opened as file:

        def stored(name: str) -> StoredTensor:
            view = file.get_slice(name)

            def read() -> np.ndarray:
                if view.get_dtype() not in _FLOATS:
                    raise WeightsError(f"expected floats of 16, 32 or 64 bits in {name}, got {view.get_dtype()}")
                return file.get_tensor(name)

            return StoredTensor(name, tuple(view.get_shape()), read)

        names = file.keys()  # an open file is no mapping: it cannot be iterated itself
        yield {name: stored(name) for name in names}


def _check_unique(path: Path) -> None:
    """The library keeps the last of two tensors of one name; here that is an error. The header is known to be whole."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise WeightsError(f"expected a header of at most {MAX_HEADER:,} bytes, got {length:,}")
        header = json.loads(file.read(length), object_pairs_hook=list)
    if twice := [name for name, count in Counter(name for name, _ in header).items() if count > 1]:
        raise WeightsError(f"duplicated: {', '.join(twice)}")


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a .safetensors file, and its text metadata; WeightsError if it is missing or corrupt."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()  # an open file is no mapping: it cannot be iterated itself
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (SafetensorError, TypeError) as error:  # TypeError: a dtype that NumPy does not have, like bfloat16
        raise WeightsError(f"{path} is not a whole .safetensors file that NumPy can read: {error}") from None


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors and text metadata to a .safetensors file, whole or not at all."""
    from safetensors.numpy import save

    with atomic_path(path) as temporary:
        temporary.write_bytes(save({name: np.asarray(array, order="C") for name, array in tensors.items()}, metadata))
