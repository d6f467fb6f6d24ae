"""3. GPU, the first pass of batch normalisation: the sums of a slab of rows, on two rungs of the ladder in ``cuda.py``.

A block of 32 x 8 threads owns a slab of rows and 32 channels of a matrix (m, c). A warp reads 32 neighbouring channels
of a row at a time, and the 8 threads of one channel take every eighth row each. Every element is read once, but for the
slab's first row. Each block writes to places of its own in ``partial`` (2, c, slabs), float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...kernels.gpu import cuda, device_function, dtype, kernel

LANES, ROWS = 32, 8  # threads of a block: channels, rows
GROUP = 8  # loads of a thread that are under way at once
PAIRS = GROUP // 2  # rows of a group where two arrays are read


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
# The 8 threads of a channel hold one sum each. In shared memory the upper 4 rows are added to the lower 4, then 2 to
# 2, then 1 to 1. A warp is a row of 32 channels, neighbours in shared memory as well: each in a bank of its own.


@device_function
def _add_rows(sums, others):
    """Add the rows of two shared arrays (ROWS, LANES) into their row 0, all threads of a block together."""
    row, lane = cuda.threadIdx.y, cuda.threadIdx.x
    step = ROWS // 2
    while step > 0:
        cuda.syncthreads()  # what the last step, or the kernel, wrote is there
        if row < step:
            sums[row, lane] += sums[row + step, lane]
            others[row, lane] += others[row + step, lane]
        step //= 2


@kernel
def block_statistics(x: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's mean and sum of squared deviations from it."""
    sums_d = cuda.shared.array((ROWS, LANES), dtype)
    sums_dd = cuda.shared.array((ROWS, LANES), dtype)
    row, lane = cuda.threadIdx.y, cuda.threadIdx.x
    m, c = x.shape
    q = cuda.blockIdx.y * LANES + lane
    first = cuda.blockIdx.x * rows
    last = min(first + rows, m)
    shift = sum_d = sum_dd = dtype(0)
    if q < c:
        shift = x[first, q]
        for r in range(first + row, last, ROWS):
            d = x[r, q] - shift
            sum_d += d
            sum_dd += d * d
    sums_d[row, lane], sums_dd[row, lane] = sum_d, sum_dd
    _add_rows(sums_d, sums_dd)
    if row == 0 and q < c:  # this thread has itself added the last two rows: nothing to wait for
        mean_d = np.float64(sums_d[0, lane]) / (last - first)
        partial[0, q, cuda.blockIdx.x] = shift + mean_d
        partial[1, q, cuda.blockIdx.x] = sums_dd[0, lane] - sums_d[0, lane] * mean_d


@kernel
def block_gradient_sums(dy: Any, x: Any, means: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's sums of dy and of dy * (x - mean)."""
    sums_dy = cuda.shared.array((ROWS, LANES), dtype)
    sums_dy_d = cuda.shared.array((ROWS, LANES), dtype)
    row, lane = cuda.threadIdx.y, cuda.threadIdx.x
    m, c = x.shape
    q = cuda.blockIdx.y * LANES + lane
    first = cuda.blockIdx.x * rows
    sum_dy = sum_dy_d = dtype(0)
    if q < c:
        mean = means[q]
        for r in range(first + row, min(first + rows, m), ROWS):
            gradient = dy[r, q]
            sum_dy += gradient
            sum_dy_d += gradient * (x[r, q] - mean)
    sums_dy[row, lane], sums_dy_d[row, lane] = sum_dy, sum_dy_d
    _add_rows(sums_dy, sums_dy_d)
    if row == 0 and q < c:
        partial[0, q, cuda.blockIdx.x] = sums_dy[0, lane]
        partial[1, q, cuda.blockIdx.x] = sums_dy_d[0, lane]


# Fast: 8 loads under way, and no digits lost ----------------------------------------------------------------
# A thread takes its slab in groups of 8 rows, which are loaded together. With 8 values in registers the definition's
# two steps cost nothing: first their mean, then the squares of what differs from it. Nothing cancels. Groups, then
# threads, then slabs are merged by Chan, Golub and LeVeque (1979): the merged sum of squares is the sum of both and a
# multiple of the squared distance of the means. All means are taken relative to the slab's first row, and are small.
# At the end of a slab the sums of 8 threads meet in shared memory, where the first warp adds them up: 8 short
# steps behind one barrier, against three barriers of a tree.


@kernel
def group_statistics(x: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's mean and sum of squared deviations from it."""
    thread_means = cuda.shared.array((ROWS, LANES), dtype)
    thread_squares = cuda.shared.array((ROWS, LANES), dtype)
    row, lane = cuda.threadIdx.y, cuda.threadIdx.x
    m, c = x.shape
    q = cuda.blockIdx.y * LANES + lane
    first = cuda.blockIdx.x * rows
    last = min(first + rows, m)
    shift = mean = square = before = dtype(0)  # before: values merged so far, a number of few digits in any type
    if q < c:
        shift = x[first, q]
        d = cuda.local.array(GROUP, dtype)
        for start in range(first + row, last, ROWS * GROUP):
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
    thread_means[row, lane], thread_squares[row, lane] = mean, square
    cuda.syncthreads()  # the 8 threads of each channel have written
    if row == 0 and q < c:
        total = dtype(0)
        for i in range(ROWS):
            total += thread_means[i, lane] * dtype((last - first - i + ROWS - 1) // ROWS)
        mean, square = total / dtype(last - first), dtype(0)
        for i in range(ROWS):
            e = thread_means[i, lane] - mean
            square += thread_squares[i, lane] + e * e * dtype((last - first - i + ROWS - 1) // ROWS)
        partial[0, q, cuda.blockIdx.x] = np.float64(shift) + np.float64(mean)
        partial[1, q, cuda.blockIdx.x] = square


@kernel
def group_gradient_sums(dy: Any, x: Any, means: Any, partial: Any, rows: int) -> None:
    """partial (2, c, slabs): each slab's sums of dy and of dy * (x - mean)."""
    sums_dy = cuda.shared.array((ROWS, LANES), dtype)
    sums_dy_d = cuda.shared.array((ROWS, LANES), dtype)
    row, lane = cuda.threadIdx.y, cuda.threadIdx.x
    m, c = x.shape
    q = cuda.blockIdx.y * LANES + lane
    first = cuda.blockIdx.x * rows
    last = min(first + rows, m)
    sum_dy = sum_dy_d = dtype(0)
    if q < c:
        mean = means[q]
        gradients, values = cuda.local.array(PAIRS, dtype), cuda.local.array(PAIRS, dtype)
        for start in range(first + row, last, ROWS * PAIRS):
            load_rows(dy, start, last, q, dtype(0), gradients)
            load_rows(x, start, last, q, mean, values)
            group_dy = group_dy_d = dtype(0)  # short sums first: their rounding errors stay small
            for i in range(PAIRS):
                group_dy += gradients[i]
                group_dy_d += gradients[i] * (values[i] - mean)
            sum_dy += group_dy
            sum_dy_d += group_dy_d
    sums_dy[row, lane], sums_dy_d[row, lane] = sum_dy, sum_dy_d
    cuda.syncthreads()  # the 8 threads of each channel have written
    if row == 0 and q < c:
        total_dy = total_dy_d = np.float64(0)
        for i in range(ROWS):
            total_dy += sums_dy[i, lane]
            total_dy_d += sums_dy_d[i, lane]
        partial[0, q, cuda.blockIdx.x] = total_dy
        partial[1, q, cuda.blockIdx.x] = total_dy_d
