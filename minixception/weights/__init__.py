"""Weights on disk: read from Keras 1 to 3, timm and our own files; written as .safetensors or for Keras 3.

A reader turns a file into tensors that are not yet read (source.py) with names or layers (layers.py); match.py settles
which becomes which of the model's; only when every one has its place are they read and assigned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArgumentError, WeightsError
from . import archive, hdf5, keras3, keras_h5, timm
from .imagenet import imagenet_file
from .match import Match, match_layers, match_names
from .safetensors import open_tensors
from .safetensors import read_tensors as read_tensors
from .safetensors import write_tensors as write_tensors
from .source import Source

if TYPE_CHECKING:
    from ..nn import Module


@dataclass(frozen=True)
class Loaded:
    """What a file was. layout: "Keras .h5", "Keras 3 .weights.h5", the same "in .keras", "timm" or "minixception".

    tensors: how many were loaded. outside: names of the file's other tensors, if only a model nested in it was loaded.
    """

    layout: str
    tensors: int
    outside: tuple[str, ...]


def load_weights(model: Module, path: str | os.PathLike[str], conventions: str | None = None) -> Loaded:
    """Give the model every parameter and buffer from a file; strict, and nothing changes unless all fit.

    path: a file of Keras (.h5 of any version, .weights.h5, .keras, also with the model nested in a larger one), of
    timm's legacy_xception (.safetensors) or our own; what it is shows in its content, not in its name. "imagenet" is
    Xception's released file, downloaded into the user's cache.
    conventions: "timm" makes the model's batchnorm and max pools compute as timm's, which its own weights expect.

    Raises WeightsError listing every missing, surplus, misshaped or duplicated tensor, or saying what is wrong with the
    file; ArgumentError for other conventions, or "imagenet" for another model; DataError if the download fails.
    Memory: the file's tensors once, beside the model.

    >>> import tempfile
    >>> import minixception as mx
    >>> model = mx.models.mini_xception(10, widths=(8,), middle_blocks=1, stem=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(model, folder + "/w.weights.h5")
    ...     load_weights(model, folder + "/w.weights.h5")
    Loaded(layout='Keras 3 .weights.h5', tensors=42, outside=())
    """
    if conventions not in (None, "timm"):
        raise ArgumentError(f"conventions must be None or 'timm', got {conventions!r}")
    path = imagenet_file(model) if path == "imagenet" else Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    try:
        loaded = _load(model, path)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    if conventions == "timm":
        timm.apply_conventions(model)
    return loaded


def save_weights(model: Module, path: str | os.PathLike[str]) -> None:
    """Write every parameter and buffer, whole or not at all: .safetensors, or .weights.h5 for Keras 3.

    Raises WeightsError for other names, ArgumentError for layers that Keras does not have, and for a model that has no
    parameters at all.
    """
    name = Path(path).name
    if next(model.named_tensors(), None) is None:
        raise ArgumentError(f"{type(model).__name__} has no parameters to save: are its layers its attributes?")
    if name.endswith(".safetensors"):
        write_tensors(path, model.state_dict(), {"format": "minixception"})
    elif name.endswith(".weights.h5"):
        keras3.write_keras3(model, path)
    else:
        raise WeightsError(f"weights are written to .safetensors or .weights.h5 files, got {name!r}")


def _load(model: Module, path: Path) -> Loaded:
    """Open the file as what its first bytes say it is."""
    with open(path, "rb") as file:
        head, size = file.read(8), path.stat().st_size
        if head == hdf5.SIGNATURE:
            return _load_hdf5(model, Source(file, 0, size))
        if head.startswith(archive.SIGNATURE):
            with archive.open_weights(file, size) as source:
                return _load_hdf5(model, source, " in .keras")
    with open_tensors(path) as tensors:
        if timm.is_timm(tensors):
            return _assign(model, match_names(model, timm.from_timm(tensors)), "timm")
        return _assign(model, match_names(model, tensors), "minixception")


def _load_hdf5(model: Module, source: Source, where: str = "") -> Loaded:
    root = hdf5.read_hdf5(source)
    if keras_h5.is_keras_h5(root):
        return _assign(model, match_layers(model, keras_h5.read_keras_h5(root)), f"Keras .h5{where}")
    if keras3.is_keras3(root):
        return _assign(model, match_layers(model, keras3.read_keras3(root)), f"Keras 3 .weights.h5{where}")
    raise WeightsError("expected the layers that Keras writes, got another kind of HDF5 file")


def _assign(model: Module, match: Match, layout: str) -> Loaded:
    """Read all tensors and give them to the model, if there is no problem."""
    if match.problems:
        lines = "\n  ".join(match.problems)
        raise WeightsError(f"the weights ({layout}) do not fit the model, nothing was loaded:\n  {lines}")
    model.load_state_dict({name: tensor.read() for name, tensor in match.tensors.items()})
    return Loaded(layout, len(match.tensors), tuple(match.outside))
