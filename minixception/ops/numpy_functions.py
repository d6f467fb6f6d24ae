"""NumPy's functions of tensors: np.exp(x) is x.exp(), with its gradient; np.asarray(x) is its values.

NumPy asks a tensor what to do, by ``__array_ufunc__`` for functions of each element and ``__array_function__`` for
others. Those that have a counterpart here become it. Of any other NumPy sees the values, and the result is an array; a
tensor with a gradient is refused there, for the gradient would end without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.tape import is_recording
from ..engine.tensor import Tensor
from ..errors import GraphError
from . import activation, arithmetic, elementary, extremes, matmul, reduction, reshape

COUNTERPARTS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.add: arithmetic.add,
    np.subtract: arithmetic.subtract,
    np.multiply: arithmetic.multiply,
    np.divide: arithmetic.divide,
    np.matmul: matmul.matmul,
    np.power: lambda x, exponent: x**exponent,
    np.square: lambda x: x**2,
    np.negative: lambda x: -x,
    np.exp: elementary.exp,
    np.log: elementary.log,
    np.sqrt: elementary.sqrt,
    np.abs: elementary.abs,
    np.tanh: activation.tanh,
    np.sum: reduction.sum,
    np.mean: reduction.mean,
    np.var: reduction.var,
    np.max: extremes.max,
    np.min: extremes.min,
    np.clip: elementary.clip,
    np.reshape: reshape.reshape,
    np.transpose: reshape.transpose,
    np.concatenate: lambda tensors, axis=0: reshape.concat(tensors, axis),
}
# What has no gradient anyway: comparisons, positions, questions, and what matplotlib asks first.
WITHOUT_GRADIENT = {
    *(np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.array_equal, np.allclose),
    *(np.argmax, np.argmin, np.argsort, np.sign, np.isnan, np.isfinite, np.isinf, np.shape, np.ndim, np.size),
    *(np.atleast_1d, np.broadcast_arrays),
}


def _array_ufunc(x: Tensor, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
    return _call(ufunc if method == "__call__" else getattr(ufunc, method), inputs, options)


def _array_function(x: Tensor, function: Callable[..., Any], types: Any, inputs: Any, options: Any) -> Any:
    return _call(function, inputs, options)


def _call(function: Callable[..., Any], inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if function in COUNTERPARTS and "out" not in options:  # array += tensor: into the array
        return COUNTERPARTS[function](*inputs, **options)
    checked = function not in WITHOUT_GRADIENT and is_recording()
    if checked and any(t.requires_grad for t in _tensors((inputs, *options.values()))):
        raise GraphError(
            f"np.{function.__name__} knows of no gradients, and has no counterpart here: give it x.numpy(), the values "
            "alone, or write an mx.Function"
        )
    return function(*map(_values, inputs), **{name: _values(value) for name, value in options.items()})


def _tensors(value: Any) -> list[Tensor]:
    """All tensors, also those inside of lists and tuples."""
    if isinstance(value, list | tuple):
        return [t for one in value for t in _tensors(one)]
    return [value] if isinstance(value, Tensor) else []


def _values(value: Any) -> Any:
    """The same with arrays in the place of tensors."""
    if isinstance(value, list | tuple):
        return type(value)(map(_values, value))
    return value.numpy() if isinstance(value, Tensor) else value


for _name, _method in (("__array_ufunc__", _array_ufunc), ("__array_function__", _array_function)):
    setattr(Tensor, _name, _method)
