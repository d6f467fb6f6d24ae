"""A step of the ladder, made for one kind of matrices, and how its kernel is launched."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..kernel import THREADS, Kernel, blocks, cuda, dtype, empty, flat, kernel
from ..vectors import VECTOR


class Product(NamedTuple):
    """A step made for one kind of A, B and C: its kernel, and the rows and columns of C that one block computes.

    vectors: the kernel for elements that lie together in fours, which they do where shape[run] is a multiple of 4 for
    each of ``runs``.
    """

    kernel: Kernel
    tile: int  # 0: a thread for each element of C, wherever it lies
    threads: int
    vectors: Kernel | None = None
    runs: tuple[int, ...] = ()

    def __call__(
        self, a: Any, b: Any, c: Any, shape: tuple[int, ...], extra: Any = None, batch: int = 1, split: bool = False
    ) -> Any:
        """Write ``batch`` products into c and return it; ``shape`` starts with m, n, k of one of them.

        extra: an array for the epilogue, such as a bias.
        split: k is long and C small, as in the gradient of weights, whose k is all pixels of a batch. Few blocks, one
        for each tile of C, would leave most of the GPU idle. So more blocks share k, each part of k has a C of its own,
        and these are added in a fixed order: the same bits in every run, which atomic additions would not give.
        """
        m, n, k = shape[:3]
        tiles = blocks(m, self.tile) * blocks(n, self.tile) if self.tile else blocks(m * n, self.threads)
        parts = _parts(tiles * batch, k) if split and self.tile else 1
        sums = c if parts == 1 else empty((parts, c.size), c.dtype)
        arrays = [*map(flat, (a, b, sums, c if extra is None else extra))]
        in_fours = all(shape[run] % VECTOR == 0 for run in self.runs)
        kernel = self.vectors if self.vectors and in_fours else self.kernel
        kernel[(tiles, parts, batch), self.threads](*arrays, c.size, shape)
        if parts > 1:
            _add_parts[blocks(c.size), THREADS](flat(sums), parts, flat(c))
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
