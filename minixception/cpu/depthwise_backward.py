"""Depthwise convolution with stride 1, backward: both gradients in one pass over x and dy.

    dx[i, j] = sum over a, b of dy[i + top - a, j + left - b] * w[a, b]                           (channel by channel)
    dw[a, b] = sum over i, j of f(x[i, j]) * dy[i + top - a, j + left - b]

Both sums meet the same pixels of dy, those around pixel (i, j) of x: seen from dx it is a convolution of dy with the
kernel rotated by 180 degrees, and seen from dw the five pixels of x are the taps. So each row of dy that lies under a
tile is loaded once and goes through ``fma_rows`` twice: 3x3 takes 21 pixels of dy, 9 taps and 9 sums of dw, and feeds
90 fused multiply-adds.

What belongs to a pixel of x and is in registers anyway happens there too. f, a batchnorm and a ReLU in front, is
computed once for a pixel, not once for each tap. dx is 0 where f cut x off. The gradient that comes around a residual
connection is added. And the two sums which the batchnorm in front needs for its own gradient are taken of the result.
All of it would be a pass over memory of its own; so the pass reads x and dy once, and writes dx once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .depthwise_forward import COLUMNS, Border
from .jit import forceinline, inline, pasted
from .simd import (
    Inside,
    add,
    arrived,
    borrowed,
    fma_rows,
    lanes,
    load,
    load_run,
    multiply,
    prefetch_run,
    store,
    store_run,
    total,
    vectors_of,
    where_positive,
    zeros,
)


class Read(NamedTuple):
    """What the convolution read of one image: f(x), with x (h, w, c); incoming: what f is, see ``vectors_of``.

    gated: whether the gradient is 0 where f(x) is, behind a ReLU.
    """

    x: Any
    incoming: Any
    gated: Any


class After(NamedTuple):
    """What happens to dx on its way out, for one image.

    residual (h, w, c), or empty: is added. of (h, w, c), or empty, and minus_mean (c,): the sums of dx and of dx * (of
    + minus_mean) over the row are added to sums (2, c).
    """

    residual: Any
    of: Any
    minus_mean: Any
    sums: Any


def _tiles(size):
    """Both gradients for one row of x, for a square kernel of a size known at compile time."""

    @pasted
    def tile(read, dy, under, w, dx, dw, after, at, border):
        """dx[i, j : j + 5], channels from q on, n of them, and what these pixels add to dw; at: (i, j, q, n).

        dy[under] lies under the first tap of the rotated kernel w, or would. 3x3: 5 sums of dx and 3 of dw, 5 pixels of
        x, 3 taps and a pixel of dy are in registers.
        """
        (line, column), (i, j, q, n) = under, at
        prefetch_run(read.x, (i + 1, j, q), COLUMNS, False)
        prefetch_run(dx, (i + 1, j, q), COLUMNS, True)
        prefetch_run(dy, (line + size, column, q), COLUMNS, False)
        how = vectors_of(read.incoming, read.x, q, n)
        pixels = arrived(load_run(read.x, (i, j, q), COLUMNS, border.outputs), how, border.outputs)
        (result,) = zeros(dx, 1, COLUMNS)
        for a in range(max(0, -line), min(size, dy.shape[0] - line)):
            place = (line + a, column, q)
            taps = load_run(w, (a, 0, q), size, border.taps)
            (result,) = fma_rows((result,), dy, place, (taps,), (1, 1), None, border.pixels)
            sums = load_run(dw, (a, 0, q), size, border.taps)
            (sums,) = fma_rows((sums,), dy, place, (pixels,), (1, 1), None, border.pixels)
            store_run(dw, (a, 0, q), sums, border.taps)
        if read.gated:
            result = where_positive(pixels, result)
        if len(after.residual) > 0:
            result = add(result, load_run(after.residual, (i, j, q), COLUMNS, border.outputs))
        store_run(dx, (i, j, q), result, border.outputs)
        if len(after.of) > 0:
            result = load_run(dx, (i, j, q), COLUMNS, border.outputs)  # as it is, but for pixels that do not exist: 0
            deviations = add(load_run(after.of, (i, j, q), COLUMNS, border.outputs), load(after.minus_mean, q, n))
            store(after.sums, (0, q), add(load(after.sums, (0, q), n), total(result)), n)
            store(after.sums, (1, q), add(load(after.sums, (1, q), n), total(multiply(result, deviations))), n)

    @forceinline
    def row(read, i, dy, corner, w, dx, dw, after):
        line, left = corner
        columns, c = dx.shape[1:]
        vector = lanes(dx.dtype)
        for j in range(0, columns, COLUMNS):
            under = line, j - left
            whole = j >= left and j - left + COLUMNS + size - 1 <= dy.shape[1] and j + COLUMNS <= columns
            for q in range(0, c, vector):
                n = min(vector, c - q)
                if whole and n == vector:
                    tile(read, dy, under, w, dx, dw, after, (i, j, q, n), Border(None, None, None))
                else:
                    pixels = Inside(left - j, dy.shape[1] + left - j, n)
                    border = Border(pixels, Inside(0, size, n), Inside(0, columns - j, n))
                    tile(read, dy, under, w, dx, dw, after, (i, j, q, n), border)

    @inline
    def run(read, i, dy, corner, w, dx, dw, after):
        """Row i of dx (h, w, c), and what this row of x adds to dw; dy: of one image; w and dw: rotated by 180 degrees.

        corner: the row of dy that lies under the first row of w, and columns of padding to the left of dy.
        """
        dy, w, dx, dw = borrowed(dy), borrowed(w), borrowed(dx), borrowed(dw)
        read = Read(borrowed(read.x), read.incoming, read.gated)
        after = After(borrowed(after.residual), borrowed(after.of), borrowed(after.minus_mean), borrowed(after.sums))
        row(read, i, dy, corner, w, dx, dw, after)

    return run


_both_3, _both_5 = _tiles(3), _tiles(5)

BOTH_GRADIENTS = {3: _both_3, 5: _both_5}  # by the size of the kernel
