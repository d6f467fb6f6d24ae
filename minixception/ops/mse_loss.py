"""Mean squared error, for values that are learnt and not classes.

    L = 1/N sum (x - t)^2

Shapes: x and t alike, of N elements; L is a scalar.
Backward: dx = 2 (x - t) / N,   dt = -dx        each times dL
Cost: no MACs in the paper's way of counting; a subtraction and a product for each element.
Source: the loss of PyTorch and Keras by this name. It is the definition alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor, tensor
from ..errors import ShapeError

# 1. Definition ----------------------------------------------------------------------------------------------


def forward_numpy(x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray]]:
    """The mean of the squares; the differences are saved."""
    difference = x - t
    return np.asarray((difference * difference).mean()), (difference,)


def backward_numpy(dy: np.ndarray, saved: tuple[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Twice each difference's share of the mean, and for the targets the opposite."""
    (difference,) = saved
    dx = difference * (2 * dy / difference.size)
    return dx, -dx


# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape, t: Shape) -> Shape:
    if 0 in x:
        raise ShapeError(f"mse_loss: x must have elements to take the mean of, got {x}")
    if t != x:
        raise ShapeError(f"mse_loss: targets must have the shape of x {x}, got {t}")
    return ()


def _sample(draw: Draw) -> Case:
    shape = draw.integer(1, 5), draw.integer(1, 12)
    return Case((draw.normal(*shape), draw.normal(*shape)))


MSE_LOSS = Op(
    name="mse_loss",
    rungs={"numpy": Rung(forward_numpy, backward_numpy)},
    shape=_shape,
    sample=_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def mse_loss(x: Tensor, targets: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
    """Mean over all elements of (x - targets)^2; of shape ().

    Both have a gradient. Raises ShapeError if the shapes differ: nothing is repeated to fit. DTypeError for mixed
    dtypes; targets that are no floating tensor take the dtype of x.

    >>> import minixception as mx
    >>> mse_loss(mx.tensor([1.0, 2.0]), [0.0, 4.0]).item()
    2.5
    """
    if not (isinstance(targets, Tensor) and targets.dtype.kind == "f"):
        targets = tensor(targets.numpy() if isinstance(targets, Tensor) else targets, x.dtype)
    return MSE_LOSS(x, targets)
