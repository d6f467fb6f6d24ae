"""Step 3: tiles in shared memory.

The threads of a block walk along k together, 16 at a time. Each copies one element of A and one of B; all wait until
the 16x16 elements of both are there; each does its 16 multiply-adds; and all wait again, until nobody needs these
elements any more. Whichever way A and B lie in memory, neighbouring threads copy neighbours, so reads are coalesced.

Shared memory has 32 banks, 4 bytes after 4 bytes, and a bank serves one address at a time. A warp writes two rows of
16, one element into each bank. But a matrix that is read transposed is written column by column: with rows of 16, the
32 elements of two columns would queue at four banks. Rows of 18, whose last two elements are not used, put them into 32
banks. The reads never queue: the 16 threads of a row want one element of A, which is sent to all at once, and 16
neighbours of B.
"""

from __future__ import annotations

from functools import cache

from ..kernel import cuda, dtype, kernel
from .layout import Layout
from .product import Product

_SIDE = 16
_TRANSPOSED_SIDE = _SIDE + 2


@cache
def tiled(a: Layout, b: Layout, c: Layout) -> Product:
    """Step 3: tiles of 16x16 in shared memory, 2 k / 16 reads from memory for each element of C."""
    a_i, a_k, b_j, b_k, c_i, c_j = *a[:2], *b[:2], *c[:2]
    a_along_k, b_along_k = a.along_k, b.along_k
    length_a, length_b = (_SIDE if a_along_k else _TRANSPOSED_SIDE), (_TRANSPOSED_SIDE if b_along_k else _SIDE)

    @kernel
    def square_tile(a, b, c, extra, size, shape):
        m, n, k = shape[0], shape[1], shape[2]
        tile_a = cuda.shared.array((_SIDE, length_a), dtype)  # [row, k]
        tile_b = cuda.shared.array((_SIDE, length_b), dtype)  # [k, column]
        t, part, z = cuda.threadIdx.x, cuda.blockIdx.y, cuda.blockIdx.z
        slow, fast = t // _SIDE, t % _SIDE
        tiles = (n + _SIDE - 1) // _SIDE
        i0, j0 = cuda.blockIdx.x // tiles * _SIDE, cuda.blockIdx.x % tiles * _SIDE
        begin, end = part * k // cuda.gridDim.y, (part + 1) * k // cuda.gridDim.y
        ia, ka = (slow, fast) if a_along_k else (fast, slow)  # which elements this thread copies
        jb, kb = (slow, fast) if b_along_k else (fast, slow)
        row, column = a_i(i0 + ia, z, shape), b_j(j0 + jb, z, shape)
        total = dtype(0)
        for k0 in range(begin, end, _SIDE):
            inside = i0 + ia < m and k0 + ka < end
            tile_a[ia, ka] = a[row + a_k(k0 + ka, z, shape)] if inside else dtype(0)
            inside = j0 + jb < n and k0 + kb < end
            tile_b[kb, jb] = b[column + b_k(k0 + kb, z, shape)] if inside else dtype(0)
            cuda.syncthreads()
            for p in range(_SIDE):
                total += tile_a[slow, p] * tile_b[p, fast]
            cuda.syncthreads()
        if i0 + slow < m and j0 + fast < n:
            c[part * size + c_i(i0 + slow, z, shape) + c_j(j0 + fast, z, shape)] = total

    return Product(square_tile, _SIDE, _SIDE * _SIDE)
