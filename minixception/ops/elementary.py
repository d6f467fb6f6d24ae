"""Elementary functions of every element: exp, log, sqrt, abs, clip and powers.

    exp(x) = e^x      log(x), to the base e      sqrt(x) = √x      abs(x) = |x|      power(x) = x^p, p a number
    clip(x) = low where x < low, high where x > high, else x

Shapes: x, y and their gradients have one shape, whichever it is.
Backward: dx = dy * slope, in the same order: y, 1 / x, 1 / (2 y), the sign of x, p x^(p-1); 1 where low <= x <= high.
Cost: no MACs. One input is read and one output written for one function: memory-bound, but for exp, log and powers.
Where a function is not defined the result is NaN or infinite, with the RuntimeWarning of NumPy.
Source: any table of derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ArgumentError

# 1. Definition ----------------------------------------------------------------------------------------------


def _rung(value: Callable[..., Any], slope: Callable[..., Any]) -> Rung:
    """y = value(x) and dx = dy * slope(x, y), both of the parameters too."""

    def forward(x: np.ndarray, **params: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
        y = np.asarray(value(x, **params))
        return y, (x, y, params)

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
        x, y, params = saved
        return (np.asarray(dy * slope(x, y, **params)),)

    return Rung(forward, backward)


def _power_slope(x: np.ndarray, y: np.ndarray, exponent: float) -> np.ndarray:
    return exponent * x ** (exponent - 1) if exponent else np.zeros_like(x)


def _clip_slope(x: np.ndarray, y: np.ndarray, low: float, high: float) -> np.ndarray:
    return (low <= x) & (x <= high)


# 2. CPU -----------------------------------------------------------------------------------------------------
# The definition alone: small models by hand need these functions, and no network here spends its time in them. How
# such a function is made fast stands in activation.py, whose sigmoid and tanh need an exponential.

# 3. GPU -----------------------------------------------------------------------------------------------------
# None: the definition runs on the processor.

# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape, **params: Any) -> Shape:
    return x


def _operator(
    name: str,
    value: Callable[..., Any],
    slope: Callable[..., Any],
    sample: Callable[[Draw], Case] = lambda draw: Case((_positive(draw),)),
) -> Op:
    return Op(name, {"numpy": _rung(value, slope)}, _shape, sample)


def _any(draw: Draw) -> np.ndarray:
    return draw.distinct(draw.integer(1, 4), draw.integer(1, 5))  # away from 0, where abs has its kink


def _positive(draw: Draw) -> np.ndarray:
    return np.abs(_any(draw))


def _power_sample(draw: Draw) -> Case:
    array, exponents = draw.choice(((_any, (-1.0, 0.0, 1.0, 2.0, 3.0)), (_positive, (-0.5, 0.5, 1.5))))
    return Case((array(draw),), {"exponent": draw.choice(exponents)})


def _clip_sample(draw: Draw) -> Case:
    low, high = draw.choice(((-0.3, 0.3), (-np.inf, 0.2), (-0.1, np.inf)))  # 0.05 is inside, and drawn always
    return Case((_any(draw),), {"low": low, "high": high})


EXP = _operator("exp", np.exp, lambda x, y: y)
LOG = _operator("log", np.log, lambda x, y: 1 / x)
SQRT = _operator("sqrt", np.sqrt, lambda x, y: 1 / (2 * y))
ABS = _operator("abs", np.abs, lambda x, y: np.sign(x), lambda draw: Case((_any(draw),)))
POWER = _operator("power", lambda x, exponent: x**exponent, _power_slope, _power_sample)
CLIP = _operator("clip", lambda x, low, high: np.clip(x, low, high), _clip_slope, _clip_sample)


# 5. Function ------------------------------------------------------------------------------------------------


def exp(x: Tensor) -> Tensor:
    """e to the power of every element.

    >>> import minixception as mx
    >>> exp(mx.tensor([0.0, 1.0])).numpy().round(4)
    array([1.    , 2.7183], dtype=float32)
    """
    return EXP(x)


def log(x: Tensor) -> Tensor:
    """The logarithm to the base e of every element.

    >>> import minixception as mx
    >>> log(mx.tensor([1.0, 10.0])).numpy().round(4)
    array([0.    , 2.3026], dtype=float32)
    """
    return LOG(x)


def sqrt(x: Tensor) -> Tensor:
    """The square root of every element.

    >>> import minixception as mx
    >>> sqrt(mx.tensor([4.0, 9.0])).numpy()
    array([2., 3.], dtype=float32)
    """
    return SQRT(x)


def abs(x: Tensor) -> Tensor:
    """The absolute value of every element; the gradient at 0 is 0.

    >>> import minixception as mx
    >>> abs(mx.tensor([-2.0, 3.0])).numpy()
    array([2., 3.], dtype=float32)
    """
    return ABS(x)


def power(x: Tensor, exponent: float) -> Tensor:
    """Every element to the power of one number; ArgumentError for any other exponent.

    >>> import minixception as mx
    >>> power(mx.tensor([1.0, 3.0]), 2).numpy()
    array([1., 9.], dtype=float32)
    """
    return POWER(x, exponent=_number("power", "the exponent", exponent))


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Every element, or the bound that it is beyond; None is no bound. ArgumentError unless low <= high are numbers.

    >>> import minixception as mx
    >>> clip(mx.tensor([-2.0, 0.5, 2.0]), -1, 1).numpy()
    array([-1. ,  0.5,  1. ], dtype=float32)
    """
    low = -np.inf if low is None else _number("clip", "low", low)
    high = np.inf if high is None else _number("clip", "high", high)
    if low > high:
        raise ArgumentError(f"clip: low must not be above high, got {low} and {high}")
    return CLIP(x, low=low, high=high)


def _number(name: str, what: str, value: Any) -> float:
    if not isinstance(value, int | float | np.number):
        raise ArgumentError(f"{name}: {what} must be a number, got {type(value).__name__}")
    return float(value)  # NumPy's float64 would make float64 of a float32 array
