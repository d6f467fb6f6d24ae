"""Some of the elements: y = x[index], with all that NumPy's indices can say.

Shapes: what NumPy makes of x and the index: integers, slices, ..., None, arrays of integers or of booleans.
Backward: dy at the elements that were taken, and 0 elsewhere; of one that was taken twice the gradients are summed.
Cost: no MACs. Integers and slices that leave neighbours together move no bytes; else each element is copied once.
Source: NumPy's indexing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.op import Case, Draw, Op, Rung, Shape, shape_only
from ..engine.tensor import Tensor
from ..errors import IndexingError

# 1. Definition ----------------------------------------------------------------------------------------------


def _forward_numpy(x: np.ndarray, *, index: tuple[Any, ...]) -> tuple[np.ndarray, tuple[Any, ...]]:
    return np.asarray(x[index], order="C"), (x.shape, index)


def _backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    shape, index = saved
    dx = np.zeros(shape, dy.dtype)
    if any(isinstance(part, np.ndarray) for part in index):
        np.add.at(dx, index, dy)  # an element may stand there twice
    else:
        dx[index] = dy
    return (dx,)


# 2. CPU, 3. GPU ---------------------------------------------------------------------------------------------
# The definition alone: a header for the same memory, or a copy, which is NumPy's.

# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape, *, index: tuple[Any, ...]) -> Shape:
    try:
        return shape_only(x)[index].shape
    except IndexError as error:
        raise IndexingError(f"a tensor of shape {x} has no such elements: {error}") from error


def _sample(draw: Draw) -> Case:
    index = draw.choice(
        (
            (1,),
            (slice(None), -1, ...),
            (slice(None, None, -2), None, slice(1, 3)),
            (..., 0),
            (np.array([0, 2, 0]), slice(1, None)),
            (np.array([[0, 1], [1, 1]]), np.array([1, 2])),
            (slice(None), np.array([True, False, True])),
        )
    )
    return Case((draw.normal(draw.integer(3, 4), 3, draw.integer(2, 4)),), {"index": index})


INDEX = Op("index", {"numpy": Rung(_forward_numpy, _backward_numpy)}, _shape, _sample)


# 5. Function ------------------------------------------------------------------------------------------------


def index(x: Tensor, where: Any) -> Tensor:
    """x[where]: integers, slices, ``...``, None, and lists, arrays or tensors of integers or booleans.

    What is taken by integers and slices shares x's memory where it lies in one piece. Raises IndexingError, an
    IndexError, for what x does not have.

    >>> import minixception as mx
    >>> index(mx.tensor([[1.0, 2.0], [3.0, 4.0]]), (slice(None), 1)).numpy()
    array([2., 4.], dtype=float32)
    """
    parts = where if isinstance(where, tuple) else (where,)
    return INDEX(x, index=tuple(np.asarray(p) if isinstance(p, (list, Tensor)) else p for p in parts))
