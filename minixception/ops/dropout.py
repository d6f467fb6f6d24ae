"""Dropout: in training each value becomes 0 with probability ``rate``, and the others grow to make up for it.

    y = x * keep / (1 - rate)             keep is 1 with probability 1 - rate, else 0, for each element on its
    own

Shapes: x, keep and y are alike. The expected value of y is x, so nothing has to change in inference.
Backward: dx = dy * keep / (1 - rate).
Cost: no MACs; x is read and y written once, and the mask takes one byte an element.
Source: Srivastava et al. 2014, in the "inverted" form; Chollet 2017, section 4.3 (rate 0.5 before the
classifier).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cpu import memory
from ..cpu.jit import loops, parallel, prange
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.random import generator
from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..gpu.graph import drawn
from ..gpu.kernel import THREADS, blocks, cuda, device_function, dtype, empty, flat, kernel

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
# A thread per element: one multiplication by the mask and the scale, limited by memory.


@kernel
def _drop_cuda(x, keep, scale, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] * (dtype(keep[i]) * scale)


def _dropped_cuda(x: Any, keep: Any, rate: float) -> Any:
    y = empty(x.shape, x.dtype)
    if y.size:
        _drop_cuda[blocks(y.size), THREADS](flat(x), flat(keep), x.dtype.type(1 / (1 - rate)), flat(y))
    return y


def forward_cuda(x: Any, keep: Any, *, rate: float) -> tuple[Any, tuple[Any, ...]]:
    """A thread per element of x and the mask."""
    return _dropped_cuda(x, keep, rate), (keep, rate)


def backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, None]:
    """The same kernel on dy and the mask."""
    return _dropped_cuda(dy, *saved), None


# The mask of an x on the GPU is drawn there: to send it over would cost a copy in every step. A generator with a
# state, one value after the other, is of no use to thousands of threads. A counter-based one has none: value i is
# a function of i and a key, so each thread computes its own, in any order, and the same key gives the same mask.
# This is Philox 4x32-10: ten rounds of two multiplications turn a counter into four words of 32 bits that pass
# the known tests of randomness. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@device_function
def _philox(c0, c1, c2, c3, k0, k1):
    """Four words of 32 bits from a counter of four and a key of two, all held in uint64."""
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (product1 >> _HALF) ^ c1 ^ k0, (product0 >> _HALF) ^ c3 ^ k1
        c1, c3 = product1 & _LOW, product0 & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


@kernel
def _draw_mask(x, keys, threshold, keep):
    """keep[i] is 1 with probability 1 - threshold / 2^32, else 0, by the key keys[0]; a thread draws four."""
    thread = cuda.grid(1)
    counter = np.uint64(thread)
    zero, key = np.uint64(0), keys[0]
    drawn = _philox(counter & _LOW, counter >> _HALF, zero, zero, key & _LOW, key >> _HALF)
    for j in range(4):
        i = 4 * thread + j
        if i < x.size:
            keep[i] = drawn[j] >= threshold


def _mask_cuda(x: Any, rate: float, key: Any) -> Any:
    """A mask for x on the GPU; the same one for the same key (1,), shape and rate."""
    keep = empty(x.shape, np.uint8)
    if x.size:
        arguments = flat(x), key, np.uint64(round(rate * 2**32)), flat(keep)
        _draw_mask[blocks(x.size, 4 * THREADS), THREADS](*arguments)
    return keep


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
        "cuda": Rung(forward_cuda, backward_cuda),
    },
    shape=_shape,
    sample=_sample,
    integer_inputs=frozenset({1}),
)


# 5. Function ------------------------------------------------------------------------------------------------


def dropout(x: Tensor, rate: float, training: bool = True, rng: np.random.Generator | None = None) -> Tensor:
    """Drop each value of x with probability rate, divide the others by 1 - rate; x itself if not training.

    rng: where the mask comes from; the package's generator (``mx.seed``) if None. The mask of an x on the
    GPU is drawn there, from a key of 64 bits that rng gives: another mask than on the CPU, and as reproducible.
    Raises ArgumentError unless 0 <= rate < 1. Srivastava et al. 2014.

    >>> import minixception as mx
    >>> np.unique(dropout(mx.tensor(np.ones(100, np.float32)), 0.5).numpy())
    array([0., 2.], dtype=float32)
    """
    _check_rate(rate)
    if not training or rate == 0:
        return x
    rng = rng or generator()
    if x.device == "cuda":
        keep = _mask_cuda(x.data, rate, drawn(lambda: int(rng.integers(2**64, dtype=np.uint64))))
    else:
        keep = (rng.random(x.shape, dtype=np.float32) >= rate).astype(np.uint8)  # random: uniform in [0, 1)
    return DROPOUT(x, Tensor(keep), rate=rate)
