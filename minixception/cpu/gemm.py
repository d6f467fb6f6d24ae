"""The matrix product every dense operator stands on: C = A B, near the machine's peak.

Four ideas, from the inside out:

1. **Register tile** (``tile``). A block of ROWS x VECTORS registers of C stays in registers while k runs. Each step of
   k loads VECTORS registers of B once and one element of A per row, broadcast: ROWS * VECTORS fused multiply-adds for
   ROWS + VECTORS loads. 6 x 4 accumulators + 4 of B + 1 broadcast = 29 of AVX-512's 32 registers; more, and the
   compiler spills to memory, which costs half the speed. With 16 registers (AVX2, SSE) the tile is 6 x 2. C of few
   columns fills no more than two vectors: its tiles are taller, 14 x 2, so that a load of B still feeds many sums.
2. **Packing** (``pack_panel``). B is copied into panels one tile wide, so that the tile reads it as one straight
   stream; the panel's last columns are padded with zeros, the store leaves them out. A transposed B is turned on the
   way, in square blocks of registers: element by element that took six times as long. A is read in place: a tile
   touches six of its rows, or six neighbours of each row when A is transposed (weight gradients).
3. **Cache blocking** (``_product``). k is cut into blocks of at most K_BLOCK: a panel of B (768 x 64 floats, 192 KiB)
   then stays in L2 for all rows of a task, and a tile's rows of A (18 KiB) in L1.
4. **Prefetching** (``strip``). All panels together are often larger than L2. While its tiles work on one panel, a strip
   asks for the lines of the next, a few at a time, so that they have come from L3 or memory when their turn comes.

Every element of C is summed over k in one fixed order, so the result does not depend on the number of threads.
"""

from __future__ import annotations

import platform
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from . import memory
from .jit import forceinline, get_num_threads, parallel, prange
from .simd import (
    REGISTER_BYTES,
    add,
    lanes,
    load,
    load_tile,
    load_transposed,
    maximum,
    prefetch,
    prefetch_write,
    rank_one,
    splat,
    store,
    store_tile,
    zeros,
)

ROWS = 6
VECTORS = 4 if REGISTER_BYTES == 64 or platform.machine() in ("arm64", "aarch64") else 2  # 32 or 16 registers
TALL = 14 if VECTORS == 4 else 12  # rows of a tile of at most VECTORS / 2 vectors
K_BLOCK = 768
ROW_BLOCK = 360  # rows of A, about, that a task multiplies with a panel while that panel is in L2
LONG_PARTS = 16  # tasks of a product with a very long k
LONG_K_BLOCK = 256  # and its block: a panel of B is 64 KiB, and the rows of A beside it stay in L2
TASKS = 8  # groups of panels that few rows are multiplied with, and pieces of B that are packed at once
_FEW_ROWS = 24  # for a thread: with less, threads share the columns of C, not its rows


@register_jitable
def panel_width(dtype: np.dtype) -> int:
    """Columns of C in one tile.

    >>> panel_width(np.dtype(np.float32)) == 2 * panel_width(np.dtype(np.float64))
    True
    """
    return VECTORS * lanes(dtype)


class Epilogue(NamedTuple):
    """What becomes of the sums of a product before they are stored: C = f(A B + residual + bias)."""

    residual: Any  # laid out like C
    add_residual: bool
    bias: Any  # one element for each column of C, or empty: nothing is added
    relu: bool  # f is max(., 0), or nothing


# A is an array (m, lines, taps, depth): k = lines * taps * depth, in one run of neighbours or, for a convolution's
# window, in several that lie apart. B is a packed panel (lines, taps * depth, width), whose lines may lie apart, too. C
# is (m, n) with n of at most width columns. A and C are NumPy's views, which carry the strides of what they are parts
# of: a transposed A, or an image that is read as the rows of a matrix, needs no code of its own.


