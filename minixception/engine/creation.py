"""Tensors from a shape alone: of zeros, of ones, of random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .op import plain
from .random import generator, seeded
from .tensor import Tensor, tensor


def zeros(*shape: int | Sequence[int], dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A leaf tensor of zeros; the shape as numbers or as one tuple.

    Raises ArgumentError for a size that is no integer of 0 or more, DTypeError for a dtype that a tensor cannot have.

    >>> zeros(2, 3).shape, zeros((2, 3)).shape, zeros().item()
    ((2, 3), (2, 3), 0.0)
    """
    return tensor(np.zeros(_sizes(shape), np.int8), dtype, requires_grad)


def ones(*shape: int | Sequence[int], dtype: Any = np.float32, requires_grad: bool = False) -> Tensor:
    """A leaf tensor of ones; arguments and errors are those of ``zeros``.

    >>> ones(2, dtype="int64").numpy()
    array([1, 1])
    """
    return tensor(np.ones(_sizes(shape), np.int8), dtype, requires_grad)


def randn(
    *shape: int | Sequence[int], dtype: Any = np.float32, requires_grad: bool = False, seed: int | None = None
) -> Tensor:
    """A leaf tensor of standard normal numbers; shape and errors are those of ``zeros``.

    Without a seed they come from the package's generator, which ``mx.seed`` starts anew and dropout draws from, too.
    With one, an integer of 0 or more, they depend on it and on the shape alone, and the package's generator stays as it
    is. They are drawn in float64: in float32 they are the same numbers, rounded.

    >>> bool((randn(2, 3, seed=1).numpy() == randn((2, 3), seed=1).numpy()).all())
    True
    """
    source = generator() if seed is None else seeded(seed)
    return tensor(source.standard_normal(_sizes(shape)), dtype, requires_grad)


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """The sizes, given one by one or as one sequence."""
    given = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
    sizes = plain(tuple(given))
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ArgumentError(f"a shape is made of integers of 0 or more, got {given!r}")
    return sizes
