"""Updates of parameters on the GPU: a thread per element, all of a rule in one pass.

The same formulas as in optimizers.py and averaging.py. Each element of each array is read once and written once, by
neighbouring threads for neighbouring elements: nothing but memory limits them. And the sum of squares that the norm
of all gradients is made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..gpu.device import to_cpu
from ..gpu.kernel import THREADS, Kernel, blocks, cuda, device_function, dtype, empty, flat, kernel
from ..gpu.reduce import block_sum, row_threads, sums


def update(rule: Kernel, *arrays: Any, **scalars: float) -> None:
    """Run a rule on arrays of one shape, the parameter first, and on scalars in the order of its arguments."""
    w = arrays[0]
    rule[blocks(w.size), THREADS](*map(flat, arrays), *[w.dtype.type(value) for value in scalars.values()])


@device_function
def _decayed(w, g, decay):
    return g + decay * w


@kernel
def sgd(w, g, lr, decay):
    """SGD without momentum."""
    i = cuda.grid(1)
    if i < w.size:
        w[i] -= lr * _decayed(w[i], g[i], decay)


@kernel
def momentum_sgd(w, g, v, lr, momentum, decay):
    """SGD with momentum."""
    i = cuda.grid(1)
    if i < w.size:
        velocity = momentum * v[i] + _decayed(w[i], g[i], decay)
        v[i] = velocity
        w[i] -= lr * velocity


@device_function
def _scaled_by_square(g, s, i, rho, eps):
    """g / sqrt(s + eps), after the mean square s[i] has taken g in."""
    square = rho * s[i] + (dtype(1) - rho) * g * g
    s[i] = square
    return g / math.sqrt(square + eps)


@kernel
def rmsprop(w, g, s, lr, rho, eps, decay):
    """RMSprop without momentum."""
    i = cuda.grid(1)
    if i < w.size:
        w[i] -= lr * _scaled_by_square(_decayed(w[i], g[i], decay), s, i, rho, eps)


@kernel
def momentum_rmsprop(w, g, s, v, lr, rho, eps, decay, momentum):
    """RMSprop with momentum."""
    i = cuda.grid(1)
    if i < w.size:
        velocity = momentum * v[i] + lr * _scaled_by_square(_decayed(w[i], g[i], decay), s, i, rho, eps)
        v[i] = velocity
        w[i] -= velocity


@kernel
def adam(w, g, m, s, rate, beta1, beta2, square_scale, eps, decay):
    """Adam; rate: lr / (1 - beta1**t), square_scale: 1 / (1 - beta2**t)."""
    i = cuda.grid(1)
    if i < w.size:
        total = _decayed(w[i], g[i], decay)
        mean = beta1 * m[i] + (dtype(1) - beta1) * total
        square = beta2 * s[i] + (dtype(1) - beta2) * total * total
        m[i], s[i] = mean, square
        w[i] -= rate * mean / (math.sqrt(square * square_scale) + eps)


@kernel
def average(mean, w, share):
    """An exponential moving average of w."""
    i = cuda.grid(1)
    if i < w.size:
        mean[i] += share * (w[i] - mean[i])


@kernel
def scale(g, factor):
    """An array, such as a gradient or what decays, times a factor, in place."""
    i = cuda.grid(1)
    if i < g.size:
        g[i] *= factor


# A thread adds 32 squares, a block the sums of its threads, and all blocks of all gradients write into one array, of
# which one sum is made: one value crosses the bus. In float64, slow as it is on consumer GPUs: two operations for each
# parameter of a network are little beside its gradients.

_SQUARES = 32  # of a thread


@kernel
def _add_squares(partial, at, g):
    """partial[at + block]: the sum of squares of this block's share of g (n,). Float64, the type of ``partial``."""
    total = dtype(0)
    for i in range(cuda.grid(1), g.size, cuda.gridsize(1)):
        element = dtype(g[i])
        total += element * element
    total = block_sum(total)
    if cuda.threadIdx.x == 0:
        partial[at + cuda.blockIdx.x] = total


def sum_of_squares(arrays: Sequence[Any]) -> float:
    """Of all elements of device arrays together, in float64, with the same bits in every run."""
    shares = [blocks(array.size, THREADS * _SQUARES) for array in arrays]
    partial, at = empty((sum(shares),), np.float64), 0
    for array, share in zip(arrays, shares, strict=True):
        if share:
            _add_squares[share, row_threads(array.size)](partial, at, flat(array))
            at += share
    return float(to_cpu(sums(partial, (0,))))
