"""Function: an operator of one's own, from a forward and a backward pass on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ArgumentError, GradientError
from .op import Case, Op, Rung, Shape, current_observer
from .tensor import Tensor


class Function:
    """An operator of one's own: what stands in section 1 of every operator, the definition.

    forward: (*arrays, **params) -> y, saved: the result, and what the backward pass needs, of any kind.
    backward: (dy, saved) -> the gradient of each input, an array of its shape and dtype, or None for zeros; of a single
    input also without a tuple. It is called with tensors, and takes all else, such as labels, by keyword.
    Raises ArgumentError and GradientError for what forward and backward should not have returned.

    >>> import minixception as mx
    >>> cube = Function(lambda x: (x**3, x), lambda dy, x: dy * 3 * x**2)
    >>> x = mx.tensor([1.0, 2.0], dtype="float64", requires_grad=True)
    >>> cube(x).numpy()
    array([1., 8.])
    >>> mx.gradcheck(cube, [x])
    """

    def __init__(self, forward: Callable[..., Any], backward: Callable[..., Any], name: str = "function") -> None:
        self.forward, self.backward, self.name = forward, backward, name
        self._op = Op(name, {"numpy": Rung(self._forward, self._backward)}, self._shape, lambda draw: Case(()))

    def __call__(self, *tensors: Tensor, **params: Any) -> Tensor:
        """forward's result for these tensors, as a tensor."""
        return self._op(*tensors, **params)

    def _forward(self, *arrays: np.ndarray, **params: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
        result = self.forward(*arrays, **params)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ArgumentError(f"{self.name}: forward must return y and what backward needs, got {_kind(result)}")
        y, saved = result
        if getattr(y, "dtype", None) != arrays[0].dtype:
            raise ArgumentError(f"{self.name}: forward must return an array of {arrays[0].dtype}, got {_kind(y)}")
        return np.asarray(y, order="C"), (arrays, saved)

    def _backward(self, dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
        arrays, theirs = saved
        result = self.backward(dy, theirs)
        gradients = result if isinstance(result, tuple) else (result,)
        if len(gradients) != len(arrays):
            raise GradientError(f"{self.name}: backward returned {len(gradients)} gradients of {len(arrays)} inputs")
        gradients = tuple(np.zeros_like(x) if g is None else g for g, x in zip(gradients, arrays, strict=True))
        for i, (gradient, x) in enumerate(zip(gradients, arrays, strict=True)):
            if _kind(gradient) != _kind(x):
                raise GradientError(f"{self.name}: the gradient of input {i} must be {_kind(x)}, got {_kind(gradient)}")
        return gradients

    def _shape(self, *shapes: Shape, **params: Any) -> Shape:
        """What forward makes of ones; it is run for this only where nothing else is computed."""
        observer = current_observer()
        if observer is None or not observer.shapes_only:
            return ()
        return self._forward(*map(np.ones, shapes), **params)[0].shape


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return f"{dtype} of shape {value.shape}" if dtype else type(value).__name__
