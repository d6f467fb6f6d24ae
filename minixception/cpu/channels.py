"""Rows of channels, as batchnorm sees an image: one row for each pixel, one column for each channel.

The helpers here take rows that a task has just made, or is about to use, while they are in its core's cache. They go
along each row, from its first channel to its last, and then to the next: memory is one straight stream, which the
hardware's own prefetching follows. What belongs to a channel, a factor or a sum, is loaded again in each row, and never
leaves L1. The other order, one vector of channels down the rows with all of that in registers, has fewer instructions
and was two to three times slower for 64 channels from memory: its loads are a row apart.

Statistics are the exception: they are mostly taken of rows in L2, where the instructions count. Their sums are in
registers, those of four vectors of channels at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .jit import forceinline, inline, pasted
from .simd import (
    add,
    fma,
    lanes,
    load,
    load_tile,
    maximum,
    multiply,
    splat,
    store,
    store_tile,
    vectors_of,
    where_positive,
    zeros,
)

BLOCK = 32  # rows that sums run over in x's dtype, before they are added in float64
_VECTORS = 4  # of channels whose statistics are taken together


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
    step = _VECTORS * lanes(x.dtype)
    sums = np.empty((2, c), x.dtype)  # of one block; they stay in L1
    for q in range(c):
        mean[q], m2[q] = 0, 0
    for start in range(0, m, BLOCK):
        stop = min(start + BLOCK, m)
        for q in range(0, c - step + 1, step):
            _add_deviations(x, start, stop, q, _VECTORS, sums)
        for q in range(c // step * step, c, lanes(x.dtype)):
            _add_deviations(x, start, stop, q, 1, sums)
        before, count = np.float64(start), np.float64(stop - start)
        share, between = count / (before + count), before * count / (before + count)
        for q in range(c):  # merge the block into what was before
            sum_d = np.float64(sums[0, q])
            delta = np.float64(x[start, q]) + sum_d / count - mean[q]
            mean[q] += delta * share
            m2[q] += np.float64(sums[1, q]) - sum_d * sum_d / count + delta * delta * between


@forceinline
def _add_deviations(x, start, stop, q, vectors, sums):
    (first,) = load_tile(x, (start, q), 1, vectors)
    minus_shift = multiply(first, splat(x, -1))
    total, square = zeros(x, 2, vectors)
    for r in range(start + 1, stop):
        (row,) = load_tile(x, (r, q), 1, vectors)
        d = add(row, minus_shift)
        total, square = add(total, d), fma(d, d, square)
    store_tile(sums, (0, q), (total, square))


@inline
def normalise_rows(x, normalised, residual, y):
    """y = max((x + minus_mean) * scale + shift + residual, floor); residual is empty, or rows like x."""
    m, c = x.shape
    vector = lanes(x.dtype)
    whole = c // vector * vector
    for r in range(m):
        for q in range(0, whole, vector):
            _normalise(x, normalised, residual, y, r, q, vector)
        if whole < c:
            _normalise(x, normalised, residual, y, r, whole, c - whole)


@pasted
def _normalise(x, normalised, residual, y, r, q, n):
    minus_mean, scale, shift, floor = vectors_of(normalised, x, q, n)
    value = fma(add(load(x, (r, q), n), minus_mean), scale, shift)
    if len(residual) > 0:
        value = add(value, load(residual, (r, q), n))
    store(y, (r, q), maximum(value, floor), n)


@inline
def project_rows(dy, x, projection, dx):
    """dx = scale * (dy + slope * (x + minus_mean) + offset): each product keeps to the range of dy and of dx."""
    m, c = x.shape
    vector = lanes(x.dtype)
    whole = c // vector * vector
    for r in range(m):
        for q in range(0, whole, vector):
            _project(dy, x, projection, dx, r, q, vector)
        if whole < c:
            _project(dy, x, projection, dx, r, whole, c - whole)


@pasted
def _project(dy, x, projection, dx, r, q, n):
    d = add(load(x, (r, q), n), load(projection.minus_mean, q, n))
    value = add(load(dy, (r, q), n), fma(load(projection.slope, q, n), d, load(projection.offset, q, n)))
    store(dx, (r, q), multiply(load(projection.scale, q, n), value), n)


@inline
def add_gradient_sums(dy, x, minus_mean, gate, gated, sums):
    """Add the sums of dy and of dy * (x + minus_mean) over the rows to sums (2, c), float64.

    gate: empty, or like x. Then dy counts as 0 where it is not positive, behind a ReLU, and that is written to gated.
    """
    m, c = x.shape
    vector = lanes(x.dtype)
    whole = c // vector * vector
    of_block = np.empty((2, c), x.dtype)
    for start in range(0, m, BLOCK):
        of_block[:] = 0
        for r in range(start, min(start + BLOCK, m)):
            for q in range(0, whole, vector):
                _add_gradients(dy, x, minus_mean, gate, gated, of_block, r, q, vector)
            if whole < c:
                _add_gradients(dy, x, minus_mean, gate, gated, of_block, r, whole, c - whole)
        for k in range(2):
            for q in range(c):
                sums[k, q] += of_block[k, q]


@pasted
def _add_gradients(dy, x, minus_mean, gate, gated, sums, r, q, n):
    g = load(dy, (r, q), n)
    if len(gate) > 0:
        (g,) = where_positive((load(gate, (r, q), n),), (g,))
        store(gated, (r, q), g, n)
    d = add(load(x, (r, q), n), load(minus_mean, q, n))
    store(sums, (0, q), add(load(sums, (0, q), n), g), n)
    store(sums, (1, q), fma(g, d, load(sums, (1, q), n)), n)
