"""Fused kernels of inference: [ReLU ->] depthwise -> pointwise -> [+ residual] [-> ReLU] in one pass.

Batchnorm is gone before they run: at inference it multiplies and shifts each channel, so its factor is folded into the
columns of the pointwise weights and its shift becomes a bias (infer/fold.py).

Layer by layer, the depthwise result of 19x19x728 is a megabyte that is written, read again by the pointwise product,
whose result is written, read and written by batchnorm, and once more by the addition. Here a task takes a strip of
output pixels, filters them into a scratch buffer that stays in its core's L2 cache, and multiplies the buffer by the
packed weights; bias, residual and ReLU are applied to the sums while they are still in registers. x is read once and
y written once. What is left is the matrix product, limited by the multipliers.
"""

from __future__ import annotations

import numba

from ..kernels.gemm import strip
from ..kernels.jit import parallel, prange
from ..kernels.rowtile import filter_outputs


@parallel
def separable(
    x, floor, wd, packed, bias, residual, add_residual, relu, y, scratch, stride, top, left, pixels, width, lanes
):
    """y = f(max(x, floor) * wd * packed + bias + residual); scratch: (threads, pixels * c); strips of ``pixels``."""
    _, h, w, c = x.shape
    kh, kw, _ = wd.shape
    n, ho, wo, co = y.shape
    xs, wds, ys = x.reshape(-1), wd.reshape(-1), y.reshape(-1)
    residuals = residual.reshape(-1)
    total = n * ho * wo
    for task in prange((total + pixels - 1) // pixels):
        p0 = task * pixels
        p1 = min(total, p0 + pixels)
        buffer = scratch[numba.get_thread_id()]
        p = p0
        while p < p1:  # the rest of a row, as many whole rows of an image as there are, the start of a row
            row, j0 = p // wo, p % wo
            m, i = row // ho, row % ho
            rows = min(ho - i, (p1 - p) // wo) if j0 == 0 and p1 - p >= wo else 1
            j1 = min(wo, j0 + p1 - p)
            filter_outputs(
                xs, m * h * w * c, h, w, floor, wds, kh, kw, buffer, (p - p0) * c, i, i + rows, j0, j1, wo,
                stride, top, left, c, lanes,
            )  # fmt: skip
            p += rows * (j1 - j0)
        for column in range(0, co, width):
            strip(
                buffer, 0, c, 1, p1 - p0, packed, column * c, c,
                ys, p0 * co + column, co, min(width, co - column),
                residuals, add_residual, bias, column, True, relu,
            )  # fmt: skip


@parallel
def max_pool(x, y, kh, kw, stride, top, left):
    """The forward kernel of ops/pooling/max_pool.py without the record of which tap won."""
    _, h, w, c = x.shape
    n, ho, wo, _ = y.shape
    for task in prange(n * ho):
        m, i = task // ho, task % ho
        a0, a1 = max(0, top - i * stride), min(kh, h + top - i * stride)
        for j in range(wo):
            b0, b1 = max(0, left - j * stride), min(kw, w + left - j * stride)
            best = y[m, i, j]
            best[:] = x[m, i * stride + a0 - top, j * stride + b0 - left]
            for a in range(a0, a1):
                for b in range(b0, b1):
                    values = x[m, i * stride + a - top, j * stride + b - left]
                    for q in range(c):
                        wins = (not values[q] <= best[q]) & (best[q] == best[q])  # greater, or the first NaN
                        best[q] = values[q] if wins else best[q]
