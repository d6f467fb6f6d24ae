"""The register tile of the matrix product alone: its operands stay in the caches, nothing is packed or fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..cpu import memory
from ..cpu.gemm import K_BLOCK, ROWS, pack_panel, panel_width, strip, sums_only
from ..cpu.jit import parallel, prange
from ..timing import interleaved
from .limits import Limits
from .measurement import OURS, Measurement, summary
from .threads import numba_threads

if TYPE_CHECKING:
    from tqdm import tqdm

ROW_BLOCK = 16 * ROWS  # few enough that A stays in L2 beside the panel of B
_PRODUCTS = 200  # of each thread: about 7 ms


@parallel
def _products(a, b, packed, c, products):
    """Each task packs its own panel of b (k, width), then multiplies its a (m, 1, 1, k) with it again and again."""
    for task in prange(len(a)):
        panel = packed[task]
        pack_panel(b, panel)
        for _ in range(products):
            strip(a[task], panel[None], c[task], sums_only(c[task], False), panel.reshape(-1))


def measure(limits: Limits, repeats: int, bar: tqdm[Any]) -> Measurement:
    """The tile on every thread, each with its own block of A and panel of B; moves no bytes from or to memory."""
    width = panel_width(np.dtype(np.float32))
    m, k, threads = ROW_BLOCK, K_BLOCK, limits.threads
    rng = np.random.default_rng(0)
    a = rng.standard_normal((threads, m, 1, 1, k), np.float32)
    b = rng.standard_normal((k, width), np.float32)
    packed = memory.empty((threads, k, width), np.float32)  # aligned, as in the product
    c = memory.empty((threads, m, width), np.float32)
    flop = 2 * m * k * width * _PRODUCTS * threads
    with numba_threads(threads):
        times = interleaved({OURS: lambda: _products(a, b, packed, c, _PRODUCTS)}, repeats, bar.update)
    return summary("register tile", "forward", limits, flop, 0, times)
