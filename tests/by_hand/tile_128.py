"""A matrix product in tiles of 128x128 with 8x8 sums a thread, to be timed beside the package's 64x64 with 4x4.

For each k a thread fetches 8 elements of A and 8 of B from shared memory and does 64 multiply-adds: 4 for each element
fetched, where the smaller tile does 2. In return it takes twice as many registers, so that half as many threads run.
For sizes that divide by 128, 128 and 16, float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minixception.gpu.kernel import cuda, dtype, flat, kernel
from minixception.gpu.vectors import load4, store4

TILE, DEPTH = 128, 16
THREADS = 256  # 8 warps, 4 below each other and 2 side by side, of 32x64 sums each
_ROW = TILE + 4  # of a slab in shared memory, k by k; four more, so that columns lie in other banks
_BUFFER = DEPTH * _ROW
_BUFFERS = 2 * _BUFFER
_COPIED = TILE * DEPTH // THREADS  # elements of a slab that each thread copies


@kernel
def tile_128(a, b, c, m, n, k):
    """c (m, n) = a (m, k) b (k, n), all flat; a block for each tile, rows of tiles along y."""
    slabs_a = cuda.shared.array(_BUFFERS, dtype)  # in two lines: the simulator tells shared arrays by their lines
    slabs_b = cuda.shared.array(_BUFFERS, dtype)
    sums, left, right = cuda.local.array(64, dtype), cuda.local.array(8, dtype), cuda.local.array(8, dtype)
    held_a, held_b = cuda.local.array(_COPIED, dtype), cuda.local.array(_COPIED, dtype)
    t = cuda.threadIdx.x & (THREADS - 1)
    warp, lane = t >> 5, t & 31
    row, column = (warp >> 1) * 32 + (lane >> 3) * 4, (warp & 1) * 64 + (lane & 7) * 4
    i0, j0 = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    a_row, a_k = t >> 2, (t & 3) * 4  # this thread's part of a slab of A: 64 rows at a time
    b_k, b_column = t >> 5, (t & 31) * 4  # and of B: 8 k at a time
    for q in range(64):
        sums[q] = dtype(0)
    k0, now = 0, 0
    while k0 < k + DEPTH:  # once more than there are slabs: the first pass only loads, the last only multiplies
        if k0 < k:
            for v in range(2):
                place = (i0 + a_row + v * 64) * k + k0 + a_k
                held_a[4 * v], held_a[4 * v + 1], held_a[4 * v + 2], held_a[4 * v + 3] = load4(a, place)
                place = (k0 + b_k + v * 8) * n + j0 + b_column
                held_b[4 * v], held_b[4 * v + 1], held_b[4 * v + 2], held_b[4 * v + 3] = load4(b, place)
        if k0 > 0:
            for p in range(0, DEPTH, 4):
                for step in range(4):
                    at = _BUFFER - now + (p + step) * _ROW
                    left[0], left[1], left[2], left[3] = load4(slabs_a, at + row)
                    left[4], left[5], left[6], left[7] = load4(slabs_a, at + row + 16)
                    right[0], right[1], right[2], right[3] = load4(slabs_b, at + column)
                    right[4], right[5], right[6], right[7] = load4(slabs_b, at + column + 32)
                    for r in range(8):
                        for q in range(8):
                            sums[r * 8 + q] += left[r] * right[q]
        if k0 < k:
            for v in range(2):
                for p in range(4):
                    slabs_a[np.uint64(now + (a_k + p) * _ROW + a_row + v * 64)] = held_a[4 * v + p]
                place = now + (b_k + v * 8) * _ROW + b_column
                store4(slabs_b, place, held_b[4 * v], held_b[4 * v + 1], held_b[4 * v + 2], held_b[4 * v + 3])
        cuda.syncthreads()
        now = _BUFFER - now
        k0 += DEPTH
    for r in range(8):
        i = i0 + row + (r & 3) + (r >> 2) * 16
        for half in range(2):
            q = r * 8 + half * 4
            store4(c, i * n + j0 + column + half * 32, sums[q], sums[q + 1], sums[q + 2], sums[q + 3])


def multiply(a: Any, b: Any, c: Any) -> None:
    """c = a b for arrays of the GPU."""
    (m, k), n = a.shape, b.shape[1]
    assert (m % TILE, n % TILE, k % DEPTH) == (0, 0, 0)
    tile_128[(n // TILE, m // TILE), THREADS](flat(a), flat(b), flat(c), m, n, k)
