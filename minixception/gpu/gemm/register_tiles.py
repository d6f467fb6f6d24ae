"""Step 4: tiles in registers.

A block of 256 threads, 16 rows of 16, computes 64x64 elements of C. It walks along k in slabs: 64x16 elements of A and
16x64 of B, of which each thread copies four and four (slabs.py). For each k a thread fetches 4 elements of A and 4 of B
from shared memory and does 16 multiply-adds. Its 16 sums are a "local array" whose indices are all constants once the
loops are unrolled, so the compiler keeps them in registers; one index it cannot know, and they would lie in memory.

- Vectors: where elements lie together in fours, one instruction (load4, store4) copies four of A or B, fetches four of
  them from shared memory, or writes four of C. A thread's 16 multiply-adds then come with 2 reads of shared memory
  instead of 5. For all other sizes a second kernel is made of the same lines: ``vector`` is a constant of each.
- A slab is prefetched: loaded into registers before the multiplications with the slab before it, and put into shared
  memory after them, so that these hide most of the latency of memory. Other blocks hide the rest: 64 registers a thread
  let 4 blocks, 1024 threads, share a multiprocessor (occupancy 50 %).
- Double buffering: two buffers for slabs in turn, so that one barrier for each slab will do. A thread that is ahead
  writes the next slab into the other buffer, which all had read when they came to the last barrier.
- Banks: half a warp wants the same 4 elements of A, which are sent to all at once, and 64 neighbours of B: by vectors,
  8 threads at a time, 32 elements in 32 banks. Without vectors a thread takes every 16th column, so that the 16 threads
  want 16 neighbours; the stores of C are coalesced for the same reason.
- The index of the thread is masked, which changes nothing, but tells the compiler that it is not negative. It would
  otherwise have to allow for indices that count from the end, as Python's do, and that takes a fifth more registers.
- Blocks with neighbouring indices share rows of A and run at the same time: A comes from memory once, B from L2.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..kernel import Kernel, cuda, device_function, dtype, kernel
from ..vectors import VECTOR, load4, store4
from .layout import Layout
from .product import Product
from .slabs import BLOCK, COPYING, LENGTH, TILE

_EACH = VECTOR  # rows and columns of C in the registers of a thread
_SUMS = _EACH * _EACH
_ACROSS = TILE // _EACH  # threads side by side


@device_function
def no_epilogue(total, extra, j):
    """The sum of a product as it is."""
    return total


@cache
def register_tiled(a: Layout, b: Layout, c: Layout, epilogue: Any = no_epilogue) -> Product:
    """Step 4: tiles of 64x64, each thread with 4x4 of it in registers, 2 k / 64 reads for each element of C.

    epilogue(total, extra, j) is what is written for a sum in column j, such as the sum plus a bias.
    """
    runs = tuple(layout.run for layout in (a, b, c) if layout.run is not None)
    vectors = _register_tile(a, b, c, epilogue, vector=True) if len(runs) == 3 else None
    return Product(_register_tile(a, b, c, epilogue, vector=False), TILE, BLOCK, vectors, runs)


def _register_tile(a: Layout, b: Layout, c: Layout, epilogue: Any, vector: bool) -> Kernel:
    a_i, a_k, b_j, b_k, c_i, c_j = *a[:2], *b[:2], *c[:2]
    place_a, fetch_a, put_a, copies, depth = COPYING[vector, a.along_k]
    place_b, fetch_b, put_b, _, _ = COPYING[vector, b.along_k]
    held = _EACH if vector else copies  # elements of a slab of A, and of B, on their way to shared memory
    buffer = depth * LENGTH
    buffers = 2 * buffer
    together = 2 if vector else 1  # k whose multiplications the compiler mixes: more would take too many registers
    wide = _EACH if vector else 1  # the columns that a thread has side by side
    apart = 1 if vector else _ACROSS  # from one of its columns to the next

    @kernel
    def register_tile(a, b, c, extra, size, shape):
        m, n, k = shape[0], shape[1], shape[2]
        slabs_a = cuda.shared.array(buffers, dtype)  # [buffer, k, row]
        slabs_b = cuda.shared.array(buffers, dtype)  # [buffer, k, column]
        sums = cuda.local.array(_SUMS, dtype)
        left, right = cuda.local.array(_EACH, dtype), cuda.local.array(_EACH, dtype)
        held_a, held_b = cuda.local.array(held, dtype), cuda.local.array(held, dtype)
        rows, columns = cuda.local.array(copies, np.int64), cuda.local.array(copies, np.int64)
        t, part, z = cuda.threadIdx.x & (BLOCK - 1), cuda.blockIdx.y, cuda.blockIdx.z
        tiles = (n + TILE - 1) // TILE
        i0, j0 = cuda.blockIdx.x // tiles * TILE, cuda.blockIdx.x % tiles * TILE
        share = (k + depth * cuda.gridDim.y - 1) // (depth * cuda.gridDim.y) * depth  # whole slabs
        begin, end = part * share, min((part + 1) * share, k)
        for copy in range(copies):  # the places that stay the same all along k
            rows[copy] = a_i(i0 + place_a(t, copy)[0], z, shape)
            columns[copy] = b_j(j0 + place_b(t, copy)[0], z, shape)
        for i in range(_SUMS):
            sums[i] = dtype(0)
        row, column = t // _ACROSS * _EACH, t % _ACROSS * wide
        k0 = begin
        while k0 < end + depth:  # once more than there are slabs; a range would take more registers
            now = k0 // depth % 2 * buffer
            for copy in range(copies):
                i, p = place_a(t, copy)
                fetch_a(a, rows[copy] + a_k(k0 + p, z, shape), i0 + i < m and k0 + p < end, held_a, copy)
            for copy in range(copies):
                j, p = place_b(t, copy)
                fetch_b(b, columns[copy] + b_k(k0 + p, z, shape), j0 + j < n and k0 + p < end, held_b, copy)
            if k0 > begin:
                for p in range(0, depth, together):
                    for step in range(together):
                        at = buffer - now + (p + step) * LENGTH
                        left[0], left[1], left[2], left[3] = load4(slabs_a, at + row)
                        if vector:
                            right[0], right[1], right[2], right[3] = load4(slabs_b, at + column)
                        else:
                            for q in range(_EACH):
                                right[q] = slabs_b[np.uint64(at + column + q * apart)]
                        for r in range(_EACH):
                            for q in range(_EACH):
                                sums[r * _EACH + q] += left[r] * right[q]
            for copy in range(copies):
                if k0 < end:
                    i, p = place_a(t, copy)
                    put_a(held_a, copy, slabs_a, now + p * LENGTH + i)
                    j, p = place_b(t, copy)
                    put_b(held_b, copy, slabs_b, now + p * LENGTH + j)
            cuda.syncthreads()
            k0 += depth
        for r in range(_EACH):
            i, j = i0 + row + r, j0 + column
            at = part * size + c_i(i, z, shape)
            if vector and i < m and j < n:
                for q in range(_EACH):
                    right[q] = epilogue(sums[r * _EACH + q], extra, j + q)
                store4(c, at + c_j(j, z, shape), right[0], right[1], right[2], right[3])
            for q in range(0 if vector else _EACH):
                j = j0 + column + q * apart
                if i < m and j < n:
                    c[np.uint64(at + c_j(j, z, shape))] = epilogue(sums[r * _EACH + q], extra, j)

    return register_tile
