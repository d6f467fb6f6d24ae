"""3. GPU: batch normalisation with numba.cuda, from a thread per channel to blocks that keep the memory busy.

All kernels see x as a matrix (m, c): one row per pixel of the batch, one column per channel. The 32 threads of a warp
take 32 neighbouring channels of one row, so that each of their loads is of whole lines of memory ("coalesced"). The
arithmetic is next to nothing; what counts is how often x is read, and how many loads are under way at a time: a GPU
waits some 500 ns for memory, and to draw 1 TB/s it must have asked for half a megabyte in advance.

cuda_naive   A thread per channel walks down its column: three reads of x forward, four of x and dy together backward.
             Coalesced, but 728 channels are 728 threads, where a GPU holds 100,000: nearly all of it is idle.
cuda_block   A block of 32 x 8 threads takes a slab of rows and 32 channels, so that rows are summed in parallel. Its 8
             threads of one channel add up in shared memory, by a tree; a second kernel adds the sums of all slabs, a
             block per channel; a third writes y or dx. Two reads of x forward, two of x and dy each backward: the least
             there is, as the first output depends on the last input.
cuda         The same, but a thread loads 8 elements before it uses the first, so that 8 loads are under way; the
             formulas lose no digits, whatever the mean and whichever row comes first; and the 8 threads of one channel
             add up by warp shuffles, from register to register.

No atomic additions: which block comes first changes from run to run, and the last bits of a sum with it. Here
each block writes to places of its own, and these are added in an order that depends on the shape alone.

float32: a thread adds in float32, but no more than an eighth of a slab's rows, shifted by a value of their own channel;
from block to block all is in float64. Consumer GPUs compute 32 or 64 times slower in float64: one value per block and
channel does not show, one per element would. The naive rung adds everything in float64. float64: float64 throughout.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...gpu.kernel import THREADS, Kernel, blocks, cuda, device_function, dtype, empty, kernel
from ...gpu.reduce import block_sum, row_threads
from .cuda_sums import (
    GROUP,
    LANES,
    PAIRS,
    ROWS,
    block_gradient_sums,
    block_statistics,
    group_gradient_sums,
    group_statistics,
    load_rows,
    this_slab,
)

# What is the same on all rungs ------------------------------------------------------------------------------

_BLOCKS = 4096  # at most: enough to fill any GPU a few times, so that the last blocks to finish do not count


@device_function
def _write_factors(q, mean, var, gamma, beta, eps, means, variances, factors):
    """For channel q, from its statistics in float64: what is saved, and scale, shift and mean for ``_normalise``.

    What rounding the mean to x's type leaves over goes into the shift.
    """
    s = np.float64(1 / math.sqrt(var + eps))
    means[q], variances[q] = mean, var
    factors[0, q] = gamma[q] * s
    factors[1, q] = beta[q] - (mean - means[q]) * (gamma[q] * s)
    factors[2, q] = means[q]


@device_function
def _write_gradient_factors(q, sums, m, gamma, variances, settings, results):
    """For channel q, from sums of dy and dy (x - mean) in float64: the results dgamma, dbeta and the factors of dx.

    dx = factors[0] (dy - factors[1] (x - mean) - factors[2]); in inference the last two are 0. settings: eps, training.
    """
    (sum_dy, sum_dy_d), (eps, training), (dgamma, dbeta, factors) = sums, settings, results
    s = np.float64(1 / math.sqrt(variances[q] + eps))
    dgamma[q], dbeta[q] = sum_dy_d * s, sum_dy
    factors[0, q] = gamma[q] * s
    factors[1, q] = s * s * sum_dy_d / m if training else 0.0
    factors[2, q] = sum_dy / m if training else 0.0


def _matrix(x: Any, gamma: Any) -> Any:
    """(..., c) as (m, c), without a copy."""
    return x.reshape(x.size // gamma.size, gamma.size)


def _per_channel(gamma: Any, second: Any) -> tuple[Any, Any, Any]:
    """New arrays: (c,) and, of dtype ``second``, (c,) for results; (3, c) for the factors of the last pass."""
    return empty(gamma.shape, gamma.dtype), empty(gamma.shape, second), empty((3, gamma.size), gamma.dtype)


def _slabs(m: int, c: int) -> tuple[int, tuple[tuple[int, int], tuple[int, int]]]:
    """Rows of one block's slab, and the grid of blocks (slabs, 32 channels) and threads.

    A multiple of the 64 rows that a block loads at once, and never a matter of the GPU: the same sums everywhere.
    """
    tiles = blocks(c, LANES)
    rows = ROWS * GROUP * blocks(m * tiles, ROWS * GROUP * _BLOCKS)
    return rows, ((blocks(m, rows), tiles), (LANES, ROWS))


# Naive: a thread per channel --------------------------------------------------------------------------------


@kernel
def _forward_naive(x, gamma, beta, running_mean, running_var, means, variances, factors, y, settings):
    m, c = x.shape
    eps, training = settings
    q = cuda.grid(1)
    if q < c:
        mean, var = np.float64(running_mean[q]), np.float64(running_var[q])
        if training:
            total = np.float64(0)
            for r in range(m):
                total += x[r, q]
            mean = total / m
            total = np.float64(0)
            for r in range(m):
                d = x[r, q] - mean
                total += d * d
            var = total / m
        _write_factors(q, mean, var, gamma, beta, eps, means, variances, factors)
        scale, shift, rounded = factors[0, q], factors[1, q], factors[2, q]
        for r in range(m):
            y[r, q] = (x[r, q] - rounded) * scale + shift


@kernel
def _backward_naive(dy, x, gamma, means, variances, dgamma, dbeta, factors, dx, settings):
    m, c = x.shape
    training = settings[1]
    q = cuda.grid(1)
    if q < c:
        sum_dy, sum_dy_d = np.float64(0), np.float64(0)
        mean = means[q]
        for r in range(m):
            gradient = np.float64(dy[r, q])
            sum_dy += gradient
            sum_dy_d += gradient * (x[r, q] - mean)
        _write_gradient_factors(q, (sum_dy, sum_dy_d), m, gamma, variances, settings, (dgamma, dbeta, factors))
        scale, slope, offset = factors[0, q], factors[1, q], factors[2, q]
        for r in range(m):
            through_statistics = slope * (x[r, q] - mean) + offset if training else dtype(0)
            dx[r, q] = scale * (dy[r, q] - through_statistics)


def forward_cuda_naive(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, *, training: bool, eps: float
) -> tuple[Any, tuple[Any, ...]]:
    """Mean, variance and y, one after the other, in one launch."""
    (mean, var, factors), y = _per_channel(gamma, np.float64), empty(x.shape, x.dtype)
    given = _matrix(x, gamma), gamma, beta, running_mean, running_var
    _forward_naive[blocks(gamma.size), THREADS](*given, mean, var, factors, _matrix(y, gamma), (eps, training))
    return y, (x, gamma, mean, var, eps, training)


def backward_cuda_naive(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any, Any, None, None]:
    """The two sums, then dx, in one launch."""
    x, gamma, mean, var, eps, training = saved
    (dgamma, dbeta, factors), dx = _per_channel(gamma, gamma.dtype), empty(x.shape, x.dtype)
    given = _matrix(dy, gamma), _matrix(x, gamma), gamma, mean, var
    _backward_naive[blocks(gamma.size), THREADS](*given, dgamma, dbeta, factors, _matrix(dx, gamma), (eps, training))
    return dx, dgamma, dbeta, None, None


# Slabs: the second pass ---------------------------------------------------------------------------------------
# The sums of all slabs of a channel are added by a block: its neighbouring threads read neighbouring slabs. Few as they
# are, one thread would need a thousand steps for them. ``block_sum`` adds what its threads have found: the lanes of a
# warp by shuffles, then the warps in shared memory. For the variance it is the definition's two steps once more; the
# slabs' means, read twice, come from the cache the second time. Arithmetic is in float64, the type of the first array.
#
# Where a slab's squares have left the range of x's dtype, from about 1e19 in float32, the channel's block goes down the
# column of x itself. All its threads see the same sum, and take the same way.


@kernel
def _merge_statistics(partial, x, gamma, beta, rows, m, eps, means, variances, factors):
    """A block per channel, of one thread for each slab, or up to 128."""
    q, slabs = cuda.blockIdx.x, partial.shape[2]
    total = dtype(0)
    for slab in range(cuda.threadIdx.x, slabs, cuda.blockDim.x):
        total += partial[0, q, slab] * min(rows, m - slab * rows)
    mean = block_sum(total) / m
    total = dtype(0)
    for slab in range(cuda.threadIdx.x, slabs, cuda.blockDim.x):
        d = partial[0, q, slab] - mean
        total += partial[1, q, slab] + d * d * min(rows, m - slab * rows)
    total = block_sum(total)
    if not math.isfinite(total):
        total = dtype(0)
        for r in range(cuda.threadIdx.x, m, cuda.blockDim.x):
            total += x[r, q]
        mean = block_sum(total) / m
        total = dtype(0)
        for r in range(cuda.threadIdx.x, m, cuda.blockDim.x):
            d = x[r, q] - mean
            total += d * d
        total = block_sum(total)
    if cuda.threadIdx.x == 0:
        _write_factors(q, mean, total / m, gamma, beta, eps, means, variances, factors)


@kernel
def _merge_gradient_sums(partial, gamma, variances, m, settings, dgamma, dbeta, factors):
    """A block per channel, as above."""
    q, slabs = cuda.blockIdx.x, partial.shape[2]
    sum_dy = sum_dy_d = dtype(0)
    for slab in range(cuda.threadIdx.x, slabs, cuda.blockDim.x):
        sum_dy += partial[0, q, slab]
        sum_dy_d += partial[1, q, slab]
    sum_dy, sum_dy_d = block_sum(sum_dy), block_sum(sum_dy_d)
    if cuda.threadIdx.x == 0:
        _write_gradient_factors(q, (sum_dy, sum_dy_d), m, gamma, variances, settings, (dgamma, dbeta, factors))


# The last pass of both other rungs --------------------------------------------------------------------------
# A thread keeps what belongs to its channel in registers and goes down its slab, every eighth row. It loads 8 rows
# before it writes the first: the compiler cannot do that by itself, since for all it knows y might overlap x.
# Forward: one read and one write per element; backward two reads (in inference one) and one write.


@kernel
def _normalise(x, factors, y, rows):
    """y = (x - mean) * scale + shift; in inference dx is such a map of dy."""
    m, c = x.shape
    q, first, last = this_slab(m, rows)
    if q < c:
        scale, shift, mean = factors[0, q], factors[1, q], factors[2, q]
        values = cuda.local.array(GROUP, dtype)
        for start in range(first + cuda.threadIdx.y, last, ROWS * GROUP):
            load_rows(x, start, last, q, mean, values)
            for i in range(GROUP):
                if start + i * ROWS < last:
                    y[start + i * ROWS, q] = (values[i] - mean) * scale + shift


@kernel
def _input_gradient(dy, x, means, factors, dx, rows):
    """dx = scale * (dy - slope * (x - mean) - offset): each product keeps to the range of dy and of dx."""
    m, c = x.shape
    q, first, last = this_slab(m, rows)
    if q < c:
        mean, scale, slope, offset = means[q], factors[0, q], factors[1, q], factors[2, q]
        gradients, values = cuda.local.array(PAIRS, dtype), cuda.local.array(PAIRS, dtype)
        for start in range(first + cuda.threadIdx.y, last, ROWS * PAIRS):
            load_rows(dy, start, last, q, mean, gradients)
            load_rows(x, start, last, q, mean, values)
            for i in range(PAIRS):
                if start + i * ROWS < last:
                    dx[start + i * ROWS, q] = scale * (gradients[i] - (slope * (values[i] - mean) + offset))


@kernel
def _use_running(gamma, beta, running_mean, running_var, means, variances, factors, eps):
    """Inference: the statistics are given. They are copied, as a later training step changes them in place."""
    q = cuda.grid(1)
    if q < gamma.size:
        mean, var = np.float64(running_mean[q]), np.float64(running_var[q])
        _write_factors(q, mean, var, gamma, beta, eps, means, variances, factors)


# Slabs: the launches ----------------------------------------------------------------------------------------
# The block rung and the fast one differ in their first pass alone, the kernels of cuda_sums.py.


def _forward_in_slabs(
    statistics: Kernel, x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, training: bool, eps: float
) -> tuple[Any, tuple[Any, ...]]:
    (mean, var, factors), y = _per_channel(gamma, np.float64), empty(x.shape, x.dtype)
    matrix = _matrix(x, gamma)
    (m, c), (rows, grid) = matrix.shape, _slabs(*matrix.shape)
    if training:
        partial = empty((2, c, blocks(m, rows)), np.float64)
        statistics[grid](matrix, partial, rows)
        threads = row_threads(blocks(m, rows))
        _merge_statistics[c, threads](partial, matrix, gamma, beta, rows, m, eps, mean, var, factors)
    else:
        _use_running[blocks(c), THREADS](gamma, beta, running_mean, running_var, mean, var, factors, eps)
    _normalise[grid](matrix, factors, _matrix(y, gamma), rows)
    return y, (x, gamma, mean, var, eps, training)


def _backward_in_slabs(gradient_sums: Kernel, dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any, Any, None, None]:
    x, gamma, mean, var, eps, training = saved
    (dgamma, dbeta, factors), dx = _per_channel(gamma, gamma.dtype), empty(x.shape, x.dtype)
    matrix, gradient = _matrix(x, gamma), _matrix(dy, gamma)
    (m, c), (rows, grid) = matrix.shape, _slabs(*matrix.shape)
    partial = empty((2, c, blocks(m, rows)), np.float64)
    gradient_sums[grid](gradient, matrix, mean, partial, rows)
    threads = row_threads(blocks(m, rows))
    _merge_gradient_sums[c, threads](partial, gamma, var, m, (eps, training), dgamma, dbeta, factors)
    if training:
        _input_gradient[grid](gradient, matrix, mean, factors, _matrix(dx, gamma), rows)
    else:
        _normalise[grid](gradient, factors, _matrix(dx, gamma), rows)
    return dx, dgamma, dbeta, None, None


def forward_cuda_block(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, *, training: bool, eps: float
) -> tuple[Any, tuple[Any, ...]]:
    """Sums of slabs by a tree in shared memory (in training), then one pass for y."""
    return _forward_in_slabs(block_statistics, x, gamma, beta, running_mean, running_var, training, eps)


def backward_cuda_block(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any, Any, None, None]:
    """Sums of slabs by a tree in shared memory, then one pass for dx."""
    return _backward_in_slabs(block_gradient_sums, dy, saved)


def forward_cuda(
    x: Any, gamma: Any, beta: Any, running_mean: Any, running_var: Any, *, training: bool, eps: float
) -> tuple[Any, tuple[Any, ...]]:
    """Sums of slabs with 8 loads under way and by shuffles (in training), then one pass for y."""
    return _forward_in_slabs(group_statistics, x, gamma, beta, running_mean, running_var, training, eps)


def backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any, Any, None, None]:
    """Sums of slabs with 8 loads under way and by shuffles, then one pass for dx."""
    return _backward_in_slabs(group_gradient_sums, dy, saved)


# Running statistics -----------------------------------------------------------------------------------------


@kernel
def _move(running, batch, momentum, rest, limit):
    q = cuda.grid(1)
    if q < running.size:
        running[q] = momentum * running[q] + rest * dtype(limit if batch[q] > limit else batch[q])


def move_cuda(running: Any, batch: Any, momentum: float, limit: float) -> None:
    """running = momentum * running + (1 - momentum) * min(batch, limit), in place, for device arrays (c,)."""
    _move[blocks(running.size), THREADS](running, batch, *running.dtype.type((momentum, 1 - momentum)), limit)
