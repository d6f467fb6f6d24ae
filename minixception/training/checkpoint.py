"""Checkpoints: one .safetensors file with all arrays of a run and, as JSON text, how far it is."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, WeightsError
from ..weights import read_tensors, write_tensors
from .plain_data import is_count, is_number
from .recipe import Recipe

_FORMAT = "minixception checkpoint 1"
_PARTS = ("model", "optimizer", "ema")
_RECORD = ("epoch", "lr", "train_loss", "train_top1", "test_loss", "test_top1", "seconds")


@dataclass
class Progress:
    """How far a run is: ``step`` batches of ``epoch`` are done, with their means; a record per finished epoch."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0  # of this epoch, over all sittings
    means: dict[str, dict[str, float]] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds. parts: "model", "optimizer", "ema" -> name -> array. data: digests of what was trained on.

    Files of older versions have no digests: then any data of the same classes and sizes will do.
    """

    recipe: Recipe
    progress: Progress
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    parts: dict[str, dict[str, np.ndarray]]
    data: dict[str, str] = field(default_factory=dict)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file, whole or not at all: a run killed in the middle of it still has the one before."""
    arrays = {f"{part}/{name}": a for part, named in checkpoint.parts.items() for name, a in named.items()}
    run = {
        "recipe": checkpoint.recipe.to_json(),
        "progress": vars(checkpoint.progress),
        "class_names": checkpoint.class_names,
        "image_shape": checkpoint.image_shape,
        "data": checkpoint.data,
    }
    write_tensors(path, arrays, {"format": _FORMAT, "run": json.dumps(run)})


def read_checkpoint(path: Path, kind: type[Recipe] = Recipe) -> Checkpoint:
    """Read a file of ``write_checkpoint``, whose recipe is of this kind; CheckpointError if it is missing, corrupt or
    something else.
    """
    try:
        arrays, metadata = read_tensors(path)
    except WeightsError as error:
        raise CheckpointError(str(error).replace("weights file", "checkpoint")) from None
    if metadata.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version: its format is {metadata.get('format')!r}")
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    try:
        for key, array in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = array
        run: Mapping[str, Any] = json.loads(metadata["run"])
        recipe = kind.from_json(run["recipe"])
        checkpoint = Checkpoint(
            recipe=recipe,
            progress=_progress(run["progress"], recipe.epochs),
            class_names=tuple(run["class_names"]),
            image_shape=tuple(run["image_shape"]),
            parts=parts,
            data=dict(run.get("data", {})),
        )
        _check(checkpoint)
        return checkpoint
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its description of the run cannot be read ({error!r})") from None


def _progress(values: Mapping[str, Any], epochs: int) -> Progress:
    """The progress of a run of so many epochs; TypeError or ValueError if no run could be there."""
    progress = Progress(**values)
    epoch, records, means = progress.epoch, progress.records, progress.means
    if not (is_count(epoch) and epoch <= epochs and is_count(progress.step)):
        raise ValueError(f"impossible position: epoch {epoch!r:.80}, step {progress.step!r:.80}")
    if not (is_number(progress.seconds) and progress.seconds >= 0):
        raise ValueError(f"impossible time: {progress.seconds!r:.80}")
    if not (isinstance(records, list) and len(records) == epoch and all(_has_numbers(r, _RECORD) for r in records)):
        raise ValueError("expected one record with all measures for each finished epoch")
    if means != {} and not (
        _has_keys(means, ("loss", "top1")) and all(_has_numbers(m, ("total", "weight")) for m in means.values())
    ):
        raise ValueError("expected a total and a weight of loss and top1")
    return progress


def _check(checkpoint: Checkpoint) -> None:
    """TypeError or ValueError for what no data set has, and for another network than that of the arrays."""
    names, shape, recipe = checkpoint.class_names, checkpoint.image_shape, checkpoint.recipe
    if not names or not all(isinstance(text, str) for text in (*names, *checkpoint.data, *checkpoint.data.values())):
        raise TypeError("expected names of classes and digests of data as texts")
    if len(shape) != 3 or shape[2] != 3 or not all(is_count(side, 1) for side in shape):
        raise ValueError(f"impossible shape of images: {shape!r:.80}")
    arrays = checkpoint.parts["model"].values()
    widest = max((side for array in arrays for side in array.shape), default=0)
    if max(*recipe.widths, recipe.stem, len(names)) > widest or recipe.middle_blocks > len(arrays):
        raise ValueError("its recipe describes a larger network than it has arrays for")


def _has_keys(values: Any, names: Collection[str]) -> bool:
    return isinstance(values, dict) and values.keys() >= set(names)


def _has_numbers(values: Any, names: Collection[str]) -> bool:
    return _has_keys(values, names) and all(is_number(value) for value in values.values())
