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
   threads covers 64x64 numbers of C: 2 k / 64 reads from memory.

Where the numbers of A, B and C lie is said by small functions, and the steps are the same for all of them: a matrix,
its transpose, or the windows of a convolution, which are never written out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .gpu import THREADS, Kernel, blocks, cuda, device_function, dtype, empty, kernel

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


MATRIX_A = Layout(_times_k, itself)  # (m, k)
MATRIX_B = Layout(itself, _times_n, along_k=False)  # (k, n)
MATRIX_C = Layout(_times_n, itself)  # (m, n)
TRANSPOSED_A = Layout(itself, _times_m, along_k=False)  # of a matrix (k, m)
TRANSPOSED_B = Layout(_times_k, itself)  # of a matrix (n, k)


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
    """A step made for one kind of A, B and C: its kernel, and the rows and columns of C that one block computes."""

    kernel: Kernel
    tile: int  # 0: a thread for each number of C, wherever it lies
    threads: int

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
        self.kernel[(tiles, parts, batch), self.threads](*flat, c.size, shape)
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
# A block of 256 threads, 16 rows of 16, computes 64x64 numbers of C. It walks along k in slabs of 8: 64x8 numbers of A
# and 8x64 of B, of which each thread copies two and two. For each k a thread fetches 4 numbers of A and 4 of B from
# shared memory and does 16 multiply-adds. Its 16 sums are a "local array" whose indices are all constants once the
# loops are unrolled, so the compiler keeps them in registers; one index it cannot know, and they would lie in memory.
#
# - All copies of a slab are read before the first is stored, so that their waits overlap. What is left of the wait is
#   spent by other blocks: 64 registers a thread let 4 blocks, 1024 threads, share a multiprocessor (occupancy 50 %).
# - There are two buffers for slabs in turn, so one barrier for each slab will do. A thread that is ahead stores the
#   next slab into the other buffer; to come back to this one it must pass the next barrier, where those who still
#   multiply have not arrived.
# - Banks: the 16 threads of a row want the same 4 numbers of A. Of B, a thread takes every 16th column, so that the
#   16 threads want 16 neighbours; the stores of C are coalesced for the same reason. A slab that is copied along k is
#   stored turned, by 4 rows and 8 k in a warp; rows of 68 numbers put these 32 into 32 banks.
# - The number of the thread is masked, which changes nothing, but tells the compiler that it is not negative. It would
#   otherwise have to allow for indices that count from the end, as Python's do, and that takes a fifth more registers.
# - Blocks with neighbouring numbers share rows of A and run at the same time: A comes from memory once, B from L2.

_TILE = 64  # rows and columns of C that a block computes
_SLAB = 8  # of k at a time in shared memory
_EACH = 4  # rows and columns of C in the registers of a thread
_ACROSS = _TILE // _EACH  # threads side by side
_BLOCK = _ACROSS * _ACROSS  # threads of a block
_COPIES = _TILE * _SLAB // _BLOCK  # numbers of A, and of B, that a thread copies for each slab
_PADDED_TILE = _TILE + 4


@device_function
def _copy_along_k(t, copy):
    return t // _SLAB + copy * (_BLOCK // _SLAB), t % _SLAB


@device_function
def _copy_across_k(t, copy):
    return t % _TILE, t // _TILE + copy * (_BLOCK // _TILE)


@cache
def register_tiled(a: Layout, b: Layout, c: Layout, finish: Any = keep) -> Product:
    """Step 4: tiles of 64x64, each thread with 4x4 of it in registers, 2 k / 64 reads for each number of C.

    finish(total, extra, j) is what is written for a sum in column j.
    """
    a_i, a_k, b_j, b_k, c_i, c_j = *a[:2], *b[:2], *c[:2]
    copy_a = _copy_along_k if a.along_k else _copy_across_k
    copy_b = _copy_along_k if b.along_k else _copy_across_k

    @kernel
    def register_tile(a, b, c, extra, size, shape):
        m, n, k = shape[0], shape[1], shape[2]
        slabs_a = cuda.shared.array((2, _SLAB, _PADDED_TILE), dtype)  # [buffer, k, row]
        slabs_b = cuda.shared.array((2, _SLAB, _PADDED_TILE), dtype)  # [buffer, k, column]
        sums = cuda.local.array((_EACH, _EACH), dtype)
        left, right = cuda.local.array(_EACH, dtype), cuda.local.array(_EACH, dtype)
        held_a, held_b = cuda.local.array(_COPIES, dtype), cuda.local.array(_COPIES, dtype)
        rows, columns = cuda.local.array(_COPIES, np.int64), cuda.local.array(_COPIES, np.int64)
        t, part, z = cuda.threadIdx.x & (_BLOCK - 1), cuda.blockIdx.y, cuda.blockIdx.z
        tiles = (n + _TILE - 1) // _TILE
        i0, j0 = cuda.blockIdx.x // tiles * _TILE, cuda.blockIdx.x % tiles * _TILE
        begin, end = part * k // cuda.gridDim.y, (part + 1) * k // cuda.gridDim.y
        for copy in range(_COPIES):  # the places that stay the same all along k
            rows[copy] = a_i(i0 + copy_a(t, copy)[0], z, shape)
            columns[copy] = b_j(j0 + copy_b(t, copy)[0], z, shape)
        for r in range(_EACH):
            for q in range(_EACH):
                sums[r, q] = dtype(0)
        row, column = t // _ACROSS * _EACH, t % _ACROSS
        now = 0
        for k0 in range(begin, end, _SLAB):
            for copy in range(_COPIES):
                i, p = copy_a(t, copy)
                place = rows[copy] + a_k(k0 + p, z, shape)
                held_a[copy] = a[place] if i0 + i < m and k0 + p < end else dtype(0)
                j, p = copy_b(t, copy)
                place = columns[copy] + b_k(k0 + p, z, shape)
                held_b[copy] = b[place] if j0 + j < n and k0 + p < end else dtype(0)
            for copy in range(_COPIES):
                i, p = copy_a(t, copy)
                slabs_a[now, p, i] = held_a[copy]
                j, p = copy_b(t, copy)
                slabs_b[now, p, j] = held_b[copy]
            cuda.syncthreads()
            for p in range(_SLAB):
                for r in range(_EACH):
                    left[r] = slabs_a[now, p, row + r]
                    right[r] = slabs_b[now, p, column + r * _ACROSS]
                for r in range(_EACH):
                    for q in range(_EACH):
                        sums[r, q] += left[r] * right[q]
            now ^= 1
        for r in range(_EACH):
            for q in range(_EACH):
                i, j = i0 + row + r, j0 + column + q * _ACROSS
                if i < m and j < n:
                    c[part * size + c_i(i, z, shape) + c_j(j, z, shape)] = finish(sums[r, q], extra, j)

    return Product(register_tile, _TILE, _BLOCK)
