"""Max pooling for inference. The other fused kernel is ``fused`` of ops/separable/cpu.py, which training uses as well.

Batchnorm is gone before they run: at inference it multiplies and shifts each channel, so its factor is folded into the
columns of the weights and its shift becomes a bias (compiler/fold.py).
"""

from __future__ import annotations

from ..cpu.jit import parallel, prange
from ..cpu.simd import prefetch


@parallel
def max_pool(x, y, kh, kw, stride, top, left):
    """The forward kernel of ops/pooling/max_pool.py without the record of which tap won."""
    _, h, w, c = x.shape
    n, ho, wo, _ = y.shape
    xs, line = x.reshape(-1), 64 // x.itemsize  # numbers in a cache line
    for task in prange(n * ho):
        m, i = task // ho, task % ho
        a0, a1 = max(0, top - i * stride), min(kh, h + top - i * stride)
        below = ((m * h + i * stride + kh - top) * w - left) * c  # the rows that the next row of outputs will need
        for j in range(wo):
            b0, b1 = max(0, left - j * stride), min(kw, w + left - j * stride)
            for a in range(stride):
                for q in range(0, stride * c, line):
                    prefetch(xs, below + (a * w + j * stride) * c + q)
            best = y[m, i, j]
            best[:] = x[m, i * stride + a0 - top, j * stride + b0 - left]
            for a in range(a0, a1):
                for b in range(b0, b1):
                    values = x[m, i * stride + a - top, j * stride + b - left]
                    for q in range(c):
                        wins = (not values[q] <= best[q]) & (best[q] == best[q])  # greater, or the first NaN
                        best[q] = values[q] if wins else best[q]
