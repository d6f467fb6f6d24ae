"""Checkpoints: one .safetensors file with all arrays of a run and, as JSON text, how far it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, WeightsError
from ..weights import read_tensors, write_tensors
from .recipe import Recipe

_FORMAT = "minixception checkpoint 1"
_PARTS = ("model", "optimizer", "ema")


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


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file of ``write_checkpoint``; CheckpointError if it is missing, corrupt or something else."""
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
        return Checkpoint(
            recipe=Recipe.from_json(run["recipe"]),
            progress=Progress(**run["progress"]),
            class_names=tuple(run["class_names"]),
            image_shape=tuple(run["image_shape"]),
            parts=parts,
            data=dict(run.get("data", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its description of the run cannot be read ({error!r})") from None
