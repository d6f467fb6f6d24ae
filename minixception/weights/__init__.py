"""Weights on disk: read from Keras 1 to 3, timm and our own files; written as .safetensors or for Keras 3.

A reader turns a file into tensors that are not yet read (source.py) with names or layers (layers.py); match.py settles
which becomes which of the model's; only when every one has its place are they read and assigned.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ArgumentError, WeightsError
from . import archive, hdf5, keras3, keras_h5, timm
from .imagenet import imagenet_file
from .layers import FileLayer
from .match import MISSING, SHAPE, SURPLUS, Match, Problem, match_layers, match_names, tolerated
from .safetensors import open_tensors
from .safetensors import read_tensors as read_tensors
from .safetensors import write_tensors as write_tensors
from .source import Source, StoredTensor

if TYPE_CHECKING:
    from ..nn import Module


@dataclass(frozen=True)
class Loaded:
    """What a file was, and what was left. layout: "Keras .h5", "Keras 3 .weights.h5", the same "in .keras", "timm" or
    "minixception".

    tensors: how many were loaded. outside: names of the file's other tensors, which ``read_weights`` reads; there are
    some if only a part of the file was loaded. missing: names of the model's tensors that stayed as they were; there
    are some only if ``strict=False``.
    """

    layout: str
    tensors: int
    outside: tuple[str, ...]
    missing: tuple[str, ...] = ()


def load_weights(
    model: Module,
    path: str | os.PathLike[str],
    conventions: str | None = None,
    part: str | None = None,
    strict: bool = True,
) -> Loaded:
    """Give the model every parameter and buffer from a file; strict, and nothing changes unless all fit.

    path: a file of Keras (.h5 of any version, .weights.h5, .keras, also with the model nested in a larger one), of
    timm's legacy_xception (.safetensors) or our own; what it is shows in its content, not in its name. "imagenet" is
    Xception's released file, downloaded into the user's cache.
    conventions: "timm" makes the model's batchnorm and max pools compute as timm's, which its own weights expect.
    part: "base" for a model whose layers the file has together with others, as those of a head; or which of the models
    nested in the file it is, by the name that errors give it. The model must be complete, what is beside it is left.
    strict: False loads what fits and leaves the rest, on both sides. The result lists what was left.

    Raises WeightsError listing every missing, surplus, misshaped or duplicated tensor, and saying what to do, or what
    is wrong with the file; ArgumentError for other conventions, or "imagenet" for another model; DataError if the
    download fails. Memory: the file's tensors once, beside the model.

    >>> import tempfile
    >>> import minixception as mx
    >>> model = mx.models.mini_xception(10, widths=(8,), middle_blocks=1, stem=8)
    >>> other = mx.models.mini_xception(5, widths=(8,), middle_blocks=1, stem=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(model, folder + "/w.safetensors")
    ...     load_weights(model, folder + "/w.safetensors")
    ...     load_weights(other, folder + "/w.safetensors", strict=False).missing
    Loaded(layout='minixception', tensors=42, outside=(), missing=())
    ('predictions.weight', 'predictions.bias')
    """
    if conventions not in (None, "timm"):
        raise ArgumentError(f"conventions must be None or 'timm', got {conventions!r}")
    path = imagenet_file(model) if path == "imagenet" else Path(path)
    with _opened(path) as (layout, content):
        if isinstance(content, dict):
            tensors, match = content, match_names(model, content, part)
        else:
            tensors, match = _by_name(content), match_layers(model, content, part)
        loaded = _assign(model, match, tensors, layout, tolerated(part, strict))
    if conventions == "timm":
        timm.apply_conventions(model)
    return loaded


def read_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every tensor of a file that ``load_weights`` reads, also those that no model of ours has: {name: array}.

    The names are those of errors and of ``Loaded.outside``; arrays have the file's shapes and dtypes, and those of timm
    our names and axes. Raises WeightsError as ``load_weights`` does for a file that is damaged or of another kind.

    >>> import tempfile
    >>> import minixception as mx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     mx.nn.Linear(3, 2).save_weights(folder + "/w.safetensors")
    ...     {name: array.shape for name, array in read_weights(folder + "/w.safetensors").items()}
    {'bias': (2,), 'weight': (3, 2)}
    """
    with _opened(Path(path)) as (_, content):
        tensors = content if isinstance(content, dict) else _by_name(content)
        return {name: tensor.read() for name, tensor in tensors.items()}


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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[str, dict[str, StoredTensor] | list[FileLayer]]]:
    """The layout that the file's first bytes tell, with its tensors or layers. Each WeightsError names the file."""
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}")
    try:
        with open(path, "rb") as file:
            head, size = file.read(8), path.stat().st_size
            if head == hdf5.SIGNATURE:
                yield _layers(Source(file, 0, size))
            elif head.startswith(archive.SIGNATURE):
                with archive.open_weights(file, size) as source:
                    yield _layers(source, " in .keras")
            else:
                with open_tensors(path) as tensors:
                    is_timm = timm.is_timm(tensors)
                    yield ("timm", timm.from_timm(tensors)) if is_timm else ("minixception", tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _layers(source: Source, where: str = "") -> tuple[str, list[FileLayer]]:
    root = hdf5.read_hdf5(source)
    if keras_h5.is_keras_h5(root):
        return f"Keras .h5{where}", keras_h5.read_keras_h5(root)
    if keras3.is_keras3(root):
        return f"Keras 3 .weights.h5{where}", keras3.read_keras3(root)
    raise WeightsError("expected the layers that Keras writes, got another kind of HDF5 file")


def _by_name(layers: Sequence[FileLayer]) -> dict[str, StoredTensor]:
    return {tensor.name: tensor for layer in layers for tensor in layer.tensors.values()}


def _assign(
    model: Module, match: Match, tensors: dict[str, StoredTensor], layout: str, tolerated: Collection[str]
) -> Loaded:
    """Read the tensors that are settled and give them to the model, if there is no problem but those tolerated."""
    if problems := match.against(tolerated):
        lines = "\n  ".join(problem.line for problem in problems)
        advice = _advice(model, problems)
        raise WeightsError(f"the weights ({layout}) do not fit the model, nothing was loaded{advice}:\n  {lines}")
    if not match.certain:
        raise WeightsError(f"the weights ({layout}) have no tensor that fits the model, nothing was loaded")
    arrays = {name: tensor.read() for name, tensor in match.certain.items()}
    if wrong := [match.tensors[name].name for name, array in arrays.items() if array.dtype.kind != "f"]:
        raise WeightsError(f"expected floats of 16, 32 or 64 bits in {', '.join(wrong)}")
    used = {tensor.name for tensor in match.certain.values()}
    missing = tuple(name for name, _ in model.named_tensors() if name not in arrays)
    model.load_state_dict(model.state_dict() | arrays if missing else arrays)
    outside = tuple(tensor.name for tensor in tensors.values() if tensor.name not in used)
    return Loaded(layout, len(arrays), outside, missing)


def _advice(model: Module, problems: list[Problem]) -> str:
    """What to do about these problems: the number of classes, a part, or less strictness."""
    kinds = {problem.kind for problem in problems}
    names = [name for name, _ in model.named_parameters()]
    last = names[-1].rpartition(".")[0] if names else ""
    if kinds == {SHAPE} and all(
        p.found and p.tensor.rpartition(".")[0] == last and p.expected[:-1] == p.found[:-1] for p in problems
    ):
        classes = problems[0].found[-1]
        return (
            f"; the file has {classes} classes: build the model with num_classes={classes}, on the command line "
            f"--classes {classes}, or leave the last layer as it is with strict=False"
        )
    if kinds == {SURPLUS}:
        return '; the file has more than the model, such as a head: part="base" or strict=False leaves that'
    if kinds == {MISSING}:
        return "; the model has more than the file: strict=False leaves that as it is"
    return "; strict=False loads what fits and lists the rest" if kinds <= {SHAPE, SURPLUS, MISSING} else ""
