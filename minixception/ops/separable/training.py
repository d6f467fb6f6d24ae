"""2b. CPU: a separable convolution between two batchnorms, as a compiled training step runs it.

    x = f(x_raw)            f: the batchnorm in front, normalised with this batch's statistics, and its ReLU
    y = separable(x)        and the statistics of y, for the batchnorm behind

Neither x nor the normalised y is ever written: what batchnorm and ReLU do to a pixel is done when the next layer loads
it, forward and backward, from the raw output and three numbers a channel (``Normalised`` in cpu/simd/runs.py). The
statistics are taken of each block of y while it is still in L2. How often an activation crosses memory, if all are of
one size:

    layer by layer, forward     x, y of the convolution; y for the statistics; y and its normalised image              5
                    backward    batchnorm: g, y for the sums; g, y, dy. z again: x, z. dwp: z, dy. dz: dy, dz.
                                dwd: dz, x. dx: dz, x, dx                                                             16
    fused, forward              x, y                                                                                   2
           backward             g, y, x, dz in strips (12 in all where those do not pay); dz, x, dx                    7
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ...cpu import memory
from ...cpu.channels import Projection, add_statistics, project_rows
from ...cpu.depthwise_backward import BOTH_GRADIENTS, After, Read
from ...cpu.depthwise_forward import filter_strip
from ...cpu.elementwise import added
from ...cpu.gemm import pack_panel, panel_width, strip, sums_only
from ...cpu.jit import parallel, prange
from .cpu import read_next, strip_pixels

_SHARES = 8  # threads among which strips are shared evenly, however many there are: sums must not depend on these
_CHUNKS = 16  # parts of the sums over rows in dw

# Forward ------------------------------------------------------------------------------------------------------------


def _forward_kernel(window: str) -> Any:
    @parallel
    def forward(x, incoming, wd, packed, y, scratch, means, m2s, corner):
        """y = (f(x) * wd) * packed; of each strip of y the statistics, in means and m2s (strips, co).

        packed: (panels, ci, width); scratch: (threads, elements of a strip).
        """
        c = x.shape[3]
        n, ho, wo, co = y.shape
        panels, _, width = packed.shape
        total = n * ho * wo
        pixels = scratch.shape[1] // c
        ys = y.reshape(total, co)
        for task in prange((total + pixels - 1) // pixels):
            first, last = task * pixels, min(total, (task + 1) * pixels)
            buffer = scratch[numba.get_thread_id()]
            filter_strip(x, first, last, (ho, wo), incoming, wd, buffer, corner, 1, window)
            z = buffer[: (last - first) * c].reshape(last - first, 1, 1, c)
            z = z[:, :, :, :c]  # of any strides, for Numba, like matrices of other products: ``strip`` compiles once
            for panel in range(panels):
                columns = slice(panel * width, min(co, (panel + 1) * width))
                target = ys[first:last, columns]
                ahead = read_next(x, packed, panel, panels, last / total, (last - first) / total)
                strip(z, packed[panel : panel + 1, :c], target, sums_only(target, False), ahead)
                if len(means) > 0:
                    add_statistics(target, means[task, columns], m2s[task, columns])

    return forward


_FORWARD = {size: _forward_kernel(f"{size}x{size}") for size in BOTH_GRADIENTS}


def forward(
    x: np.ndarray, incoming: Any, wd: np.ndarray, wp: np.ndarray, y: np.ndarray, corner: tuple[int, int],
    statistics: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:  # fmt: skip
    """Write y = separable(f(x)); returns the statistics of its strips, for ``merged_statistics``, if they are wanted.

    x (n, h, w, ci), wd (kh, kw, ci), wp (ci, co), y (n, ho, wo, co); incoming: what f is, a number or ``Normalised``;
    corner: rows and columns of padding above and to the left.
    """
    ci, co = wp.shape
    pixels, total = strip_pixels(y.shape, ci, _SHARES), y.size // co
    strips = -(-total // pixels)
    scratch = memory.empty((numba.get_num_threads(), pixels * ci), x.dtype)
    means, m2s = np.empty((2, strips if statistics else 0, co))
    counts = np.diff(np.minimum(np.arange(strips + 1) * pixels, total))
    _FORWARD[wd.shape[0]](x, incoming, wd, _packed(wp, False), y, scratch, means, m2s, corner)
    return (counts, means, m2s) if statistics else None


# Backward -----------------------------------------------------------------------------------------------------------
# A task takes its pixels strip by strip. g, the gradient of the normalised y, becomes dy in a buffer in L2; z is
# computed again, into another. Then both products are made of the two buffers: dz = dy wp^T, which is written, and the
# strip's share of dwp = z^T dy, added to the task's own copy of dwp. So g, y and x are read once and dz is written
# once; dy and z never reach memory. What that takes is a copy of dwp for each task, which must be the smaller thing.


def _strips_kernel(window: str) -> Any:
    @parallel
    def backward(x, incoming, wd, g, y, projection, packed, dz, scratch, partial, corner):
        """dz (n, ho, wo, ci), and in partial (parts, ci, co) what each part of the pixels adds to dwp.

        packed: the transposed pointwise kernel, (panels, co, width); scratch: (threads, elements).
        """
        n, ho, wo, co = y.shape
        parts, ci, _ = partial.shape
        panels, _, width = packed.shape
        total = n * ho * wo
        pixels = scratch.shape[1] // (ci + co + width)
        next_g, next_y = g.reshape(-1), y.reshape(-1)
        gs, ys, dzs = g.reshape(total, co), y.reshape(total, co), dz.reshape(total, ci)
        for part in prange(parts):
            begin, end = part * total // parts, (part + 1) * total // parts
            partial[part] = 0
            buffer = scratch[numba.get_thread_id()]
            panel_of_dy = buffer[pixels * (ci + co) :].reshape(pixels, width)
            for first in range(begin, end, pixels):
                last = min(end, first + pixels)
                rows = last - first
                filter_strip(x, first, last, (ho, wo), incoming, wd, buffer, corner, 1, window)
                z = buffer[: rows * ci].reshape(rows, ci).T
                dy = buffer[pixels * ci : pixels * ci + rows * co].reshape(rows, co)
                project_rows(gs[first:last], ys[first:last], projection, dy)
                strip_of_dy = dy[:, None, None, :co]
                for panel in range(panels):  # and the next strip of g comes to L2 meanwhile
                    target = dzs[first:last, panel * width : min(ci, (panel + 1) * width)]
                    ahead = next_g[last * co + panel * rows * co // panels :][: rows * co // panels]
                    strip(strip_of_dy, packed[panel : panel + 1, :co], target, sums_only(target, False), ahead)
                for column in range(0, co, width):  # and the next strip of y
                    columns = slice(column, min(co, column + width))
                    pack_panel(dy[:, columns], panel_of_dy[:rows])
                    target = partial[part, :, columns]
                    ahead = next_y[last * co + column * rows :][: rows * width]
                    strip(z[:, None, None], panel_of_dy[None, :rows, :width], target, sums_only(target, True), ahead)

    return backward


_STRIPS = {size: _strips_kernel(f"{size}x{size}") for size in BOTH_GRADIENTS}
_PARTS = 16  # copies of dwp
_BUFFERS = 3 << 15  # elements of a strip's buffers: 384 KiB of float32
_LONGEST = 512  # pixels: a tile reads six channels of each, a cache line, of the transposed z


def pays_in_strips(pixels: int, ci: int, co: int) -> bool:
    """Whether writing and adding the copies of dwp moves less than dy and z, written and read, would."""
    return pixels * (ci + co) >= 4 * _PARTS * ci * co


def pointwise_gradients(
    x: np.ndarray, incoming: Any, weights: tuple[np.ndarray, np.ndarray], corner: tuple[int, int],
    g: np.ndarray, y: np.ndarray, projection: Projection, dz: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Write dz, the gradient of the depthwise result, and return dwp, where ``pays_in_strips``.

    g (n, ho, wo, co): the gradient of the normalised y; weights: wd and wp; the rest as in ``forward``.
    """
    wd, wp = weights
    ci, co = wp.shape
    size = ci + co + panel_width(x.dtype)
    pixels = min(_LONGEST, _BUFFERS // size // 2 * 2)
    scratch = memory.empty((numba.get_num_threads(), pixels * size), x.dtype)
    partial = memory.empty((_PARTS, ci, co), x.dtype)
    packed = _packed(wp, True)
    _STRIPS[wd.shape[0]](x, incoming, wd, g, y, projection, packed, dz, scratch, partial, corner)
    return added(partial)


# With few pixels and many channels it is the other way round: dy and z are small, and stay in L3 between the passes.
# Forming dy strip by strip on its way into the product, while that was in L2, was tried there and changed nothing.


# The depthwise part reads x and dz once for both of its gradients (cpu/depthwise_backward.py).


def _both_kernel(size: int) -> Any:
    both_gradients = BOTH_GRADIENTS[size]

    @parallel
    def backward(x, incoming, gated, dz, rotated, dx, after, partial, sums, corner):
        """dx, and for each chunk of rows dw, partial (chunks, kh, kw, c), and sums (chunks, 2, c) of dx.

        rotated: wd, by 180 degrees; dw comes rotated as well. corner: of dz above and to the left of dx.
        """
        n, h, _, c = dx.shape
        chunks = len(partial)
        top, left = corner
        for chunk in prange(chunks):
            partial[chunk] = 0
            sums[chunk] = 0
            of_row = np.empty((2, c), x.dtype)  # in x's dtype along a row of the image, in float64 from row to row
            for row in range(chunk * n * h // chunks, (chunk + 1) * n * h // chunks):
                m, i = row // h, row % h
                of_row[:] = 0
                here = After(after.residual[m], after.of[m], after.minus_mean, of_row)
                read = Read(x[m], incoming, gated)
                both_gradients(read, i, dz[m], (i - top, left), rotated, dx[m], partial[chunk], here)
                for k in range(2):
                    for q in range(c):
                        sums[chunk, k, q] += of_row[k, q]

    return backward


_BOTH = {size: _both_kernel(size) for size in BOTH_GRADIENTS}


def gradients(
    x: np.ndarray, incoming: Any, relu: bool, dz: np.ndarray, wd: np.ndarray, dx: np.ndarray, corner: tuple[int, int],
    residual: np.ndarray | None, of: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Write dx, the gradient of f(x) without f's normalisation, plus residual; returns dwd and the sums of dx.

    of: an array like x, and the negative means (c,) of its channels: the sums, float64 (2, c), are those of dx and of
    dx * (of - mean), which batchnorm's backward pass needs. Without ``of`` they are 0.
    """
    size, (n, h, _, c) = wd.shape[0], x.shape
    nothing = np.empty((0, 0, 0, 0), x.dtype)
    chunks = min(_CHUNKS, n * h)
    array, minus_mean = of or (nothing, np.empty(0, x.dtype))
    sums = np.empty((chunks, 2, c))
    after = After(nothing if residual is None else residual, array, minus_mean, np.empty((2, 0), x.dtype))
    partial = memory.empty((chunks, *wd.shape), x.dtype)
    there = size - 1 - corner[0], size - 1 - corner[1]
    _BOTH[size](x, incoming, relu, dz, np.ascontiguousarray(wd[::-1, ::-1]), dx, after, partial, sums, there)
    return np.ascontiguousarray(added(partial)[::-1, ::-1]), sums.sum(axis=0)


@parallel
def _pack(w, transpose, packed):
    b = w.T if transpose else w
    panels, _, width = packed.shape
    for panel in prange(panels):
        pack_panel(b[:, panel * width : min(b.shape[1], (panel + 1) * width)], packed[panel])


def _packed(w: np.ndarray, transpose: bool) -> np.ndarray:
    """w (ci, co), or its transpose, as panels (panels, k, width)."""
    k, n = w.shape[::-1] if transpose else w.shape
    width = panel_width(w.dtype)
    packed = memory.empty((-(-n // width), k, width), w.dtype)
    _pack(w, transpose, packed)
    return packed
