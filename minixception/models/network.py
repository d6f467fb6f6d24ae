"""What the image networks share: the check of their input, the way through their blocks, and their head."""

from __future__ import annotations

from collections.abc import Sequence

from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..nn import Activation, Dropout, GlobalAvgPool, GlobalMaxPool, Linear, Module


class Network(Module):
    """A chain of blocks from images (n, h, w, c) to logits, or to the features below them.

    Subclasses set their blocks as attributes, in the order they run. min_size: the fewest pixels of a side; below, the
    last windows have nothing left to see, and the input is a ShapeError.
    """

    min_size: int

    def __init__(self, input_shape: tuple[int, int, int], pooling: str | None) -> None:
        if pooling not in (None, "avg", "max"):
            raise ArgumentError(f"pooling must be None, 'avg' or 'max', got {pooling!r}")
        self.input_shape = tuple(input_shape)
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
