"""Sums on the GPU, and the reverse of summing, broadcasting.

Floating-point addition is not associative: a sum that adds whatever arrives first, as atomic operations do, has other
last bits in every run. Here the order of the additions depends on the shapes alone.

Inside of a warp ``warp_sum`` adds up one value of each thread; inside of a block ``block_sum`` does, and ``block_max``
takes the maximum. Across the whole grid, ``sums`` adds along axes in stages: each makes an array of partial sums, which
the next one adds up. ``broadcast`` and ``offset`` go the other way: they find the element of a small array that is
repeated at a place of a large one.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from .kernel import THREADS, blocks, cuda, device_function, dtype, empty, flat, kernel, larger
from .warps import ALL_LANES, WARP

Shape = tuple[int, ...]

# Inside of a warp, inside of a block --------------------------------------------------------------------------
# The 32 threads ("lanes") of a warp run in step, and a shuffle lets each read a register of another: no shared memory,
# no barrier. In shfl_xor_sync(ALL_LANES, value, 16) lane 0 and lane 16 exchange their values, 1 and 17, and so on; each
# adds what it gets to its own. Then neighbours at a distance of 8 do, 4, 2 and 1, and after 5 steps every lane
# has the sum of all 32. Which addition comes when is the same in every run. All lanes that the mask names (a bit
# for each: here all) must take part, or the warp waits for ever: no shuffle may stand behind an `if` that parts them.
#
# The warps of a block then combine their results in shared memory, where the first lane of each leaves its own: 4
# values instead of 128.

_WARPS = THREADS // WARP


def _warp_reduction(combine: Callable[[Any, Any], Any]) -> Any:
    @device_function
    def reduce_warp(value):
        distance = 16
        while distance:
            value = combine(value, cuda.shfl_xor_sync(ALL_LANES, value, distance))
            distance >>= 1
        return value

    return reduce_warp


def _block_reduction(combine: Callable[[Any, Any], Any], reduce_warp: Any) -> Any:
    @device_function
    def reduce_block(value):
        of_warps = cuda.shared.array(_WARPS, dtype)
        value = reduce_warp(value)
        if cuda.laneid == 0:
            of_warps[cuda.threadIdx.x // WARP] = value
        cuda.syncthreads()  # the results of all warps are there
        value = of_warps[0]
        for warp in range(1, cuda.blockDim.x // WARP):
            value = combine(value, of_warps[warp])
        cuda.syncthreads()  # all have read: a next call may write
        return value

    return reduce_block


warp_sum = _warp_reduction(operator.add)
"""The sum of one value of each lane; all lanes of the warp must call it, and all get the result."""

block_sum = _block_reduction(operator.add, warp_sum)
"""The sum of one ``dtype`` value of each thread; all threads of the block must call it, and all get the result.

