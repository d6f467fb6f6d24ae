"""How a block copies a slab of A or B from memory to shared memory, for step 4 (register_tiles.py).

A slab is 64 rows of A, or columns of B, by 16 of k, of which each of 256 threads copies a vector of 4; or, where
elements do not lie together in fours, by 8 of k, of which each copies 2. Neighbouring threads copy neighbours,
whichever way the matrix lies in memory. Loading into registers and storing to shared memory are two functions, so that
the work in between hides memory latency.

In shared memory the rows of a slab are its k, 68 elements long, of which the last 4 are not used. A matrix that is read
along k is transposed on the way. A warp then copies 2 times 4 k (32 bytes, a sector) of 16 rows of the matrix, or 8 k
of 4 rows: with rows of 68, what it stores by one instruction lies in 32 banks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernel import device_function, dtype
from ..vectors import VECTOR, load4, store4

TILE = 64  # rows of A, columns of B
BLOCK = 256  # threads
LENGTH = TILE + 4  # of a row in shared memory


class Copying(NamedTuple):
    """Functions for kernels, called for each of the ``copies`` of a thread."""

    place: Any  # which row of A or column of B, and which k: of the first element
    fetch: Any  # from memory to registers, 0 where it is outside
    put: Any  # to shared memory
    copies: int
    depth: int  # k of a slab


# One by one --------------------------------------------------------------------------------------------------------


@device_function
def _one_along_k(t, copy):
    return t // 8 + copy * (BLOCK // 8), t % 8


@device_function
def _one_across_k(t, copy):
    return t % TILE, t // TILE + copy * (BLOCK // TILE)


@device_function
def _fetch_one(array, at, inside, held, copy):
    held[copy] = array[np.uint64(at)] if inside else dtype(0)


@device_function
def _put_one(held, copy, slab, at):
    slab[np.uint64(at)] = held[copy]


# Vectors -----------------------------------------------------------------------------------------------------------


@device_function
def _four_along_k(t, copy):
    return t // 2 % TILE, (t % 2 + t // (2 * TILE) * 2) * VECTOR


@device_function
def _four_across_k(t, copy):
    return t % (TILE // VECTOR) * VECTOR, t // (TILE // VECTOR)


@device_function
def _fetch_four(array, at, inside, held, copy):
    if inside:
        held[0], held[1], held[2], held[3] = load4(array, at)
    else:
        held[0], held[1], held[2], held[3] = dtype(0), dtype(0), dtype(0), dtype(0)


@device_function
def _put_four_along_k(held, copy, slab, at):
    for p in range(VECTOR):
        slab[np.uint64(at + p * LENGTH)] = held[p]


@device_function
def _put_four_across_k(held, copy, slab, at):
    store4(slab, at, held[0], held[1], held[2], held[3])


COPYING = {  # whether by vectors, and whether neighbours in memory lie along k
    (False, True): Copying(_one_along_k, _fetch_one, _put_one, 2, 8),
    (False, False): Copying(_one_across_k, _fetch_one, _put_one, 2, 8),
    (True, True): Copying(_four_along_k, _fetch_four, _put_four_along_k, 1, 16),
    (True, False): Copying(_four_across_k, _fetch_four, _put_four_across_k, 1, 16),
}
