"""The matrix product on a GPU, C = A B, in four steps from naive to fast.

A thread that computes one number of C alone reads a row of A and a column of B: 2 k numbers from memory for k
multiply-adds. The steps are about reading less, and about reading neighbours:

1. **naive**. A thread per number of C, neighbouring threads on neighbouring rows. The 32 threads of a warp then read
   numbers that lie a row apart: 32 separate pieces of memory ("sectors" of 32 bytes), of which 4 bytes are used.
2. **coalesced**. The same kernel with neighbouring threads on neighbouring columns. Now a warp reads 32 neighbours of
   B, four whole sectors, and one number of A for all. The number of reads is the same, what they cost is not.
3. **tiled**. A block of 16x16 threads copies 16x16 numbers of A and of B to shared memory, a few kilobytes inside of
   the multiprocessor, and all of them use both: 2 k / 16 reads from memory for each number of C.
4. **register tiled**. Now shared memory is the limit, with two numbers fetched from it for each multiply-add. So each
   thread computes 4x4 numbers of C in its registers: 8 fetched numbers serve 16 multiply-adds, and a block of 256
   threads covers 64x64 numbers of C: 2 k / 64 reads from memory. Four neighbours are read by one instruction.

Where the numbers of A, B and C lie is said by small functions, and the steps are the same for all of them: a matrix,
its transpose, or the windows of a convolution, which are never written out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .kernel import THREADS, Kernel, blocks, cuda, device_function, dtype, empty, kernel
from .slabs import BLOCK, COPYING, LENGTH, TILE
from .vectors import VECTOR, load4, store4

# Where numbers lie ----------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """Where the elements of A, B or C lie in a flat array.

    Each is the sum of two places: A[i, k] is a[i_place + k_place], B[k, j] is b[j_place + k_place], C[i, j] is
    c[i_place + j_place]. A place is what a function (index, z, shape) returns. shape holds m, n, k, and then whatever
    else these functions need; z is the number of the product where there are several, the groups of a convolution.
    """

    outer: Any  # the function for i of A and C, for j of B
    inner: Any  # for k of A and B, for j of C
    along_k: bool = True  # of A and B: whether neighbours along k are neighbours in memory
    run: int | None = None  # which number of shape says how many of its neighbours lie together; None: no such number


@device_function
def itself(index, z, shape):
    """Numbers one after the other."""
    return index


@device_function
def _times_m(index, z, shape):
    return index * shape[0]


@device_function
def _times_n(index, z, shape):
    return index * shape[1]


@device_function
def _times_k(index, z, shape):
    return index * shape[2]


MATRIX_A = Layout(_times_k, itself, run=2)  # (m, k)
MATRIX_B = Layout(itself, _times_n, along_k=False, run=1)  # (k, n)
MATRIX_C = Layout(_times_n, itself, run=1)  # (m, n)
TRANSPOSED_A = Layout(itself, _times_m, along_k=False, run=0)  # of a matrix (k, m)
TRANSPOSED_B = Layout(_times_k, itself, run=2)  # of a matrix (n, k)


@device_function
def divided(a, b):
    """(a // b, a % b) of numbers from 0 to 2^32 - 1.

    A GPU has no instruction for it: dividing takes some twenty others with 32 bits, and several times that with 64.
    """
    quotient = np.int64(np.uint32(a) // np.uint32(b))
    return quotient, a - quotient * b


@device_function
def keep(total, extra, j):
    """The sum of a product as it is."""
    return total


# A product and its launch -------------------------------------------------------------------------------------------


class Product(NamedTuple):
    """A step made for one kind of A, B and C: its kernel, and the rows and columns of C that one block computes.

    vectors: the kernel for numbers that lie together in fours, as they do where ``runs`` of shape are multiples of 4.
    """

    kernel: Kernel
    tile: int  # 0: a thread for each number of C, wherever it lies
    threads: int
    vectors: Kernel | None = None
    runs: tuple[int, ...] = ()

    def __call__(
        self, a: Any, b: Any, c: Any, shape: tuple[int, ...], extra: Any = None, batch: int = 1, split: bool = False
    ) -> Any:
        """Write ``batch`` products into c and return it; ``shape`` starts with m, n, k of one of them.

        extra: an array for the function that finishes the sums, such as a bias.
        split: k is long and C small, as in the gradient of weights, whose k is all pixels of a batch. Few blocks, one
        for each tile of C, would leave most of the GPU idle. So more blocks share k, each part of k has a C of its own,
        and these are added in a fixed order: the same bits in every run, which atomic additions would not give.
        """
        m, n, k = shape[:3]
        tiles = blocks(m, self.tile) * blocks(n, self.tile) if self.tile else blocks(m * n, self.threads)
        parts = _parts(tiles * batch, k) if split and self.tile else 1
        sums = c if parts == 1 else empty((parts, c.size), c.dtype)
        flat = [array.reshape(array.size) for array in (a, b, sums, c if extra is None else extra)]
        in_fours = all(shape[run] % VECTOR == 0 for run in self.runs)
        kernel = self.vectors if self.vectors and in_fours else self.kernel
        kernel[(tiles, parts, batch), self.threads](*flat, c.size, shape)
        if parts > 1:
            _add_parts[blocks(c.size), THREADS](flat[2], parts, c.reshape(c.size))
        return c


_ENOUGH_BLOCKS = 1024  # to keep a GPU of a hundred multiprocessors busy with several each
_SHORTEST_PART = 256  # of k: with less, writing and adding the parts would be the larger work


def _parts(blocks_of_one: int, k: int) -> int:
    """How many blocks share k. It depends on sizes only, not on the GPU, and so do the bits of the result.

    >>> _parts(144, 11552), _parts(2172, 728), _parts(1, 100)
    (8, 1, 1)
    """
    return max(1, min(-(-_ENOUGH_BLOCKS // blocks_of_one), k // _SHORTEST_PART))


@kernel
def _add_parts(sums, parts, c):
    i = cuda.grid(1)
    if i < c.size:
        total = dtype(0)
        for part in range(parts):
            total += sums[part * c.size + i]
        c[i] = total


# Steps 1 and 2: a thread per number of C ----------------------------------------------------------------------------

Step = Callable[[Layout, Layout, Layout], Product]


@device_function
def _down(t, shape):
    return t % shape[0], t // shape[0]


@device_function
def _across(t, shape):
    return t // shape[1], t % shape[1]


def naive(a: Layout, b: Layout, c: Layout) -> Product:
    """Step 1: neighbouring threads on neighbouring rows of C."""
    return _thread_per_output(a, b, c, _down)


def coalesced(a: Layout, b: Layout, c: Layout) -> Product:
    """Step 2: neighbouring threads on neighbouring columns of C."""
    return _thread_per_output(a, b, c, _across)


@cache
def _thread_per_output(a: Layout, b: Layout, c: Layout, numbered: Any) -> Product:
    a_i, a_k, b_j, b_k, c_i, c_j = *a[:2], *b[:2], *c[:2]

    @kernel
    def one_each(a, b, c, extra, size, shape):
        t, z = cuda.grid(1), cuda.blockIdx.z
        if t < shape[0] * shape[1]:
            i, j = numbered(t, shape)
            row, column = a_i(i, z, shape), b_j(j, z, shape)
            total = dtype(0)
            for k in range(shape[2]):
                total += a[row + a_k(k, z, shape)] * b[column + b_k(k, z, shape)]
            c[c_i(i, z, shape) + c_j(j, z, shape)] = total

    return Product(one_each, 0, THREADS)


# Step 3: tiles in shared memory -------------------------------------------------------------------------------------
# The threads of a block walk along k together, 16 at a time. Each copies one number of A and one of B; all wait until
# the 16x16 numbers of both are there; each does its 16 multiply-adds; and all wait again, until nobody needs these
# numbers any more. Whichever way A and B lie in memory, neighbouring threads copy neighbours, so reads are coalesced.
#
# Shared memory has 32 banks, number after number, and a bank serves one number at a time. A warp writes two rows of 16,
# a number into each bank. But a matrix that is read turned is written column by column: with rows of 16, the 32 numbers
# of two columns would queue at four banks. Rows of 18, the last two numbers of which are not used, put them into 32
# banks. The reads never queue: the 16 threads of a row want one number of A, which is sent to all at once, and 16
# neighbours of B.

_SIDE = 16
_TURNED_SIDE = _SIDE + 2


@cache
def tiled(a: Layout, b: Layout, c: Layout) -> Product:
    """Step 3: tiles of 16x16 in shared memory, 2 k / 16 reads from memory for each number of C."""
    a_i, a_k, b_j, b_k, c_i, c_j = *a[:2], *b[:2], *c[:2]
    a_along_k, b_along_k = a.along_k, b.along_k
    length_a, length_b = (_SIDE if a_along_k else _TURNED_SIDE), (_TURNED_SIDE if b_along_k else _SIDE)

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
        ia, ka = (slow, fast) if a_along_k else (fast, slow)  # which numbers this thread copies
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


# Step 4: tiles in registers -----------------------------------------------------------------------------------------
# A block of 256 threads, 16 rows of 16, computes 64x64 numbers of C. It walks along k in slabs: 64x16 numbers of A and
# 16x64 of B, of which each thread copies four and four (gpu_slabs.py). For each k a thread fetches 4 numbers of A and 4
# of B from shared memory and does 16 multiply-adds. Its 16 sums are a "local array" whose indices are all constants
# once the loops are unrolled, so the compiler keeps them in registers; one index it cannot know, and they would lie in
# memory.
#
# - Vectors: where numbers lie together in fours, one instruction (load4, store4) copies four of A or B, fetches four of
#   them from shared memory, or writes four of C. A thread's 16 multiply-adds then come with 2 reads of shared memory
#   instead of 5. For all other sizes a second kernel is made of the same lines: ``vector`` is a constant of each.
# - A slab is fetched from memory before the multiplications of the slab before, and put into shared memory after them:
#   so long it may take. What is left of the wait is spent by other blocks: 64 registers a thread let 4 blocks, 1024
#   threads, share a multiprocessor (occupancy 50 %).
# - There are two buffers for slabs in turn, so one barrier for each slab will do. A thread that is ahead puts the next
#   slab into the other buffer, which all had read when they came to the last barrier.
# - Banks: half a warp wants the same 4 numbers of A, which are sent to all at once, and 64 neighbours of B: by vectors,
#   8 threads at a time, 32 numbers in 32 banks. Without them a thread takes every 16th column, so that the 16 threads
#   want 16 neighbours; the stores of C are coalesced for the same reason.
# - The number of the thread is masked, which changes nothing, but tells the compiler that it is not negative. It would
#   otherwise have to allow for indices that count from the end, as Python's do, and that takes a fifth more registers.
# - Blocks with neighbouring numbers share rows of A and run at the same time: A comes from memory once, B from L2.

_EACH = VECTOR  # rows and columns of C in the registers of a thread
_SUMS = _EACH * _EACH
_ACROSS = TILE // _EACH  # threads side by side


@cache
def register_tiled(a: Layout, b: Layout, c: Layout, finish: Any = keep) -> Product:
    """Step 4: tiles of 64x64, each thread with 4x4 of it in registers, 2 k / 64 reads for each number of C.

    finish(total, extra, j) is what is written for a sum in column j.
    """
    runs = tuple(layout.run for layout in (a, b, c) if layout.run is not None)
    vectors = _register_tile(a, b, c, finish, vector=True) if len(runs) == 3 else None
    return Product(_register_tile(a, b, c, finish, vector=False), TILE, BLOCK, vectors, runs)


def _register_tile(a: Layout, b: Layout, c: Layout, finish: Any, vector: bool) -> Kernel:
    a_i, a_k, b_j, b_k, c_i, c_j = *a[:2], *b[:2], *c[:2]
    place_a, fetch_a, put_a, copies, depth = COPYING[vector, a.along_k]
    place_b, fetch_b, put_b, _, _ = COPYING[vector, b.along_k]
    held = _EACH if vector else copies  # numbers of a slab of A, and of B, on their way
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
        for number in range(_SUMS):
            sums[number] = dtype(0)
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
                    right[q] = finish(sums[r * _EACH + q], extra, j + q)
                store4(c, at + c_j(j, z, shape), right[0], right[1], right[2], right[3])
            for q in range(0 if vector else _EACH):
                j = j0 + column + q * apart
                if i < m and j < n:
                    c[np.uint64(at + c_j(j, z, shape))] = finish(sums[r * _EACH + q], extra, j)

    return register_tile
