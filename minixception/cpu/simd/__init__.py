"""The vocabulary of the fast kernels: vectors, tiles and runs as values, and what is done with them.

This is the only folder of the CPU kernels that emits LLVM's intermediate representation, one small intrinsic after the
other. A kernel made of them is plain Numba: it can be read from top to bottom, and changed.

- A **vector** is one register full of neighbouring elements. A kernel that says ``acc = fma(load(x, i, n), load(w, j,
  n), acc)`` is vectorised because it is written so, not because the compiler found out. The width follows the CPU: a
  64-byte AVX-512 register holds 16 float32 (``lanes``), AVX2 8, NEON and plain SSE 4; float64 half of it. LLVM splits a
  vector that is wider than the machine's registers, so the same kernels run everywhere.
- A **tile** is rows of vectors, a block of a matrix: ``sums = rank_one(sums, a, i, b, j)`` is a matrix product's step.
- A **run** is vectors that lie one pixel apart, of an image or a kernel: ``sums = fma_rows(sums, x, ...)`` is a
  depthwise convolution's step.

Tiles and runs are tuples of vectors, immutable values that LLVM keeps in registers as long as there are enough.

The last vector of a row is often not full. ``n`` says how many lanes count: with ``n == lanes`` load and store are one
plain instruction, with fewer they are masked. Lanes past ``n`` read as zero and are never read from or written
to memory. Staying inside of an array is the caller's duty.
"""

from .hints import borrowed, opaque
from .registers import REGISTER_BYTES, Vector, lanes
from .runs import (
    Inside,
    Neighbours,
    Normalised,
    arrived,
    fma_rows,
    load_arrived,
    load_run,
    prefetch_run,
    store_run,
    total,
    vectors_of,
    where_positive,
)
from .tiles import load_tile, load_transposed, rank_one, store_tile, zeros
from .vectors import (
    add,
    fma,
    greatest,
    holder,
    load,
    maximum,
    member,
    multiply,
    prefetch,
    prefetch_write,
    segments,
    splat,
    store,
    store_numbers,
    taken,
)

__all__ = [
    "REGISTER_BYTES", "Inside", "Neighbours", "Normalised", "Vector", "add", "arrived", "borrowed", "fma", "fma_rows",
    "greatest", "holder", "lanes", "load", "load_arrived", "load_run", "load_tile", "load_transposed", "maximum",
    "member", "multiply", "opaque", "prefetch", "prefetch_run", "prefetch_write", "rank_one", "segments", "splat",
    "store", "store_numbers", "store_run", "store_tile", "taken", "total", "vectors_of", "where_positive", "zeros",
]  # fmt: skip
