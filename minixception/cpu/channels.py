"""Rows of channels, as batchnorm sees an image: one row for each pixel, one column for each channel.

The helpers here take rows that a task has just made, or is about to use, while they are in its core's cache. They
walk them in blocks of 32 rows. Inside of a block they take one vector of channels (16 in float32, AVX-512: one cache
line of each row), keep all that belongs to these channels in registers, and go down the rows; then the next 16
channels, which lie right behind. So every cache line is used whole, and comes from memory once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .jit import inline
from .simd import add, arrived, fma, lanes, load, multiply, prefetch, prefetch_write, splat, store, vectors_of

BLOCK = 32  # rows


class Projection(NamedTuple):
    """What batchnorm's backward pass does to a gradient: dx = scale * (dy + slope * (x + minus_mean) + offset)."""

    minus_mean: Any  # (c,), as all of them
    scale: Any
    slope: Any
    offset: Any


@inline
def add_statistics(x, mean, m2):
    """Mean and sum of squared deviations (m2 = count * variance) of each column of x (m, c), in one pass.

    mean and m2 (c,) are float64. One pass must not mean sum(x^2) - sum(x)^2/m, whose two terms are nearly equal when
    the mean is large. Two ideas avoid it. Shift: variance does not change when a constant is subtracted, so a block
    sums d = x - x[first row of the block]; that first row is one of the values, so the square of the shift's error is
    at most 31 times the block's variance, and at most 5 of float32's 24 bits are lost, whatever the mean. Merge: Chan,
    Golub and LeVeque (1979) join the (count, mean, m2) of two sets exactly, with the squared distance of their means as
    the only extra term.

    Sums run in x's dtype over the rows of a block only, and from block to block in float64.
    """
    m, c = x.shape
    vector = lanes(x.dtype)
    total, square = np.empty(c, x.dtype), np.empty(c, x.dtype)  # of one block; both stay in L1
    for q in range(c):
        mean[q], m2[q] = 0, 0
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        for q in range(0, c, vector):
            valid = min(vector, c - q)
            minus_shift = multiply(load(x, (start, q), valid), splat(x, -1))
            sum_d = sum_dd = splat(x, 0)
            for r in range(start + 1, stop):
                prefetch(x, (r + BLOCK, q))
                d = add(load(x, (r, q), valid), minus_shift)
                sum_d = add(sum_d, d)
                sum_dd = fma(d, d, sum_dd)
            store(total, q, sum_d, valid)
            store(square, q, sum_dd, valid)
        before, count = np.float64(start), np.float64(stop - start)
        for q in range(c):  # merge the block into what was before
            sum_d64 = np.float64(total[q])
            block_mean = np.float64(x[start, q]) + sum_d64 / count
            block_m2 = np.float64(square[q]) - sum_d64 * sum_d64 / count
            delta = block_mean - mean[q]
            mean[q] += delta * (count / (before + count))
            m2[q] += block_m2 + delta * delta * (before * count / (before + count))


@inline
def normalise_rows(x, normalised, residual, y):
    """y = max((x + minus_mean) * scale + shift + residual, floor); residual is empty, or rows like x."""
    m, c = x.shape
    vector = lanes(x.dtype)
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        for q in range(0, c, vector):
            valid = min(vector, c - q)
            minus_mean, scale, shift, floor = vectors_of(normalised, x, q, valid)
            for r in range(start, stop):
                prefetch(x, (r + BLOCK, q))
                prefetch_write(y, (r + BLOCK, q))
                value = fma(add(load(x, (r, q), valid), minus_mean), scale, shift)
                if len(residual) > 0:
                    value = add(value, load(residual, (r, q), valid))
                (value,) = arrived((value,), (floor,), None)
                store(y, (r, q), value, valid)


@inline
def project_rows(dy, x, projection, dx):
    """dx = scale * (dy + slope * (x + minus_mean) + offset): each product keeps to the range of dy and of dx."""
    m, c = x.shape
    vector = lanes(x.dtype)
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        for q in range(0, c, vector):
            valid = min(vector, c - q)
            minus_mean, scale = load(projection.minus_mean, q, valid), load(projection.scale, q, valid)
            slope, offset = load(projection.slope, q, valid), load(projection.offset, q, valid)
            for r in range(start, stop):
                d = add(load(x, (r, q), valid), minus_mean)
                value = multiply(scale, add(load(dy, (r, q), valid), fma(slope, d, offset)))
                store(dx, (r, q), value, valid)
