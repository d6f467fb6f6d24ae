"""What optimisers and averages share: the parameter they ask for, working memory, and strict loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..errors import ArgumentError, CheckpointError
from ..gpu.device import assign

MOST = 1 << 62  # of a count, such as that of steps: one more is still an int64


class Parameter(Protocol):
    """What an optimiser asks of a parameter: an array, updated in place, and its gradient, alike or None."""

    data: np.ndarray
    grad: Any


class Scratch:
    """Working memory that is shared by all parameters and grows to the largest."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[np.dtype, int], np.ndarray] = {}

    def __call__(self, like: np.ndarray, slot: int) -> np.ndarray:
        """Memory with the shape and dtype of ``like``; different slots never overlap."""
        key = like.dtype, slot
        if key not in self._buffers or self._buffers[key].size < like.size:
            self._buffers[key] = np.empty(like.size, like.dtype)
        return self._buffers[key][: like.size].reshape(like.shape)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ArgumentError unless low <= value < high."""
    if not low <= value < high:
        raise ArgumentError(f"expected a {name} in {low} <= value < {high}, got {value}")


def load_arrays(state: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], owner: str) -> None:
    """Copy ``state`` into the arrays of ``own``, after every name, shape, dtype and count was found right."""
    if wrong := sorted(state.keys() ^ own.keys()):
        kind = "missing" if wrong[0] in own else "surplus"
        raise CheckpointError(
            f"expected a state of {owner} with {len(own)} arrays, got {len(state)}: {kind} {wrong[0]!r}"
        )
    for name, array in own.items():
        got = state[name]
        if got.shape != array.shape or got.dtype != array.dtype:
            raise CheckpointError(
                f"expected {array.dtype} of shape {array.shape} as {name!r} of {owner}, "
                f"got {got.dtype} of shape {got.shape}"
            )
        if got.ndim == 0 and got.dtype == np.int64 and not 0 <= got < MOST:
            raise CheckpointError(f"expected a count as {name!r} of {owner}, got {got}")
    for name, array in own.items():
        assign(array, state[name])
