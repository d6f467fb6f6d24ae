"""3. GPU, the first pass of batch normalisation: the sums of a slab of rows, on two rungs of the ladder in ``cuda.py``.

A block of 32 x 8 threads owns a slab of rows and 32 channels of a matrix (m, c). A warp reads 32 neighbouring channels
of a row at a time, and the 8 threads of one channel take every eighth row each. Every element is read once, but for the
slab's first row. Each block writes to places of its own in ``partial`` (2, c, slabs), float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...gpu.kernel import cuda, device_function, dtype, kernel
from ...gpu.warps import ALL_LANES

LANES, ROWS = 32, 8  # threads of a block: channels, rows
GROUP = 8  # loads of a thread that are under way at once
PAIRS = GROUP // 2  # rows of a group where two arrays are read


@device_function
def this_slab(m: int, rows: int) -> Any:
    """This thread's channel, and the first and the last row, exclusive, of its block's slab."""
    first = cuda.blockIdx.x * rows
    return cuda.blockIdx.y * LANES + cuda.threadIdx.x, first, min(first + rows, m)


@device_function
def load_rows(x: Any, start: int, last: int, q: int, beyond: Any, values: Any) -> None:
    """values[i] = x[start + i * ROWS, q] for every i; ``beyond`` from row ``last`` on.

    Nothing between the loads waits for one of them: all are under way at once. ``values`` becomes registers, as its
    size is known to the compiler. A whole group is asked only once where it ends, and unsigned indices spare Numba's
    question whether they count from the end: two instructions are left for a load, where it would be ten.
    """
    if start + (values.size - 1) * ROWS < last:
        for i in range(values.size):
            values[i] = x[np.uint64(start + i * ROWS), np.uint64(q)]
    else:
        for i in range(values.size):
            r = start + i * ROWS
            values[i] = x[np.uint64(r), np.uint64(q)] if r < last else beyond


# Block: slabs of rows, and a tree in shared memory ----------------------------------------------------------
# d = x - shift, with the slab's first row as shift: the variance does not change when a constant is subtracted, and
# sum(d^2) - sum(d)^2 / n does not cancel as sum(x^2) - sum(x)^2 / n does when the mean is large.
# The 8 threads of a channel hold two sums each. In shared memory the upper 4 rows are added to the lower 4, then 2 to
# 2, then 1 to 1. A warp is a row of 32 channels, neighbours in shared memory as well: each in a bank of its own.


@device_function
def _tree_sums(one, other):
    """For the threads of row 0: the sums over the block's rows of two values of each thread."""
    sums = cuda.shared.array((2, ROWS, LANES), dtype)
    row, lane = cuda.threadIdx.y, cuda.threadIdx.x
    sums[0, row, lane], sums[1, row, lane] = one, other
    step = ROWS // 2
    while step > 0:
        cuda.syncthreads()  # what was written before is there
        if row < step:
            sums[0, row, lane] += sums[0, row + step, lane]
            sums[1, row, lane] += sums[1, row + step, lane]
        step //= 2
    return sums[0, row, lane], sums[1, row, lane]  # row 0 has itself added the last two: nothing to wait for


