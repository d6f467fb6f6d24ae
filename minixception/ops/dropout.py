"""Dropout: in training each value becomes 0 with probability ``rate``, and the others grow to make up for it.

    y = x * keep / (1 - rate)             keep is 1 with probability 1 - rate, else 0, for each element on its
    own

Shapes: x, keep and y are alike. The expected value of y is x, so nothing has to change in inference.
Backward: dx = dy * keep / (1 - rate).
Cost: no MACs; x is read and y written once, and the mask takes one byte an element.
Source: Srivastava et al. 2014, in the "inverted" form; Chollet 2017, section 4.4 (rate 0.5 before the
classifier).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import memory
from ..errors import ArgumentError, ShapeError
from ..kernels.jit import loops, parallel, prange
from ..op import Case, Draw, Op, Rung, Shape
from ..random import generator
from ..tensor import Tensor

# 1. Definition ----------------------------------------------------------------------------------------------


def forward_numpy(x: np.ndarray, keep: np.ndarray, *, rate: float) -> tuple[np.ndarray, tuple[Any, ...]]:
    """x * keep / (1 - rate)."""
    return x * keep / x.dtype.type(1 - rate), (keep, rate)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, None]:
    """What was dropped gets no gradient; what was scaled up gets its gradient scaled up."""
    keep, rate = saved
    return dy * keep / dy.dtype.type(1 - rate), None


# 2. CPU -----------------------------------------------------------------------------------------------------

# Loops: the formula, one scalar at a time


@loops
def _drop_loops(x, keep, kept_share, y):
    for i in range(x.size):
        y[i] = x[i] * keep[i] / kept_share


def _dropped_loops(x: np.ndarray, keep: np.ndarray, rate: float) -> np.ndarray:
    y = memory.empty(x.shape, x.dtype)
    _drop_loops(x.reshape(-1), keep.reshape(-1), 1 - rate, y.reshape(-1))
    return y


def forward_loops(x: np.ndarray, keep: np.ndarray, *, rate: float) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The formula of the definition as a loop."""
    return _dropped_loops(x, keep, rate), (keep, rate)


def backward_loops(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, None]:
    """The same loop on dy."""
    return _dropped_loops(dy, *saved), None


# Fast: one multiplication, by a mask that already holds the scale. LLVM widens 16 bytes of the mask to 16
# floats at once.


@parallel
def _drop(x, keep, scale, y):
    for i in prange(x.size):
        y[i] = x[i] * (x.dtype.type(keep[i]) * scale)


def _dropped(x: np.ndarray, keep: np.ndarray, rate: float) -> np.ndarray:
    y = memory.empty(x.shape, x.dtype)
    _drop(x.reshape(-1), keep.reshape(-1), x.dtype.type(1 / (1 - rate)), y.reshape(-1))
    return y


def forward_cpu(x: np.ndarray, keep: np.ndarray, *, rate: float) -> tuple[np.ndarray, tuple[Any, ...]]:
    """One pass over x and the mask, shared out among the threads."""
    return _dropped(x, keep, rate), (keep, rate)


def backward_cpu(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, None]:
    """The same pass over dy and the mask."""
    return _dropped(dy, *saved), None


# 3. GPU -----------------------------------------------------------------------------------------------------
# The numba.cuda kernels of dropout go here; this version has none.

# 4. Operator ------------------------------------------------------------------------------------------------


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise ArgumentError(f"dropout: rate must be at least 0 and less than 1, got {rate!r}")


def _shape(x: Shape, keep: Shape, *, rate: float) -> Shape:
    _check_rate(rate)
    if keep != x:
        raise ShapeError(f"dropout: the mask must have the shape of x {x}, got {keep}")
    return x


def _sample(draw: Draw) -> Case:
    shape = (draw.integer(1, 3), draw.integer(1, 30))
    keep = (draw.normal(*shape) > 0).astype(np.uint8)
    return Case((draw.normal(*shape), keep), {"rate": draw.choice((0.0, 0.25, 0.5))})


DROPOUT = Op(
    name="dropout",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": Rung(forward_loops, backward_loops),
        "cpu": Rung(forward_cpu, backward_cpu),
    },
    shape=_shape,
    sample=_sample,
    integer_inputs=frozenset({1}),
)


# 5. Function ------------------------------------------------------------------------------------------------


def dropout(x: Tensor, rate: float, training: bool = True, rng: np.random.Generator | None = None) -> Tensor:
    """Drop each value of x with probability rate, divide the others by 1 - rate; x itself if not training.

    rng: where the mask comes from; the package's generator (``minixception.random``) if None.
    Raises ArgumentError unless 0 <= rate < 1. Srivastava et al. 2014.

    >>> import minixception as mx
    >>> np.unique(dropout(mx.tensor(np.ones(100, np.float32)), 0.5).numpy())
    array([0., 2.], dtype=float32)
    """
    _check_rate(rate)
    if not training or rate == 0:
        return x
    drawn = (rng or generator()).random(x.shape, dtype=np.float32)  # uniform in [0, 1)
    return DROPOUT(x, Tensor((drawn >= rate).astype(np.uint8)), rate=rate)
