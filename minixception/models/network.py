"""Whole networks: what the image networks share, and what every model can do beside computing.

A model saves and loads its weights, classifies photos and lists its layers. That takes files, photos and costs, which
stand above ``Module``, so these methods are given to it here, when ``models`` is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import imagenet, weights
from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..graph import cost
from ..nn import Activation, Dropout, GlobalAvgPool, GlobalMaxPool, Linear, Module


def check_input_shape(shape: Any) -> tuple[int, int, int]:
    """(h, w, c) as a tuple; ArgumentError for anything else."""
    if not isinstance(shape, Sequence) or len(shape) != 3 or not all(isinstance(n, int | np.integer) for n in shape):
        raise ArgumentError(f"input_shape must be (h, w, c), as in (299, 299, 3), got {shape!r}")
    h, w, c = map(int, shape)
    return h, w, c


class Network(Module):
    """A chain of blocks from images (n, h, w, c) to logits, or to the features below them.

    Subclasses set their blocks as attributes, in the order they run. min_size: the fewest pixels of a side; below, the
    last windows have nothing left to see, and the input is a ShapeError.
    """

    min_size: int

    def __init__(self, input_shape: tuple[int, int, int], pooling: str | None) -> None:
        if pooling not in (None, "avg", "max"):
            raise ArgumentError(f"pooling must be None, 'avg' or 'max', got {pooling!r}")
        self.input_shape = check_input_shape(input_shape)
        self._check_input((1, *input_shape))

    def _check_input(self, shape: tuple[int, ...]) -> None:
        least = self.min_size
        if len(shape) != 4 or shape[1] < least or shape[2] < least:
            raise ShapeError(
                f"{type(self).__name__}: the input must be (n, h, w, c) with h and w of at least {least}, "
                f"got {tuple(shape)}"
            )

    def _add_pooling(self, kind: str | None) -> None:
        """The mean ("avg") or maximum ("max") of each feature over all pixels; None leaves the map as it is."""
        if kind == "avg":
            self.avg_pool = GlobalAvgPool()
        elif kind == "max":
            self.max_pool = GlobalMaxPool()

    def _add_classifier(
        self, features: int, num_classes: int, fc_units: Sequence[int] = (), dropout: float = 0.0
    ) -> None:
        """[Linear, ReLU] for each of fc_units, [dropout,] and the logits."""
        for number, units in enumerate(fc_units, start=1):
            setattr(self, f"fc{number}", Linear(features, units))
            setattr(self, f"fc{number}_act", Activation("relu"))
            features = units
        if dropout:
            self.dropout = Dropout(dropout)
        self.predictions = Linear(features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x.shape)
        for layer in self.children().values():
            x = layer(x)
        return x


# Methods of every Module ----------------------------------------------------------------------------------------------


def _save_weights(model: Module, path: Any) -> None:
    """Write all parameters and buffers: .safetensors, or .weights.h5 for Keras 3. See ``weights.save_weights``."""
    weights.save_weights(model, path)


def _load_weights(
    model: Module, path: Any, conventions: str | None = None, part: str | None = None, strict: bool = True
) -> weights.Loaded:
    """Read a file of Keras, timm or ``save_weights``, or "imagenet"; strict. See ``weights.load_weights``."""
    return weights.load_weights(model, path, conventions, part, strict)


def _predict(model: Module, images: Iterable[Any], top: int = 5, **options: Any) -> list[list[imagenet.Prediction]]:
    """The ``top`` most likely classes of each photo: paths, images of Pillow, or uint8 arrays (h, w, 3).

    Further options (rule, batch_size, classes) and errors are those of ``imagenet.predict``, which does it.
    """
    return imagenet.predict(model, images, top, **options)


def _summary(model: Module, input_shape: tuple[int, ...] | None = None) -> cost.CostTable:
    """The table of layers: text in a terminal, HTML in a notebook. Nothing is computed, only shapes.

    input_shape: (h, w, c), needed where the network does not know its own; ShapeError without it.
    """
    input_shape = input_shape or model.input_shape
    if input_shape is None:
        raise ShapeError(f"{type(model).__name__}.summary() needs input_shape=(h, w, c)")
    return cost.table(model, input_shape)


METHODS = {"save_weights": _save_weights, "load_weights": _load_weights, "predict": _predict, "summary": _summary}
for _name, _method in METHODS.items():
    setattr(Module, _name, _method)
