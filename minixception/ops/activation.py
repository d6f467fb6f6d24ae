"""Activations: relu, elu, gelu, sigmoid and tanh, one function applied to every element.

    relu(x) = max(x, 0)                elu(x) = x if x > 0 else e^x - 1
    gelu(x) = x (1 + erf(x / √2)) / 2  sigmoid(x) = 1 / (1 + e^-x)
    tanh(x) = (e^x - e^-x) / (e^x + e^-x)

Shapes: x, y and their gradients have one shape, whichever it is.
Backward: dx = dy * slope. The slope of all but gelu follows from y alone, so they save y, which the
next layer keeps anyway; only gelu saves x.
Cost: no MACs. relu does one comparison for each 8 bytes that must move (one input, one output, float32) and
is memory-bound, as is every backward pass but that of gelu. elu, sigmoid and tanh take 0.5 ns of one core per
element for their exponential, gelu 6 ns for erf.
Source: Chollet 2017, section 4.7 compares relu, elu and none; elu is Clevert et al. 2016 with alpha = 1; gelu
is Hendrycks and Gimpel 2016, the exact form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba.extending import register_jitable

from ..cpu import memory
from ..cpu.elementwise import chunks, part
from ..cpu.jit import loops, parallel, prange
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..gpu.kernel import cuda, device_function, elementwise, kernel

Array = np.ndarray

# Every rung of every activation is two functions, y = value(x) and dx = gradient(dy, saved), and the name of
# what is saved, "x" or "y".


def _rung(value: Callable[[Array], Array], gradient: Callable[[Array, Array], Array], saves: str) -> Rung:
    def forward(x: Array) -> tuple[Array, tuple[Array]]:
        y = value(x)
        return y, (x if saves == "x" else y,)

    def backward(dy: Array, saved: tuple[Array]) -> tuple[Array]:
        return (gradient(dy, *saved),)

    return Rung(forward, backward)


# 1. Definition ----------------------------------------------------------------------------------------------

_python_erf = np.frompyfunc(math.erf, 1, 1)  # exact to the last bits, one Python call per element


def _relu_numpy(x: Array) -> Array:
    return np.maximum(x, 0)


def _relu_gradient_numpy(dy: Array, y: Array) -> Array:
    return dy * (y > 0)


def _elu_numpy(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _elu_gradient_numpy(dy: Array, y: Array) -> Array:
    return dy * np.where(y > 0, 1, y + 1)  # e^x = y + 1 where x <= 0, and y has the sign of x


def _gelu_numpy(x: Array) -> Array:
    return x * _normal_cdf(x)


def _gelu_gradient_numpy(dy: Array, x: Array) -> Array:
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return dy * (_normal_cdf(x) + x * density)


def _normal_cdf(x: Array) -> Array:
    """Probability that a standard normal value is below x."""
    return (1 + np.asarray(_python_erf(x / math.sqrt(2)), x.dtype)) / 2


def _sigmoid_numpy(x: Array) -> Array:
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(x >= 0, 1, e) / (1 + e)


def _sigmoid_gradient_numpy(dy: Array, y: Array) -> Array:
    return dy * (y * (1 - y))


def _tanh_gradient_numpy(dy: Array, y: Array) -> Array:
    return dy * (1 - y * y)


# 2. CPU -----------------------------------------------------------------------------------------------------
# The formulas once more, for one element: y = value(x), and the slope dy/dx from the element that was saved.
# Loops: one element after the other. `type(x)(0.5)` is 0.5 in the precision of x; a bare 0.5 would turn
# float32 arithmetic into float64.

_formula = register_jitable(error_model="numpy", fastmath={"contract"})


@_formula
def _relu(x):
    return type(x)(0) if x <= 0 else x  # NaN is not <= 0 and stays NaN


@_formula
def _relu_slope(y):
    return type(y)(1) if y > 0 else type(y)(0)


@_formula
def _elu(x):
    return x if x > 0 else math.expm1(x)


@_formula
def _elu_slope(y):
    return type(y)(1) if y > 0 else y + type(y)(1)


@_formula
def _gelu(x):
    half = type(x)(0.5)
    return x * (half + half * math.erf(x * type(x)(_SQRT_HALF)))


@_formula
def _gelu_slope(x):
    half = type(x)(0.5)
    density = type(x)(_DENSITY_AT_0) * math.exp(-half * x * x)
    return half + half * math.erf(x * type(x)(_SQRT_HALF)) + x * density


@_formula
def _sigmoid(x):
    one = type(x)(1)
    e = math.exp(-abs(x))
    return (one if x >= 0 else e) / (one + e)


@_formula
def _sigmoid_slope(y):
    return y * (type(y)(1) - y)


@_formula
def _tanh(x):
    return math.tanh(x)


@_formula
def _tanh_slope(y):
    return type(y)(1) - y * y


_SQRT_HALF = math.sqrt(0.5)
_DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)


def _loops_rung(value: Callable[[float], float], slope: Callable[[float], float], saves: str) -> Rung:
    """One thread, one element after the other."""

    @loops
    def forward(x, y):
        for i in range(x.size):
            y[i] = value(x[i])

    @loops
    def backward(dy, saved, dx):
        for i in range(dy.size):
            dx[i] = dy[i] * slope(saved[i])

    return _rung(_flat(forward), _flat(backward), saves)


# Fast: the C library computes one exponential per call, 3 to 10 ns. Written out as a few multiplications and
# additions it is vectorised like everything else, 0.5 ns: e^x = 2^k e^r, where k is the integer next to
# x / ln 2, so that |r| <= (ln 2) / 2, and 13 terms of the Taylor series are exact to the last bit of float64.

_TAYLOR = tuple(1 / math.factorial(n) for n in range(14))
_LOG2_E = 1 / math.log(2)
_LN_2_HIGH = 6.93147180369123816490e-01  # its last bits are 0, so that k times it is exact; as in fdlibm
_LN_2_LOW = 1.90821492927058770002e-10  # the rest of ln 2
_ROUND = 1.5 * 2.0**52  # so large that it has no fraction: adding it rounds, to an integer in the lowest bits


@_formula
def _exp_parts(x):
    """(e^r - 1, 2^k) in float64, with e^x = 2^k e^r, for x <= 0."""
    x = max(np.float64(x), -709.0)  # from here down, k = -1023 and the bits below are those of 0.0
    rounded = x * _LOG2_E + _ROUND
    k = rounded - _ROUND
    r = x - k * _LN_2_HIGH - k * _LN_2_LOW
    series = 0.0
    for n in range(13, 0, -1):
        series = series * r + _TAYLOR[n]
    exponent = np.int64((np.float64(rounded).view(np.int64) + 1023) << 52)  # the bits of the float64 2^k
    return series * r, exponent.view(np.float64)


@_formula
def _fast_elu(x):
    part, power = _exp_parts(min(x, type(x)(0)))
    below = type(x)(power * part + (power - 1))  # e^x - 1 without cancellation: near 0, power is 1
    return x if x > 0 else below


@_formula
def _fast_sigmoid(x):
    one = type(x)(1)
    part, power = _exp_parts(-abs(x))
    e = type(x)(power * part + power)
    return (one if x >= 0 else e) / (one + e)


@_formula
def _fast_tanh(x):
    part, power = _exp_parts(type(x)(-2) * abs(x))
    below = power * part + (power - 1)  # e^(-2|x|) - 1, as in elu: exact near 0, where tanh(x) is x
    return math.copysign(type(x)(-below / (2 + below)), x)


def _cpu_rung(value: Callable[[float], float], slope: Callable[[float], float], saves: str) -> Rung:
    """Chunk by chunk, shared out among the threads. gelu calls erf of the C library, one element at a time."""

    @parallel
    def forward(x, y):
        for chunk in prange(chunks(x.size)):
            xs, ys = part(x, chunk), part(y, chunk)
            for i in range(xs.size):
                ys[i] = value(xs[i])

    @parallel
    def backward(dy, saved, dx):
        for chunk in prange(chunks(dy.size)):
            dys, saveds, dxs = part(dy, chunk), part(saved, chunk), part(dx, chunk)
            for i in range(dys.size):
                dxs[i] = dys[i] * slope(saveds[i])

    return _rung(_flat(forward), _flat(backward), saves)


def _flat(kernel: Any) -> Callable[..., Array]:
    """A kernel on flat arrays, as a function of arrays of any one shape that returns such an array."""

    def run(*arrays: Array) -> Array:
        out = memory.empty(arrays[0].shape, arrays[0].dtype)
        kernel(*[array.reshape(-1) for array in arrays], out.reshape(-1))
        return out

    return run


# 3. GPU -----------------------------------------------------------------------------------------------------
# A thread per element. The 32 threads of a warp load 32 neighbours at once: whole lines of memory, every byte of which
# is used ("coalesced"). Nothing is shared and nothing is read twice, so memory is the only limit; the exponentials hide
# behind the loads of other warps.


def _cuda_rung(value: Callable[[float], float], slope: Callable[[float], float], saves: str) -> Rung:
    value, slope = device_function(value), device_function(slope)

    @kernel
    def forward(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = value(x[i])

    @kernel
    def backward(dy, saved, dx):
        i = cuda.grid(1)
        if i < dy.size:
            dx[i] = dy[i] * slope(saved[i])

    return _rung(partial(elementwise, forward), partial(elementwise, backward), saves)


# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape) -> Shape:
    return x


def _sample(draw: Draw) -> Case:
    return Case((draw.distinct(draw.integer(1, 4), draw.integer(1, 20)),))


Pair = tuple[Callable[..., Any], Callable[..., Any]]


def _operator(name: str, saves: str, arrays: Pair, element: Pair, fast: Callable[[float], float] | None = None) -> Op:
    """arrays: value and gradient of the definition. element: value and slope; fast: the value on the fast rung."""
    value, slope = element
    rungs = {
        "numpy": _rung(*arrays, saves),
        "loops": _loops_rung(value, slope, saves),
        "cpu": _cpu_rung(fast or value, slope, saves),
        "cuda": _cuda_rung(value, slope, saves),
    }
    return Op(name, rungs, _shape, _sample)


RELU = _operator("relu", "y", (_relu_numpy, _relu_gradient_numpy), (_relu, _relu_slope))
ELU = _operator("elu", "y", (_elu_numpy, _elu_gradient_numpy), (_elu, _elu_slope), fast=_fast_elu)
GELU = _operator("gelu", "x", (_gelu_numpy, _gelu_gradient_numpy), (_gelu, _gelu_slope))
SIGMOID = _operator(
    "sigmoid", "y", (_sigmoid_numpy, _sigmoid_gradient_numpy), (_sigmoid, _sigmoid_slope), fast=_fast_sigmoid
)
TANH = _operator("tanh", "y", (np.tanh, _tanh_gradient_numpy), (_tanh, _tanh_slope), fast=_fast_tanh)


# 5. Function ------------------------------------------------------------------------------------------------


def relu(x: Tensor) -> Tensor:
    """max(x, 0) of every element; the gradient at 0 is 0, and NaN stays NaN.

    >>> import minixception as mx
    >>> relu(mx.tensor([-1.0, 0.0, 2.0])).numpy()
    array([0., 0., 2.], dtype=float32)
    """
    return RELU(x)


def elu(x: Tensor) -> Tensor:
    """x where x > 0, else e^x - 1: Clevert et al. 2016, "Exponential Linear Units", with alpha = 1.

    >>> import minixception as mx
    >>> elu(mx.tensor([-1.0, 2.0])).numpy().round(4)
    array([-0.6321,  2.    ], dtype=float32)
    """
    return ELU(x)


def gelu(x: Tensor) -> Tensor:
    """x times the probability that a standard normal value is below x: Hendrycks and Gimpel 2016, exact form.

    >>> import minixception as mx
    >>> gelu(mx.tensor([-1.0, 2.0])).numpy().round(4)
    array([-0.1587,  1.9545], dtype=float32)
    """
    return GELU(x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), without overflow for any x.

    >>> import minixception as mx
    >>> sigmoid(mx.tensor([-1000.0, 0.0, 1000.0])).numpy()
    array([0. , 0.5, 1. ], dtype=float32)
    """
    return SIGMOID(x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent of every element, between -1 and 1.

    >>> import minixception as mx
    >>> tanh(mx.tensor([-100.0, 0.0, 1.0])).numpy().round(4)
    array([-1.    ,  0.    ,  0.7616], dtype=float32)
    """
    return TANH(x)
