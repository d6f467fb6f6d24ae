"""Updates of parameters on the GPU: a thread per number, all of a rule in one pass.

The same formulas as in optimizers.py and averaging.py. Each number of each array is read once and written once, by
neighbouring threads for neighbouring numbers: nothing but memory limits them.
"""

from __future__ import annotations

import math
from typing import Any

from ..kernels.gpu import THREADS, Kernel, blocks, cuda, device_function, dtype, kernel


def update(rule: Kernel, *arrays: Any, **scalars: float) -> None:
    """Run a rule on arrays of one shape, the parameter first, and on numbers in its arguments' order."""
    w = arrays[0]
    flat = [array.reshape(array.size) for array in arrays]
    rule[blocks(w.size), THREADS](*flat, *[w.dtype.type(value) for value in scalars.values()])


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
    """g times a number, in place."""
    i = cuda.grid(1)
    if i < g.size:
        g[i] *= factor
