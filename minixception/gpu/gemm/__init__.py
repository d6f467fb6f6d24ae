"""The matrix product on a GPU, C = A B, in four steps from naive to fast.

A thread that computes one element of C alone reads a row of A and a column of B: 2 k reads from memory for k
multiply-adds. The steps are about reading less, and about reading neighbours:

1. **naive** (per_output.py). A thread per element of C, neighbouring threads on neighbouring rows. The 32 threads of a
   warp then read elements that lie a row apart: 32 sectors of 32 bytes, of which 4 bytes each are used.
2. **coalesced** (per_output.py). The same kernel with neighbouring threads on neighbouring columns. Now a warp reads 32
   neighbours of B, four whole sectors, and one element of A for all. It reads as often; what a read costs is not the
   same.
3. **tiled** (shared_tiles.py). A block of 16x16 threads copies 16x16 elements of A and of B to shared memory, a few
   kilobytes inside of the multiprocessor, and all of them use both: 2 k / 16 reads from memory for each element of C.
4. **register tiled** (register_tiles.py). Now shared memory is the limit, with two values fetched from it for each
   multiply-add. So each thread computes 4x4 elements of C in its registers: 8 fetched values serve 16 multiply-adds,
   and a block of 256 threads covers 64x64 elements of C: 2 k / 64 reads from memory. Four neighbours are read by one
   instruction.

Where the elements of A, B and C lie is said by small functions (layout.py), and the steps are the same for all of them:
a matrix, its transpose, or the windows of a convolution, which are never written out.
"""

from __future__ import annotations

from collections.abc import Callable

from .layout import MATRIX_A, MATRIX_B, MATRIX_C, TRANSPOSED_A, TRANSPOSED_B, Layout, divided
from .per_output import coalesced, naive
from .product import Product
from .register_tiles import register_tiled
from .shared_tiles import tiled

Step = Callable[[Layout, Layout, Layout], Product]

__all__ = [
    "MATRIX_A",
    "MATRIX_B",
    "MATRIX_C",
    "TRANSPOSED_A",
    "TRANSPOSED_B",
    "Layout",
    "Product",
    "Step",
    "coalesced",
    "divided",
    "naive",
    "register_tiled",
    "tiled",
]
