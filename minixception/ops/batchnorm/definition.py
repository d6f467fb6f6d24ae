"""1. Definition: batch normalisation in NumPy. The reference that every other rung is tested against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray


def forward_numpy(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, training: bool, eps: float
) -> tuple[Array, tuple[Any, ...]]:
    """Mean first, then the squares of what differs from it: two passes, and everything in float64.

    The variance stays in float64 when it is saved: it is a square, and leaves float32's range where x is far inside.
    The shorter mean(x^2) - mean(x)^2 must not be used: with mean 1e4 and variance 1 it subtracts two values
    near 1e8, and float32 keeps 7 digits.
    """
    if training:
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes, dtype=np.float64)  # (c,)
        var = np.square(x - mean).mean(axes)  # (c,)
    else:
        mean, var = running_mean.astype(np.float64), running_var.astype(np.float64)  # (c,), copies
    y = (x - mean) / np.sqrt(var + eps) * gamma + beta  # (..., c)
    return y.astype(x.dtype), (x, gamma, mean.astype(x.dtype), var, eps, training)


def backward_numpy(dy: Array, saved: tuple[Any, ...]) -> tuple[Array, Array, Array, None, None]:
    """The formula at the head of the package: dy without its mean and without its part along xhat.

    The saved mean has x's dtype. Its rounding moves xhat by at most 6e-8 * |mean| / std in float32: 6e-4 for
    a mean of 1e4 standard deviations, and nothing to speak of for the activations of a network.
    """
    x, gamma, mean, var, eps, training = saved
    axes = tuple(range(x.ndim - 1))
    m = math.prod(x.shape[:-1])
    s = 1 / np.sqrt(var + eps)  # (c,)
    xhat = (x - mean.astype(np.float64)) * s  # (..., c)
    dbeta = dy.sum(axes, dtype=np.float64)  # (c,)
    dgamma = (dy * xhat).sum(axes)  # (c,)
    dxhat = dy - dbeta / m - xhat * dgamma / m if training else dy  # (..., c)
    dx = gamma * s * dxhat  # (..., c)
    return dx.astype(x.dtype), dgamma.astype(x.dtype), dbeta.astype(x.dtype), None, None
