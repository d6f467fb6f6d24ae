"""Depthwise convolution and the gradient of its weights on the GPU, in strips of outputs that lie in registers.

Registers are nearer than shared memory, and with 64 registers a thread half of the threads that fit on a multiprocessor
can run: enough to hide memory latency. So a thread computes a strip of outputs of its channel alone, 4 wide and 8 high
for a 3x3 kernel. It walks down the rows of pixels under them. A row of x belongs to the windows of 3 rows of y: three
rows of sums are open at a time. The thread loads 6 pixels of the row, multiplies each into all the open sums it belongs
to, writes the oldest row of sums and moves the others on. 60 + 9 loads make 288 multiply-adds, without shared memory
and barriers. Neighbouring strips share the rim of their pixels. They lie in one block where possible, so that the
second to ask finds it in the L1 cache: each pixel comes from memory about once.

An array can live in registers if no index into it is computed at run time. So the sizes are constants of each kernel,
and the compiler unrolls the loops over them. Flat arrays with unsigned indices save registers: for a signed index the
compiler must allow for counting from the end.

Vectors (gpu/vectors.py) do not pay here. A thread that has four channels has four times nine weights: already with a
strip one column wide that makes 83 to 88 registers, half of the occupancy, and 4.9 reads per output instead of 2.2.
What they would save are loads, not bytes: the 32 loads of a warp are 128 neighbouring bytes already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .kernel import blocks, cuda, device_function, dtype, empty, flat, kernel

Array = Any  # an array of the GPU
Size = tuple[int, int, int]  # kh, kw, stride

LANES = 32  # a warp: neighbouring channels
WARPS = 8  # of a block
_ROWS = 8  # outputs of a strip, at most, one above the other; read (8 + 2) / 8 times in a column


def filter_kernel(size: Size, columns: int, rotated: bool) -> Callable[..., None]:
    """The convolution in strips of so many columns; rotated: with the kernel rotated by 180 degrees, and a gate."""
    kh, kw, stride = size
    taps, width, ages = kh * kw, (columns - 1) * stride + kw, (kh - 1) // stride + 1
    open_sums = ages * columns

    @kernel
    def filter_strips(x, floor, w, y, gate, gated, geometry, rows):
        n, h, wd, c, ho, wo, top, left = geometry
        across, down = (wo + columns - 1) // columns, (ho + rows - 1) // rows
        q, strip = cuda.blockIdx.y * LANES + cuda.threadIdx.x, cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        if strip >= n * down * across or q >= c:
            return
        m, i0, j0 = strip // (across * down), strip // across % down * rows, strip % across * columns
        weights = cuda.local.array(taps, dtype)
        sums = cuda.local.array(open_sums, dtype)  # row by row, the newest first
        row = cuda.local.array(width, dtype)
        for tap in range(taps):
            weights[tap] = w[np.uint64((taps - 1 - tap if rotated else tap) * c + q)]
        u, v = i0 * stride - top, j0 * stride - left
        first, last = -v, wd - v  # the columns of the strip that lie in the image
        x_row = ((m * h + u) * wd + v) * c + q
        y_row = ((m * ho + i0 - ages + 1) * wo + j0) * c + q  # of the oldest sums
        for step in range(min(rows, ho - i0) + ages - 1):
            for k in range(open_sums - 1, columns - 1, -1):
                sums[k] = sums[k - columns]
            for j in range(columns):
                sums[j] = dtype(0)
            for below in range(stride):
                at = x_row
                for k in range(width):
                    row[k] = dtype(0)
                    if 0 <= u < h and first <= k < last:
                        value = x[np.uint64(at)]
                        row[k] = floor if value < floor else value  # NaN is not less and stays
                    at += c
                for age in range(ages):
                    a = age * stride + below  # the row of the kernel that this row of pixels is multiplied by
                    if a < kh:
                        for j in range(columns):
                            for b in range(kw):
                                sums[age * columns + j] += row[j * stride + b] * weights[a * kw + b]
                u += 1
                x_row += wd * c
            if step >= ages - 1:
                at = y_row
                for j in range(columns):
                    if j0 + j < wo:
                        passes = not gated or gate[np.uint64(at)] > dtype(0) if rotated else True
                        y[np.uint64(at)] = sums[(ages - 1) * columns + j] if passes else dtype(0)
                    at += c
            y_row += wo * c

    def run(x: Array, floor: Any, w: Array, y: Array, gate: Array | None, before: tuple[int, int]) -> None:
        n, ho, wo, c = y.shape
        down = blocks(ho, _ROWS)
        grid = blocks(n * down * blocks(wo, columns), WARPS), blocks(c, LANES)
        filter_strips[grid, (LANES, WARPS)](
            flat(x), floor, flat(w), flat(y), flat(y if gate is None else gate), gate is not None,
            (*x.shape, ho, wo, *before), blocks(ho, down),
        )  # fmt: skip

    return run


# The gradient of the weights --------------------------------------------------------------------------------------
# The walk down a strip once more. Now the rows of dy whose windows a row of x belongs to are kept, and each tap has one
# sum. In the end the warps of a block write their sums to shared memory; after the barrier those of the 8 warps are
# added. Strips are as high as the image, so that there are few partial sums, unless that makes too few to fill a GPU.

_STRIPS = 1 << 13  # that fill a GPU; those of each 32 channels count


@device_function
def sum_of_warps(tile, tap, lane):
    """tile (taps, WARPS, LANES): what the warps of a block have for one tap, added in their order."""
    total = tile[tap, 0, lane]
    for warp in range(1, WARPS):
        total += tile[tap, warp, lane]
    return total


def correlate_kernel(size: Size, columns: int) -> Callable[..., Array]:
    """The first stage, in strips of so many columns.

    Grouped convolution has it, too (ops/conv2d/cuda_segments.py): then the channels of y belong to segments, and one
    channel of each segment of x is taken at a time, by blockIdx.z.
    """
    kh, kw, stride = size
    taps, width, ages = kh * kw, (columns - 1) * stride + kw, (kh - 1) // stride + 1
    kept = ages * columns

    @kernel
    def correlate_strips(x, floor, dy, partial, geometry, rows, widths):
        n, h, wd, c, ho, wo, co, top, left = geometry
        inputs, outputs = widths
        tile = cuda.shared.array((taps, WARPS, LANES), dtype)
        lane, warp = cuda.threadIdx.x, cuda.threadIdx.y
        q = cuda.blockIdx.y * LANES + lane
        sums = cuda.local.array(taps, dtype)
        dys = cuda.local.array(kept, dtype)  # row by row, the newest first
        row = cuda.local.array(width, dtype)
        for tap in range(taps):
            sums[tap] = dtype(0)
        across, down = (wo + columns - 1) // columns, (ho + rows - 1) // rows
        strip = cuda.blockIdx.x * WARPS + warp
        if strip < n * down * across and q < co:
            m, i0, j0 = strip // (across * down), strip // across % down * rows, strip % across * columns
            height = min(rows, ho - i0)
            u, v = i0 * stride - top, j0 * stride - left
            first, last = -v, wd - v
            x_row = ((m * h + u) * wd + v) * c + q // outputs * inputs + cuda.blockIdx.z
            dy_row = ((m * ho + i0) * wo + j0) * co + q
            for step in range(height + ages - 1):
                for k in range(kept - 1, columns - 1, -1):
                    dys[k] = dys[k - columns]
                at = dy_row
                for j in range(columns):
                    if step < height and j0 + j < wo:
                        dys[j] = dy[np.uint64(at)]
                    at += co
                dy_row += wo * co
                for below in range(stride):
                    at = x_row
                    for k in range(width):
                        row[k] = dtype(0)
                        if 0 <= u < h and first <= k < last:
                            value = x[np.uint64(at)]
                            row[k] = floor if value < floor else value
                        at += c
                    for age in range(ages):
                        a = age * stride + below
                        if a < kh and 0 <= step - age < height:
                            for j in range(columns):
                                if j0 + j < wo:
                                    for b in range(kw):
                                        sums[a * kw + b] += row[j * stride + b] * dys[age * columns + j]
                    u += 1
                    x_row += wd * c
        for tap in range(taps):
            tile[tap, warp, lane] = sums[tap]
        cuda.syncthreads()
        for tap in range(warp, taps, WARPS):
            if q < co:
                partial[cuda.blockIdx.x, tap // kw, tap % kw, cuda.blockIdx.z, q] = sum_of_warps(tile, tap, lane)

    def run(x: Array, floor: Any, dy: Array, before: tuple[int, int], widths: tuple[int, int] = (1, 1)) -> Array:
        n, ho, wo, co = dy.shape
        strips = n * blocks(wo, columns)
        down = min(blocks(ho, _ROWS), max(1, _STRIPS // (strips * blocks(co, LANES))))
        partial = empty((blocks(strips * down, WARPS), kh, kw, widths[0], co), x.dtype)
        correlate_strips[(partial.shape[0], blocks(co, LANES), widths[0]), (LANES, WARPS)](
            flat(x), floor, flat(dy), partial, (*x.shape, ho, wo, co, *before), blocks(ho, down), widths
        )
        return partial

    return run