@forceinline
def tile(rows, vectors, i, a, b, c, epilogue, ahead):
    """C[i : i + rows] = f(A[i : i + rows] B + residual + bias) with C in rows x vectors registers throughout.

    rows and vectors are literals. A tile of ROWS or more also asks for the cache lines that come next: those of C and
    of the residual below it, the next rows of A (of a transposed A, which is read along its rows, the next block of k),
    and ``ahead`` a few lines at a time, so that all of it has been asked for when the last tile of a strip ends.
    """
    m, lines, taps, depth = a.shape
    k = lines * taps * depth
    vector = lanes(c.dtype)
    sums = load_tile(epilogue.residual, (i, 0), rows, vectors) if epilogue.add_residual else zeros(c, rows, vectors)
    if epilogue.bias.size > 0:
        sums = add(sums, load_tile(epilogue.bias, (0,), 1, vectors)[0])
    step = ahead.size * rows // (m * k) + 1  # elements of ``ahead`` for each k of each of m / rows tiles
    if a.strides[0] > a.strides[3]:
        row, column, down, right = i + rows, 0, 0, rows
    else:  # A is transposed
        row, column, down, right = i * depth, depth, rows, 0
    if rows >= ROWS:
        for r in range(i + rows, i + 2 * rows):
            for j in range(0, vectors * vector, vector):
                prefetch_write(c, (r, j))
                if epilogue.add_residual:
                    prefetch(epilogue.residual, (r, j))
    for line in range(lines):
        for tap in range(taps):
            here = tap * depth
            for p in range(depth):
                if rows >= ROWS:
                    prefetch(a, (row + p * down, line, tap, column + p * right))
                    prefetch(ahead, (i // rows * k + line * taps * depth + here + p) * step)
                sums = rank_one(sums, a, (i, line, tap, p), b, (line, here + p, 0))
    if epilogue.relu:
        sums = maximum(sums, splat(c, 0))
    store_tile(c, (i, 0), sums)


@forceinline
def _strip(vectors, a, b, c, epilogue, ahead):
    m = c.shape[0]
    tall = m // TALL * TALL if 2 * vectors <= VECTORS else 0
    sixes, pairs = tall + (m - tall) // ROWS * ROWS, m // 2 * 2
    if 2 * vectors <= VECTORS:
        for i in range(0, tall, TALL):
            tile(TALL, vectors, i, a, b, c, epilogue, ahead)
    for i in range(tall, sixes, ROWS):
        tile(ROWS, vectors, i, a, b, c, epilogue, ahead)
    for i in range(sixes, pairs, 2):
        tile(2, vectors, i, a, b, c, epilogue, ahead)
    for i in range(pairs, m):
        tile(1, vectors, i, a, b, c, epilogue, ahead)


@forceinline
def strip(a, b, c, epilogue, ahead):
    """``tile`` down the rows of A against one packed panel of B; meanwhile what comes next is asked for.

    The branches choose between copies of one loop: a tile's width in registers must be known when it is compiled.
    """
    vector = lanes(c.dtype)
    vectors = (c.shape[1] + vector - 1) // vector
    if vectors == VECTORS:
        _strip(VECTORS, a, b, c, epilogue, ahead)
    elif vectors == 1:
        _strip(1, a, b, c, epilogue, ahead)
    elif VECTORS > 2:
        if vectors == 2:
            _strip(2, a, b, c, epilogue, ahead)
        else:
            _strip(3, a, b, c, epilogue, ahead)


@forceinline
def sums_only(c, accumulate):
    """No epilogue: c (+)= the product."""
    return Epilogue(c, accumulate, np.empty(0, c.dtype), False)


@forceinline
def transpose_into(out, a):
    """Write the transpose of a (m, n), whose rows are runs of neighbours, to the first columns of out (n, >= m)."""
    m, n = a.shape
    size = lanes(a.dtype)
    if m < size or n < size:
        for j in range(n):
            for i in range(m):
                out[j, i] = a[i, j]
        return
    for first in range(0, m, size):  # square blocks; the last ones begin early enough to end with the matrix
        i = min(first, m - size)
        for left in range(0, n, size):
            j = min(left, n - size)
            store_tile(out, (j, i), load_transposed(a, (i, j)))


@forceinline
def pack_panel(b, panel):
    """Copy B (k, n), of any strides, to the panel (k, width), each row padded with zeros."""
    k, n = b.shape
    width, vector = panel.shape[1], lanes(b.dtype)
    if b.strides[1] != b.itemsize:  # B is transposed
        transpose_into(panel, b.T)
        for p in range(k):
            for j in range(n, width):
                panel[p, j] = 0
    elif n == width:
        for p in range(k):
            for j in range(0, width, vector):
                store(panel, (p, j), load(b, (p, j), vector), vector)
    else:
        for p in range(k):
            for j in range(0, width, vector):
                store(panel, (p, j), load(b, (p, j), max(0, min(vector, n - j))), vector)


@forceinline
def _oriented(matrix, transpose):
    """The matrix or its transpose; for Numba both are of one type."""
    return matrix.T if transpose else matrix


@parallel
def _product(a, transpose_a, b, transpose_b, c, packed, accumulate, rows, groups):
    m, n = c.shape
    panels, _, width = packed.shape
    flat, size = packed.reshape(-1), packed[0].size
    left = _oriented(a, transpose_a)  # (m, k)
    right = _oriented(b, transpose_b)  # (k, n)
    k = right.shape[0]
    row_blocks = (m + rows - 1) // rows
    k_blocks = (k + K_BLOCK - 1) // K_BLOCK
    k_step = (k + k_blocks - 1) // k_blocks
    for k0 in range(0, k, k_step):
        depth = min(k_step, k - k0)
        for piece in prange(TASKS):
            first = piece * depth // TASKS
            last = (piece + 1) * depth // TASKS
            for panel in range(panels):
                columns = slice(panel * width, min(n, (panel + 1) * width))
                pack_panel(right[k0 + first : k0 + last, columns], packed[panel, first:last])
        for task in prange(row_blocks * groups):
            i = task // groups * rows
            part = left[i : i + rows, None, None, k0 : k0 + depth]
            first = task % groups * panels // groups
            end = (task % groups + 1) * panels // groups
            for panel in range(first, end):
                target = c[i : i + rows, panel * width : min(n, (panel + 1) * width)]
                epilogue, ahead = sums_only(target, accumulate or k0 > 0), flat[(panel + 1) * size : (panel + 2) * size]
                strip(part, packed[panel : panel + 1, :depth], target, epilogue, ahead)


@parallel
def _long_product(a, transpose_a, b, transpose_b, c, packed, partial, accumulate):
    """``_product`` where k is far longer than m and n, as for weight gradients, whose k is all pixels of a batch.

    A task takes a part of k and sums it in its own copy of C: it packs a block of B and uses it while that is still
    in L2, and nobody waits for anybody before the copies are added, in a fixed order.
    """
    m, n = c.shape
    parts, panels, k_step, width = packed.shape
    flat = b.reshape(-1)
    left = _oriented(a, transpose_a)
    right = _oriented(b, transpose_b)
    k = right.shape[0]
    for part in prange(parts):
        first, end = part * k // parts, (part + 1) * k // parts
        for k0 in range(first, end, k_step):
            depth = min(k_step, end - k0)
            for panel in range(panels):
                columns = slice(panel * width, min(n, (panel + 1) * width))
                block = packed[part, panel : panel + 1, :depth]
                pack_panel(right[k0 : k0 + depth, columns], block[0])
                then = (k0 + depth) * n + panel * block.size
                target, ahead = partial[part, :, columns], flat[then : then + block.size]
                strip(left[:, None, None, k0 : k0 + depth], block, target, sums_only(target, k0 > first), ahead)
    for i in prange(m):  # element by element: an expression of rows compiles the check of their shapes and its message
        if not accumulate:
            for j in range(n):
                c[i, j] = 0
        for part in range(parts):
            for j in range(n):
                c[i, j] += partial[part, i, j]


def _tasks(m: int, panels: int) -> tuple[int, int]:
    """(rows of A in a task, groups of panels): about ROW_BLOCK rows, and as many tasks for each thread.

    Each element of C belongs to one task, so its sum does not depend on the number of threads.
    """
    threads = get_num_threads()
    if m < _FEW_ROWS * threads <= _FEW_ROWS * panels:
        return m, min(panels, TASKS)
    row_blocks = threads * max(1, round(m / (ROW_BLOCK * threads)))
    return -(-m // (2 * row_blocks)) * 2, 1


def gemm(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> np.ndarray:
    """out (+)= A B, where A is ``a`` (m, k) or its transpose, B is ``b`` (k, n) or its transpose; returns out (m, n).

    All three are C-contiguous 2-D arrays of one dtype, float32 or float64. 2 m n k FLOP.

    >>> gemm(np.ones((2, 3), np.float32), np.ones((3, 2), np.float32), np.empty((2, 2), np.float32))
    array([[3., 3.],
           [3., 3.]], dtype=float32)
    """
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    width = panel_width(out.dtype)
    panels = -(-n // width)
    factors = (a, transpose_a, b, transpose_b, out)
    if k * (m + n) >= 4 * LONG_PARTS * m * n:  # reading A and B costs more than writing and adding the copies of C
        packed = memory.empty((LONG_PARTS, panels, min(-(-k // LONG_PARTS), LONG_K_BLOCK), width), out.dtype)
        _long_product(*factors, packed, memory.empty((LONG_PARTS, m, n), out.dtype), accumulate)
    else:
        packed = memory.empty((panels, min(k, K_BLOCK), width), out.dtype)
        _product(*factors, packed, accumulate, *_tasks(m, panels))
    return out
