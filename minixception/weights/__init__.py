"""Weights on disk: the package's own layout in .safetensors, one tensor per name of ``state_dict()``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import WeightsError
from ..files import atomic_path

if TYPE_CHECKING:
    from ..nn import Module


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


def save_weights(model: Module, path: str | os.PathLike[str]) -> None:
    """Write every parameter and buffer of the model; the path must end in .safetensors."""
    _check_suffix(path)
    write_tensors(path, model.state_dict(), {"format": "minixception"})


def load_weights(model: Module, path: str | os.PathLike[str]) -> None:
    """Read a file written by ``save_weights``: every tensor must fit, or WeightsError lists what does not."""
    _check_suffix(path)
    model.load_state_dict(read_tensors(path)[0])


def _check_suffix(path: str | os.PathLike[str]) -> None:
    if Path(path).suffix != ".safetensors":
        raise WeightsError(f"weights are kept in .safetensors files, got {Path(path).name!r}")