@kernel
def block_statistics(x: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's mean and sum of squared deviations from it."""
    m, c = x.shape
    q, first, last = this_slab(m, rows)
    shift = sum_d = sum_dd = dtype(0)
    if q < c:
        shift = x[first, q]
        for r in range(first + cuda.threadIdx.y, last, ROWS):
            d = x[r, q] - shift
            sum_d += d
            sum_dd += d * d
    sum_d, sum_dd = _tree_sums(sum_d, sum_dd)
    if cuda.threadIdx.y == 0 and q < c:
        mean_d = np.float64(sum_d) / (last - first)
        partial[0, q, cuda.blockIdx.x] = shift + mean_d
        partial[1, q, cuda.blockIdx.x] = sum_dd - sum_d * mean_d


@kernel
def block_gradient_sums(dy: Any, x: Any, means: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's sums of dy and of dy * (x - mean)."""
    m, c = x.shape
    q, first, last = this_slab(m, rows)
    sum_dy = sum_dy_d = dtype(0)
    if q < c:
        mean = means[q]
        for r in range(first + cuda.threadIdx.y, last, ROWS):
            gradient = dy[r, q]
            sum_dy += gradient
            sum_dy_d += gradient * (x[r, q] - mean)
    sum_dy, sum_dy_d = _tree_sums(sum_dy, sum_dy_d)
    if cuda.threadIdx.y == 0 and q < c:
        partial[0, q, cuda.blockIdx.x] = sum_dy
        partial[1, q, cuda.blockIdx.x] = sum_dy_d


# Fast: 8 loads under way, no digits lost, and shuffles ------------------------------------------------------
# A thread takes its slab in groups of 8 rows, which are loaded together. With 8 values in registers the definition's
# two steps cost nothing: first their mean, then the squares of what differs from it. Nothing cancels. Groups, then
# threads, then slabs are merged by Chan, Golub and LeVeque (1979): the merged sum of squares is the sum of both and a
# multiple of the squared distance of the means. All means are taken relative to the slab's first row, and are small.
#
# At the end of a slab 8 threads have a part of each channel, one in each warp, as the lanes of a warp are channels.
# Shuffles exchange registers inside of one warp only, so the parts change places first, by way of shared memory: after
# one barrier a warp has 4 channels, and the 8 parts of each in 8 neighbouring lanes. These add up in 3 shuffles, all
# warps at once. The tree takes three barriers, with fewer threads at work in each step. Reading, a warp touches 8
# rows of shared memory, 4 neighbours in each; rows of 36 elements put these 32 into 32 banks.

_WIDTH = LANES + LANES // ROWS


@device_function
def _by_channel(one, other):
    """Two values of each thread change places: the row and column this thread's come from, and the two."""
    parts = cuda.shared.array((2, ROWS, _WIDTH), dtype)
    parts[0, cuda.threadIdx.y, cuda.threadIdx.x] = one
    parts[1, cuda.threadIdx.y, cuda.threadIdx.x] = other
    cuda.syncthreads()  # all parts are there
    row, column = cuda.threadIdx.x % ROWS, cuda.threadIdx.y * (LANES // ROWS) + cuda.threadIdx.x // ROWS
    return row, column, parts[0, row, column], parts[1, row, column]


@device_function
def _channel_sum(value):
    """The sum over the 8 lanes that hold parts of one channel, for all 8. All lanes of the warp must call it."""
    distance = ROWS // 2
    while distance:
        value += cuda.shfl_xor_sync(ALL_LANES, value, distance)  # lane ^ distance: 8 lanes stay among themselves
        distance >>= 1
    return value


@kernel
def group_statistics(x: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's mean and sum of squared deviations from it."""
    m, c = x.shape
    q, first, last = this_slab(m, rows)
    shift = mean = square = before = dtype(0)  # before: values merged so far, a count that every dtype holds exactly
    if q < c:
        shift = x[first, q]
        d = cuda.local.array(GROUP, dtype)
        for start in range(first + cuda.threadIdx.y, last, ROWS * GROUP):
            count = min(GROUP, (last - start + ROWS - 1) // ROWS)
            load_rows(x, start, last, q, shift, d)
            total = group_square = dtype(0)
            for i in range(GROUP):
                d[i] -= shift  # 0 beyond the end
                total += d[i]
            group_mean = total / dtype(count)
            for i in range(GROUP):
                e = d[i] - group_mean if i < count else dtype(0)
                group_square += e * e
            delta = group_mean - mean
            share = dtype(count) / (before + dtype(count))
            mean += delta * share
            square += group_square + delta * delta * before * share
            before += dtype(count)
    row, column, mean, square = _by_channel(mean, square)
    shift = cuda.shfl_sync(ALL_LANES, shift, column)  # every warp has the shifts of all 32 channels in its lanes
    count = (last - first - row + ROWS - 1) // ROWS  # rows that this part is of
    slab_mean = _channel_sum(mean * dtype(count)) / dtype(last - first)
    e = mean - slab_mean
    square = _channel_sum(square + e * e * dtype(count))
    q = cuda.blockIdx.y * LANES + column
    if row == 0 and q < c:
        partial[0, q, cuda.blockIdx.x] = np.float64(shift) + np.float64(slab_mean)
        partial[1, q, cuda.blockIdx.x] = square


@kernel
def group_gradient_sums(dy: Any, x: Any, means: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's sums of dy and of dy * (x - mean)."""
    m, c = x.shape
    q, first, last = this_slab(m, rows)
    sum_dy = sum_dy_d = dtype(0)
    if q < c:
        mean = means[q]
        gradients, values = cuda.local.array(PAIRS, dtype), cuda.local.array(PAIRS, dtype)
        for start in range(first + cuda.threadIdx.y, last, ROWS * PAIRS):
            load_rows(dy, start, last, q, dtype(0), gradients)
            load_rows(x, start, last, q, mean, values)
            group_dy = group_dy_d = dtype(0)  # short sums first: their rounding errors stay small
            for i in range(PAIRS):
                group_dy += gradients[i]
                group_dy_d += gradients[i] * (values[i] - mean)
            sum_dy += group_dy
            sum_dy_d += group_dy_d
    row, column, sum_dy, sum_dy_d = _by_channel(sum_dy, sum_dy_d)
    sum_dy, sum_dy_d = _channel_sum(sum_dy), _channel_sum(sum_dy_d)
    q = cuda.blockIdx.y * LANES + column
    if row == 0 and q < c:
        partial[0, q, cuda.blockIdx.x] = sum_dy
        partial[1, q, cuda.blockIdx.x] = sum_dy_d
