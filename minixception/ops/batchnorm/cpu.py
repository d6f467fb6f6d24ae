"""2. CPU: batch normalisation in plain Numba loops, and the fast kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.jit import loops, parallel, prange
from ...cpu.simd import add, fma, lanes, load, multiply, prefetch, prefetch_write, splat, store

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
# brings a whole cache line with it. The fast kernels walk x in blocks of 32 rows. Inside of a block they take
# one vector of channels (16 in float32, AVX-512: one cache line of each row), keep all that belongs to these
# channels in registers, and go down the rows; then the next 16 channels, which lie right behind. So every
# cache line is used whole and comes from memory once per pass. Arithmetic is far from being the limit; the
# bytes are.
#
# Sums run in x's dtype over the 32 rows of a block only, and from block to block in float64.
# Blocks are grouped into chunks, one task each; their number depends on the shape, not on the threads.

_BLOCK = 32
_CHUNKS = 32


@parallel
def _statistics(x, mean, m2, lanes):
    """Mean and sum of squared deviations (m2 = count * variance) of each chunk of rows, in one pass over x.

    One pass must not mean sum(x^2) - sum(x)^2/n, whose two terms are nearly equal when the mean is large. Two
    ideas avoid it. Shift: variance does not change when a constant is subtracted, so a block sums d = x -
    x[first row of the block]; that first row is one of the values, so the square of the shift's error is at
    most 31 times the block's variance, and at most 5 of float32's 24 bits are lost, whatever the mean. Merge:
    Chan, Golub and LeVeque (1979) join the (count, mean, m2) of two sets exactly, with the squared distance
    of their means as the only extra term.
    """
    m, c = x.shape
    chunks = mean.shape[0]
    xs = x.reshape(-1)
    for chunk in prange(chunks):
        total, square = np.empty(c, x.dtype), np.empty(c, x.dtype)  # of one block; both stay in L1
        mean[chunk], m2[chunk] = 0, 0
        first, last = chunk * m // chunks, (chunk + 1) * m // chunks
        for start in range(first, last, _BLOCK):
            stop = min(start + _BLOCK, last)
            for q in range(0, c, lanes):
                valid = min(lanes, c - q)
                minus_shift = multiply(load(xs, start * c + q, valid), splat(x, x.dtype.type(-1)))
                sum_d = sum_dd = splat(x, x.dtype.type(0))
                for at in range((start + 1) * c + q, stop * c + q, c):
                    prefetch(xs, at + _BLOCK * c)
                    d = add(load(xs, at, valid), minus_shift)
                    sum_d = add(sum_d, d)
                    sum_dd = fma(d, d, sum_dd)
                store(total, q, sum_d, valid)
                store(square, q, sum_dd, valid)
            before, count = np.float64(start - first), np.float64(stop - start)
            for q in range(c):  # merge the block into the chunk
                sum_d64 = np.float64(total[q])
                block_mean = np.float64(x[start, q]) + sum_d64 / count
                block_m2 = np.float64(square[q]) - sum_d64 * sum_d64 / count
                delta = block_mean - mean[chunk, q]
                mean[chunk, q] += delta * (count / (before + count))
                m2[chunk, q] += block_m2 + delta * delta * (before * count / (before + count))


@parallel
def _affine(x, minus_mean, scale, shift, y, lanes):
    """y = (x - mean) * scale + shift, with mean, scale and shift in registers while 32 rows pass by."""
    m, c = x.shape
    xs, ys = x.reshape(-1), y.reshape(-1)
    for block in prange((m + _BLOCK - 1) // _BLOCK):
        start, stop = block * _BLOCK, min((block + 1) * _BLOCK, m)
        for q in range(0, c, lanes):
            valid = min(lanes, c - q)
            minus_means = load(minus_mean, q, valid)
            scales, shifts = load(scale, q, valid), load(shift, q, valid)
            for at in range(start * c + q, stop * c + q, c):
                prefetch(xs, at + _BLOCK * c)
                prefetch_write(ys, at + _BLOCK * c)
                store(ys, at, fma(add(load(xs, at, valid), minus_means), scales, shifts), valid)


@parallel
def _gradient_sums(dy, x, minus_mean, sum_dy, sum_dy_d, lanes):
    """Sums of dy and of dy * (x - mean) over each chunk of rows, in one pass over dy and x."""
    m, c = x.shape
    chunks = sum_dy.shape[0]
    dys, xs = dy.reshape(-1), x.reshape(-1)
    for chunk in prange(chunks):
        block_dy, block_dy_d = np.empty(c, x.dtype), np.empty(c, x.dtype)
        sum_dy[chunk], sum_dy_d[chunk] = 0, 0
        first, last = chunk * m // chunks, (chunk + 1) * m // chunks
        for start in range(first, last, _BLOCK):
            stop = min(start + _BLOCK, last)
            for q in range(0, c, lanes):
                valid = min(lanes, c - q)
                minus_means = load(minus_mean, q, valid)
                total_dy = total_dy_d = splat(x, x.dtype.type(0))
                for at in range(start * c + q, stop * c + q, c):
                    prefetch(dys, at + _BLOCK * c)
                    prefetch(xs, at + _BLOCK * c)
                    g = load(dys, at, valid)
                    total_dy = add(total_dy, g)
                    total_dy_d = fma(g, add(load(xs, at, valid), minus_means), total_dy_d)
                store(block_dy, q, total_dy, valid)
                store(block_dy_d, q, total_dy_d, valid)
            for q in range(c):
                sum_dy[chunk, q] += block_dy[q]
                sum_dy_d[chunk, q] += block_dy_d[q]


@parallel
def _input_gradient(dy, x, minus_mean, scale, slope, offset, dx, lanes):
    """dx = scale * (dy + slope * (x - mean) + offset): each product keeps to the range of dy and of dx."""
    m, c = x.shape
    dys, xs, dxs = dy.reshape(-1), x.reshape(-1), dx.reshape(-1)
    for block in prange((m + _BLOCK - 1) // _BLOCK):
        start, stop = block * _BLOCK, min((block + 1) * _BLOCK, m)
        for q in range(0, c, lanes):
            valid = min(lanes, c - q)
            minus_means, scales = load(minus_mean, q, valid), load(scale, q, valid)
            slopes, offsets = load(slope, q, valid), load(offset, q, valid)
            for at in range(start * c + q, stop * c + q, c):
                d = add(load(xs, at, valid), minus_means)
                store(dxs, at, multiply(scales, add(load(dys, at, valid), fma(slopes, d, offsets))), valid)


def forward_cpu(
    x: Array, gamma: Array, beta: Array, running_mean: Array, running_var: Array, *, training: bool, eps: float
) -> tuple[Array, tuple[Any, ...]]:
    """One pass for the statistics (in training), one pass for y."""
    mean, var = batch_statistics(x) if training else (running_mean, running_var.astype(np.float64))  # (c,)
    mean_rounded = mean.astype(x.dtype)  # (c,), copies both: training changes the running arrays in place
    scale = gamma / np.sqrt(var + eps)  # (c,) float64
    # x * scale + (beta - mean * scale) would be one add less, and would cancel: both terms grow with the
    # mean. x - mean does not round for x near the mean, and what rounding the mean itself to x's dtype left
    # over goes into the offset.
    with np.errstate(invalid="ignore"):  # nan where the mean is infinite, and y with it
        shift = beta - (mean - mean_rounded) * scale  # (c,) float64
    y = memory.empty(x.shape, x.dtype)
    factors = scale.astype(x.dtype), shift.astype(x.dtype)
    _affine(_matrix(x), -mean_rounded, *factors, _matrix(y), lanes(x.dtype.type))
    return y, (x, gamma, mean_rounded, var, eps, training)


def batch_statistics(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance (c,) of x (..., c) over all axes but the last, in float64; reads x once.

    Where a block's squares leave the range of x's dtype, from about 1e19 in float32, the loops take them in float64.
    """
    m, c = _matrix(x).shape
    chunks = _chunks(m)
    means, m2s = np.empty((chunks, c)), np.empty((chunks, c))
    _statistics(_matrix(x), means, m2s, lanes(x.dtype.type))
    counts = np.diff(np.arange(chunks + 1) * m // chunks)[:, None]  # (chunks, 1)
    mean = (counts * means).sum(axis=0) / m  # (c,)
    var = (m2s + counts * np.square(means - mean)).sum(axis=0) / m  # (c,), Chan's merge of all chunks at once
    if not np.isfinite(var).all():
        _statistics_loops(_matrix(x), mean, var)
    return mean, var


def backward_cpu(dy: Array, saved: tuple[Any, ...]) -> tuple[Array, Array, Array, None, None]:
    """One pass for the two sums, one pass for dx."""
    x, gamma, mean, var, eps, training = saved
    m, c = _matrix(x).shape
    width = lanes(x.dtype.type)
    chunks = _chunks(m)
    partial_dy, partial_dy_d = np.empty((chunks, c)), np.empty((chunks, c))
    _gradient_sums(_matrix(dy), _matrix(x), -mean, partial_dy, partial_dy_d, width)
    s = 1 / np.sqrt(var + eps)  # (c,)
    dbeta = partial_dy.sum(axis=0)  # (c,)
    dgamma = partial_dy_d.sum(axis=0) * s  # (c,)
    scale = gamma * s  # (c,)
    dx = memory.empty(x.shape, x.dtype)
    if training:
        factors = [f.astype(x.dtype) for f in (scale, -s * dgamma / m, -dbeta / m)]
        _input_gradient(_matrix(dy), _matrix(x), -mean, *factors, _matrix(dx), width)
    else:  # mean and var are constants: the affine map of the forward pass without its offsets
        zero = np.zeros_like(mean)
        _affine(_matrix(dy), zero, scale.astype(x.dtype), zero, _matrix(dx), width)
    return dx, dgamma.astype(x.dtype), dbeta.astype(x.dtype), None, None


def _chunks(m: int) -> int:
    """Tasks of a sum over m rows: each at least one block, and never a matter of the number of threads."""
    return min(_CHUNKS, -(-m // _BLOCK))
