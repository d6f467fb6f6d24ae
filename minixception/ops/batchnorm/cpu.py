"""2. CPU: batch normalisation in plain Numba loops, and the fast kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.channels import (
    BLOCK,
    Projection,
    add_gradient_sums,
    add_statistics,
    normalise_rows,
    project_rows,
)
from ...cpu.jit import loops, parallel, prange
from ...cpu.simd import Normalised

Array = np.ndarray

# All kernels see x as a matrix (m, c): one row per pixel of the batch, one column per channel.

# Loops: the formula, one scalar at a time -------------------------------------------------------------------


@loops
def _statistics_loops(x, mean, var):
    m, c = x.shape
    for q in range(c):
        total = 0.0
        for r in range(m):
            total += x[r, q]
        mean[q] = total / m
        total = 0.0
        for r in range(m):
            total += (x[r, q] - mean[q]) ** 2
        var[q] = total / m


@loops
def _forward_loops(x, gamma, beta, mean, var, y, eps):
    m, c = x.shape
    for q in range(c):
        s = 1 / np.sqrt(var[q] + eps)
        for r in range(m):
            y[r, q] = gamma[q] * (x[r, q] - mean[q]) * s + beta[q]


@loops
def _backward_loops(dy, x, gamma, mean, var, dx, dgamma, dbeta, eps, training):
    m, c = x.shape
    for q in range(c):
        s = 1 / np.sqrt(var[q] + eps)
        sum_dy, sum_dy_xhat = 0.0, 0.0
        for r in range(m):
            sum_dy += dy[r, q]
            sum_dy_xhat += dy[r, q] * (x[r, q] - mean[q]) * s
        dbeta[q], dgamma[q] = sum_dy, sum_dy_xhat
        for r in range(m):
            if training:
                xhat = (x[r, q] - mean[q]) * s
                dx[r, q] = gamma[q] * s * (dy[r, q] - sum_dy / m - xhat * sum_dy_xhat / m)
            else:
                dx[r, q] = gamma[q] * s * dy[r, q]


def forward_loops(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, training: bool, eps: float
) -> tuple[Array, tuple[Any, ...]]:
    """The formula of the definition as loops, a channel at a time; sums in float64."""
    mean, var = running_mean.astype(np.float64), running_var.astype(np.float64)  # (c,), copies
    if training:
        _statistics_loops(_matrix(x), mean, var)
    y = memory.empty(x.shape, x.dtype)
    _forward_loops(_matrix(x), gamma, beta, mean, var, _matrix(y), eps)
    return y, (x, gamma, mean.astype(x.dtype), var, eps, training)


def backward_loops(dy: Array, saved: tuple[Any, ...]) -> tuple[Array, Array, Array, None, None]:
    """The two sums over a channel, then dx from them."""
    x, gamma, mean, var, eps, training = saved
    dx = memory.empty(x.shape, x.dtype)
    dgamma, dbeta = np.empty_like(gamma), np.empty_like(gamma)
    mean = mean.astype(np.float64)
    _backward_loops(_matrix(dy), _matrix(x), gamma, mean, var, _matrix(dx), dgamma, dbeta, eps, training)
    return dx, dgamma, dbeta, None, None


def _matrix(x: Array) -> Array:
    """(..., c) as (m, c), without a copy."""
    return x.reshape(-1, x.shape[-1])


# Fast -------------------------------------------------------------------------------------------------------
# The loops above walk down a column, and neighbours in a column are c elements apart: each value they use
# brings a whole cache line with it. The fast kernels walk x row by row (cpu/channels.py). Arithmetic is far from
# being the limit; the bytes are.
#
# Rows are grouped into chunks, one task each; their number depends on the shape, not on the threads. What a task
# does to its rows, a fused kernel of another operator can do to those it has just computed.

_CHUNKS = 32


@parallel
def _statistics(x, mean, m2):
    """Mean and sum of squared deviations of each chunk of rows, in one pass over x."""
    m, chunks = len(x), len(mean)
    for chunk in prange(chunks):
        add_statistics(x[chunk * m // chunks : (chunk + 1) * m // chunks], mean[chunk], m2[chunk])


@parallel
def _normalise(x, normalised, residual, y):
    """y = max((x + minus_mean) * scale + shift + residual, floor)."""
    m = len(x)
    for block in prange((m + BLOCK - 1) // BLOCK):
        rows = slice(block * BLOCK, min((block + 1) * BLOCK, m))
        normalise_rows(x[rows], normalised, residual[rows], y[rows])


@parallel
def _gradient_sums(dy, x, minus_mean, gate, gated, sums):
    """Sums of dy and of dy * (x - mean) over each chunk of rows, in one pass; see ``add_gradient_sums``."""
    m, chunks = len(x), len(sums)
    for chunk in prange(chunks):
        sums[chunk] = 0
        rows = slice(chunk * m // chunks, (chunk + 1) * m // chunks)
        add_gradient_sums(dy[rows], x[rows], minus_mean, gate[rows], gated[rows], sums[chunk])


@parallel
def _project(dy, x, projection, dx):
    """dx = scale * (dy + slope * (x - mean) + offset)."""
    m = len(x)
    for block in prange((m + BLOCK - 1) // BLOCK):
        rows = slice(block * BLOCK, min((block + 1) * BLOCK, m))
        project_rows(dy[rows], x[rows], projection, dx[rows])


# Between the passes lies arithmetic on one value a channel: plain loops, since dozens of NumPy calls on short arrays
# took a twentieth of a small network's step.


@loops
def _merge(counts, means, m2s, mean, var):
    m = counts.sum()
    mean[:] = 0
    var[:] = 0
    for part in range(len(counts)):
        for q in range(len(mean)):
            mean[q] += counts[part] * means[part, q] / m
    for part in range(len(counts)):
        for q in range(len(mean)):
            var[q] += (m2s[part, q] + counts[part] * (means[part, q] - mean[q]) ** 2) / m


@loops
def _set_normalised(normalised, mean, var, gamma, beta, eps):
    for q in range(len(mean)):
        factor = gamma[q] / np.sqrt(var[q] + eps)
        normalised.minus_mean[q], normalised.scale[q] = -mean[q], factor
        normalised.shift[q] = (
            beta[q] - (mean[q] + normalised.minus_mean[q]) * factor
        )  # what rounding the mean left over


@loops
def _set_projection(projection, dgamma, dbeta, sums, m, gamma, mean, var, eps):
    for q in range(len(mean)):
        s = 1 / np.sqrt(var[q] + eps)
        dbeta[q], dgamma[q] = sums[0, q], sums[1, q] * s
        projection.minus_mean[q], projection.scale[q] = -mean[q], gamma[q] * s
        projection.slope[q], projection.offset[q] = -s * sums[1, q] * s / m, -sums[0, q] / m


def forward_cpu(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, training: bool, eps: float
) -> tuple[Array, tuple[Any, ...]]:
    """One pass for the statistics (in training), one pass for y."""
    known = (array.astype(np.float64) for array in (running_mean, running_var))
    mean, var = batch_statistics(x) if training else known  # (c,)
    normalised = normalising(mean, var, gamma, beta, eps)
    y = normalise(x, normalised)
    return y, (x, gamma, -normalised.minus_mean, var, eps, training)


def batch_statistics(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance (c,) of x (..., c) over all axes but the last, in float64; reads x once."""
    m, c = _matrix(x).shape
    chunks = _chunks(m)
    means, m2s = np.empty((2, chunks, c))
    _statistics(_matrix(x), means, m2s)
    return merged_statistics(x, np.diff(np.arange(chunks + 1) * m // chunks), means, m2s)


def merged_statistics(x: Array, counts: Array, means: Array, m2s: Array) -> tuple[Array, Array]:
    """Mean and biased variance (c,) of x (..., c) from those of its parts: Chan's merge of all of them at once.

    counts (parts,): their rows; means, m2s (parts, c). Where squares leave the range of x's dtype, from about 1e19 in
    float32, the loops take them in float64.
    """
    mean, var = np.empty((2, means.shape[1]))
    _merge(counts, means, m2s, mean, var)
    if not np.isfinite(var).all():
        _statistics_loops(_matrix(x), mean, var)
    return mean, var


def normalising(mean: Array, var: Array, gamma: Array, beta: Array, eps: float, relu: bool = False) -> Normalised:
    """The factors of y = gamma (x - mean) / sqrt(var + eps) + beta, rectified or not, in beta's dtype.

    x * scale + (beta - mean * scale) would be one add less, and would cancel: both terms grow with the mean. x - mean
    does not round for x near the mean, and what rounding the mean itself to x's dtype left over goes into the shift.
    """
    floor = beta.dtype.type(0 if relu else -np.inf)
    minus_mean, scale, shift = np.empty((3, *beta.shape), beta.dtype)
    normalised = Normalised(minus_mean, scale, shift, floor)
    _set_normalised(normalised, mean, var, gamma, beta, eps)
    return normalised


def normalise(x: Array, normalised: Normalised, residual: Array | None = None, y: Array | None = None) -> Array:
    """max((x + minus_mean) * scale + shift + residual, floor), by all threads; written to y if it is given."""
    y = memory.empty(x.shape, x.dtype) if y is None else y
    rows = _matrix(x)
    _normalise(rows, normalised, rows[:0] if residual is None else _matrix(residual), _matrix(y))
    return y


def backward_cpu(dy: Array, saved: tuple[Any, ...]) -> tuple[Array, Array, Array, None, None]:
    """One pass for the two sums, one pass for dx."""
    x, mean, training = saved[0], saved[2], saved[-1]
    dgamma, dbeta, projection = projecting(gradient_sums(dy, x, -mean), x.size // x.shape[-1], saved[1:5])
    if training:
        dx = project(dy, x, projection, memory.empty(x.shape, x.dtype))
    else:  # mean and var are constants: the affine map of the forward pass without its shifts
        zero = np.zeros_like(mean)
        dx = normalise(dy, Normalised(zero, projection.scale, zero, x.dtype.type(-np.inf)))
    return dx, dgamma, dbeta, None, None


def gradient_sums(
    dy: Array, x: Array, minus_mean: Array, gate: Array | None = None, gated: Array | None = None
) -> Array:
    """The sums of dy and of dy * (x + minus_mean) for each channel, float64 (2, c); see ``_gradient_sums``."""
    rows = _matrix(x)
    sums = np.empty((_chunks(len(rows)), 2, x.shape[-1]))
    gates = [rows[:0] if array is None else _matrix(array) for array in (gate, gated)]
    _gradient_sums(_matrix(dy), rows, minus_mean, *gates, sums)
    return sums.sum(axis=0)


def projecting(sums: Array, m: int, saved: tuple[Any, ...]) -> tuple[Array, Array, Projection]:
    """dgamma, dbeta, and the factors of dx in training, from the sums over m rows; saved: gamma, mean, var, eps."""
    gamma, mean, var, eps = saved
    projection = Projection(*np.empty((4, *mean.shape), mean.dtype))
    dgamma, dbeta = np.empty_like(mean), np.empty_like(mean)
    _set_projection(projection, dgamma, dbeta, sums, m, gamma, mean, var, eps)
    return dgamma, dbeta, projection


def project(dy: Array, x: Array, projection: Projection, dx: Array) -> Array:
    """dx, by all threads."""
    _project(_matrix(dy), _matrix(x), projection, _matrix(dx))
    return dx


def _chunks(m: int) -> int:
    """Tasks of a sum over m rows: each at least one block, and never a matter of the number of threads."""
    return min(_CHUNKS, -(-m // BLOCK))
