"""Solutions of notebook 07, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

from minixception.course import cuda, cuda_kernel, dtype

ALL = 0xFFFFFFFF


@cuda_kernel
def scale_and_shift(x, scale, shift, y):
    i = cuda.grid(1)
    if i < y.size:
        pixel, channel = i // y.shape[1], i % y.shape[1]
        y[pixel, channel] = x[pixel, channel] * scale[channel] + shift[channel]


@cuda_kernel
def row_sums(x, y):
    tile = cuda.shared.array(64, dtype)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    tile[t] = x[row, t]
    step = 32
    while step > 0:
        cuda.syncthreads()
        if t < step:
            tile[t] += tile[t + step]
        step //= 2
    if t == 0:
        y[row] = tile[0]


SOLUTIONS: dict[str, Any] = {
    "red-sectors": 12,
    "scale-and-shift": scale_and_shift,
    "row-sums": row_sums,
    "occupancy-steps": "B",
}


@cuda_kernel
def pixels_side_by_side(x, scale, shift, y):
    i = cuda.grid(1)
    if i < y.size:
        channel, pixel = i // y.shape[0], i % y.shape[0]
        y[pixel, channel] = x[pixel, channel] * scale[channel] + shift[channel]


@cuda_kernel
def without_guard(x, scale, shift, y):
    i = cuda.grid(1)
    pixel, channel = i // y.shape[1], i % y.shape[1]
    y[pixel, channel] = x[pixel, channel] * scale[channel] + shift[channel]


@cuda_kernel
def shifted_first(x, scale, shift, y):
    i = cuda.grid(1)
    if i < y.size:
        p, c = i // y.shape[1], i % y.shape[1]
        y[p, c] = (x[p, c] + shift[c]) * scale[c]


@cuda_kernel
def without_shift(x, scale, shift, y):
    i = cuda.grid(1)
    if i < y.size:
        p, c = i // y.shape[1], i % y.shape[1]
        y[p, c] = x[p, c] * scale[c]


@cuda_kernel
def one_factor(x, scale, shift, y):
    i = cuda.grid(1)
    if i < y.size:
        p, c = i // y.shape[1], i % y.shape[1]
        y[p, c] = x[p, c] * scale[0] + shift[0]


@cuda_kernel
def whole_block_on_a_row(x, scale, shift, y):
    pixel, channel = cuda.blockIdx.x, cuda.threadIdx.x
    if pixel < y.shape[0] and channel < y.shape[1]:
        y[pixel, channel] = x[pixel, channel] * scale[channel] + shift[channel]


@cuda_kernel
def sums_without_barrier(x, y):
    tile = cuda.shared.array(64, dtype)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    tile[t] = x[row, t]
    cuda.syncthreads()
    step = 32
    while step > 0:
        if t < step:
            tile[t] += tile[t + step]
        step //= 2
    if t == 0:
        y[row] = tile[0]


@cuda_kernel
def sums_of_every_second(x, y):
    tile = cuda.shared.array(64, dtype)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    tile[t] = x[row, t]
    step = 32
    while step > 1:
        cuda.syncthreads()
        if t < step:
            tile[t] += tile[t + step]
        step //= 2
    if t == 0:
        y[row] = tile[0]


@cuda_kernel
def sums_of_a_warp(x, y):
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    value = x[row, t]
    step = 16
    while step > 0:
        value += cuda.shfl_xor_sync(ALL, value, step)
        step //= 2
    if t == 0:
        y[row] = value


@cuda_kernel
def sums_by_all(x, y):
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    if t == 0:
        y[row] = dtype(0)
    cuda.syncthreads()
    y[row] += x[row, t]


@cuda_kernel
def sums_by_one(x, y):
    row = cuda.blockIdx.x
    if cuda.threadIdx.x == 0:
        total = dtype(0)
        for i in range(x.shape[1]):
            total += x[row, i]
        y[row] = total


MISTAKES: list[tuple[str, Any, str]] = [
    ("red-sectors", 4, "a green and a blue"),
    ("red-sectors", 32, "How far apart are two reds?"),
    ("red-sectors", 384, "how many bytes"),
    ("scale-and-shift", pixels_side_by_side, "which ones do the threads 0, 1, 2"),
    ("scale-and-shift", without_guard, "more threads than there is work"),
    ("scale-and-shift", shifted_first, "First the factor"),
    ("scale-and-shift", without_shift, "The shift is missing"),
    ("scale-and-shift", one_factor, "a factor of its own"),
    ("scale-and-shift", whole_block_on_a_row, "This cell was never written"),
    ("row-sums", sums_without_barrier, "there must be a barrier"),
    ("row-sums", sums_of_every_second, "at a distance of 1"),
    ("row-sums", sums_of_a_warp, "the first half of the row"),
    ("row-sums", sums_by_all, "only one of them may do it"),
    ("row-sums", sums_by_one, "Let each read one"),
    ("occupancy-steps", "A", "steps of large blocks"),
    ("occupancy-steps", "C", "how many threads fit"),
]