For blocks of one dimension, of whole warps, with up to ``THREADS`` threads.
"""

block_max = _block_reduction(larger, _warp_reduction(larger))
"""The maximum likewise; which of a NaN and another value wins is not defined."""


def row_threads(length: int) -> int:
    """Threads of a block that works on one row: whole warps, no more than the row has elements, up to ``THREADS``.

    >>> row_threads(10), row_threads(33), row_threads(1000)
    (32, 64, 128)
    """
    return min(THREADS, blocks(max(length, 1), WARP) * WARP)


# Across the grid --------------------------------------------------------------------------------------------
# x is seen as (outer, length, inner) and summed over the axis in the middle. Each stage leaves a 32nd of the
# length: y[o, chunk, i] is the sum of the rows chunk, chunk + chunks, chunk + 2 chunks ... of x[o], one thread for
# each. Rows are dealt out in turn, not in runs, for the sake of the loads: the chunks and columns of one o count on
# through one index q, and the threads q, q + 1, q + 2 ... load neighbours in every step, even where inner is 1.
# Where it is 1, the lanes of a warp hold parts of one sum, and may add them up by shuffles: a stage leaves a 1024th.

_ROWS = 32  # that one thread adds: the first stage moves nearly all bytes, and chains of 32 keep rounding errors small


@kernel
def _add_rows(x, size, width, divisor, y):
    """x (outer * size,), y (outer * width,): y[o, q] = (x[o, q] + x[o, q + width] + ...) / divisor."""
    i = cuda.grid(1)
    if i < y.size:
        o = i // width
        total = dtype(0)
        for at in range(o * size + i - o * width, (o + 1) * size, width):
            total += x[at]
        y[i] = total / divisor


@kernel
def _add_row(x, size, width, divisor, y):
    """x (outer * size,), y (outer * width,), a warp for each element of y; as above, with WARP * width for width."""
    i = cuda.grid(1) // WARP  # the warp's index: its lanes go through the `if` together
    if i < y.size:
        o = i // width
        total = dtype(0)
        for at in range(o * size + (i - o * width) * WARP + cuda.laneid, (o + 1) * size, width * WARP):
            total += x[at]
        total = warp_sum(total)
        if cuda.laneid == 0:
            y[i] = total / divisor


def sums(x: Any, axes: Shape, mean: bool = False) -> Any:
    """The sum, or the mean, of a device array over ``axes``, counted from the front in ascending order.

    Launches: one for each power of 32 in the length of each run of neighbouring axes, of 1024 for the last axes. Bytes:
    x is read once, and all that follows is a 32nd of it.
    """
    rest = list(axes)
    while rest:  # from the back, so that the axes in front keep their positions
        stop = rest[-1] + 1
        start = rest.pop()
        while rest and rest[-1] == start - 1:
            start = rest.pop()
        outer, length, inner = math.prod(x.shape[:start]), math.prod(x.shape[start:stop]), math.prod(x.shape[stop:])
        summed = _sum_middle(flat(x), outer, length, inner, length if mean else 1)
        x = summed.reshape(x.shape[:start] + x.shape[stop:])
    return x


def _sum_middle(x: Any, outer: int, length: int, inner: int, divisor: int) -> Any:
    in_warps = inner == 1 and length > _ROWS
    chunks = max(blocks(length, _ROWS * WARP if in_warps else _ROWS), 1)
    y = empty((outer * chunks * inner,), x.dtype)
    if y.size:
        by = x.dtype.type(divisor if chunks == 1 else 1)
        if in_warps:
            _add_row[blocks(y.size * WARP), THREADS](x, length, chunks, by, y)
        else:
            _add_rows[blocks(y.size), THREADS](x, length * inner, chunks * inner, by, y)
    return y if chunks == 1 else _sum_middle(y, outer, chunks, inner, divisor)


# Broadcasting -----------------------------------------------------------------------------------------------
# An array that is repeated along an axis has stride 0 there. A thread takes its flat index apart into one index per
# axis, by divisions, which cost some 40 instructions each: axes are merged first as far as all arrays allow, so
# that a scale for each channel, say, needs one division, and memory remains the limit.


def broadcast(shape: Shape, *inputs: Shape) -> tuple[Shape, ...]:
    """(sizes, strides of the first input, of the second ...) of the fewest axes that broadcast inputs to ``shape``.

    >>> broadcast((2, 3, 4, 5), (2, 3, 4, 5), (5,))
    ((24, 5), (5, 1), (0, 1))
    """
    axes: list[tuple[int, ...]] = []  # (size, stride of each input)
    for size, *strides in zip(shape, *[_strides(small, len(shape)) for small in inputs], strict=True):
        if axes and all(before == stride * size for before, stride in zip(axes[-1][1:], strides, strict=True)):
            axes[-1] = (axes[-1][0] * size, *strides)
        elif size != 1:
            axes.append((size, *strides))
    return tuple(zip(*axes, strict=True)) or ((1,), *[(0,) for _ in inputs])


def _strides(shape: Shape, ndim: int) -> Shape:
    """In elements, 0 where an axis of size 1 is repeated; aligned with the last of ``ndim`` axes."""
    strides = [0 if size == 1 else math.prod(shape[i + 1 :]) for i, size in enumerate(shape)]
    return (0,) * (ndim - len(shape)) + tuple(strides)


@device_function
def offset(i, sizes, strides):
    """Where the element that stands at place i of the large array lies in the repeated one."""
    at = 0
    for axis in range(len(sizes) - 1, 0, -1):
        rest = i // sizes[axis]
        at += (i - rest * sizes[axis]) * strides[axis]
        i = rest
    return at + i * strides[0]


@kernel
def _repeat(small, sizes, strides, divisor, y):
    i = cuda.grid(1)
    if i < y.size:
        y[i] = small[offset(i, sizes, strides)] / divisor


def repeat(small: Any, axes: Shape, shape: Shape, divisor: int = 1) -> Any:
    """A device array, divided by ``divisor``, repeated along ``axes`` up to ``shape``: ``sums`` backwards."""
    kept = tuple(1 if i in axes else size for i, size in enumerate(shape))
    y = empty(shape, small.dtype)
    if y.size:
        arguments = flat(small), *broadcast(shape, kept), small.dtype.type(divisor), flat(y)
        _repeat[blocks(y.size), THREADS](*arguments)
    return y
