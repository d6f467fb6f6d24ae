"""Depthwise convolution, the gradient of the kernel: every tap meets every output once.

    dw[a, b] = sum over i, j of f(x[i * stride + a - top, j * stride + b - left]) * dy[i, j]      (channel by channel)

Seen from one row of the kernel this is a convolution as well: a row of x is filtered by a row of dy, and neighbouring
outputs dw[a, b] and dw[a, b + 1] are one pixel of x apart, neighbouring "taps" dy[i, j] and dy[i, j + 1] stride pixels.
So ``fma_rows`` serves here too, with the two distances exchanged.

The sums of three rows of the kernel stay in registers along a whole row of dy. dy is taken four pixels at a time, and
each pixel of x that lies under them is loaded once for each row of the kernel and multiplied into all sums that it
touches: 3x3 takes 9 sums, 4 pixels of dy, one of x and what f needs, and feeds 36 fused multiply-adds from 22 loads.
The rows below are asked for meanwhile, as in the forward pass.
"""

from __future__ import annotations

from .depthwise_forward import Border
from .jit import forceinline, inline, pasted
from .simd import (
    Inside,
    arrived,
    borrowed,
    fma,
    fma_rows,
    lanes,
    load,
    load_run,
    opaque,
    prefetch_run,
    store,
    store_run,
    vectors_of,
)

_PIXELS = 4  # of dy at a time
_LINES = 3  # rows of the kernel whose sums are in registers at the same time


def _tiles(size, stride):
    """What one row of dy adds to dw, for a square kernel and a stride known at compile time."""
    pixels = (_PIXELS - 1) * stride + size  # of x, under _PIXELS of dy
    ahead = _PIXELS * stride
    spacing = (1, stride)

    @pasted
    def tile(sums, x, line, column, how, dy, j, q, lines, border):
        """What dy[j : j + 4] adds to the sums of up to three rows of the kernel; x[line, column] is under the first."""
        for u in range(stride):
            prefetch_run(x, (line + lines + u, column, q), ahead, False)
        prefetch_run(dy, (dy.shape[0] + j, q), _PIXELS, False)  # the next row of dy begins where this one ends
        first, second, third = sums
        gradients = (load_run(dy, (j, q), _PIXELS, border.outputs),)
        (first,) = fma_rows((first,), x, (line, column, q), gradients, spacing, how, border.pixels)
        if lines > 1:
            (second,) = fma_rows((second,), x, (line + 1, column, q), gradients, spacing, how, border.pixels)
        if lines > 2:
            (third,) = fma_rows((third,), x, (line + 2, column, q), gradients, spacing, how, border.pixels)
        return first, second, third

    @forceinline
    def three_rows(x, line, left, incoming, dy, dw, a, lines, q):
        """Rows a, a + 1 and a + 2 of dw, of which there are ``lines``, and one vector of channels, along all of dy."""
        columns, c = dy.shape
        vector = lanes(dw.dtype)
        n = min(vector, c - q)
        how = vectors_of(incoming, x, q, n)
        taps = Inside(0, size, n)
        b, d = min(a + 1, a + lines - 1), min(a + 2, a + lines - 1)  # a row that is not there is loaded and not stored
        sums = (
            load_run(dw, (a, 0, q), size, taps),
            load_run(dw, (b, 0, q), size, taps),
            load_run(dw, (d, 0, q), size, taps),
        )
        for count in range(0, columns, _PIXELS):
            j = opaque(count)
            v = j * stride - left
            if v >= 0 and v + pixels <= x.shape[1] and j + _PIXELS <= columns and n == vector:
                sums = tile(sums, x, line + a, v, how, dy, j, q, lines, Border(None, None, None))
            else:
                border = Border(Inside(-v, x.shape[1] - v, n), taps, Inside(0, columns - j, n))
                sums = tile(sums, x, line + a, v, how, dy, j, q, lines, border)
        store_run(dw, (a, 0, q), sums[0], taps)
        if lines > 1:
            store_run(dw, (b, 0, q), sums[1], taps)
        if lines > 2:
            store_run(dw, (d, 0, q), sums[2], taps)

    @inline
    def run(x, line, left, incoming, dy, dw):
        x, dy, dw = borrowed(x), borrowed(dy), borrowed(dw)
        last = min(size, x.shape[0] - line)
        for q in range(0, dy.shape[1], lanes(dw.dtype)):
            for a in range(max(0, -line), last, _LINES):
                three_rows(x, line, left, incoming, dy, dw, a, min(_LINES, last - a), q)

    return run


_correlate_3_1, _correlate_3_2, _correlate_5_1, _correlate_5_2 = (_tiles(size, s) for size in (3, 5) for s in (1, 2))


@pasted
def correlate_outputs(x, line, left, incoming, dy, dw, stride, window):
    """What one row dy (columns, c) adds to dw (kh, kw, c): by tiles for the usual windows, else one tap at a time.

    x (h, w, c) is the image, and its row ``line`` the one under the kernel's first, which may be in the padding; left:
    columns of padding; incoming: what f is, see ``vectors_of``. window: one of WINDOWS, a constant.
    """
    if window == "3x3":
        _correlate_3_1(x, line, left, incoming, dy, dw)
    elif window == "3x3 stride 2":
        _correlate_3_2(x, line, left, incoming, dy, dw)
    elif window == "5x5":
        _correlate_5_1(x, line, left, incoming, dy, dw)
    elif window == "5x5 stride 2":
        _correlate_5_2(x, line, left, incoming, dy, dw)
    else:
        _correlate_any(x, line, left, incoming, dy, dw, stride)


@inline
def _correlate_any(x, line, left, incoming, dy, dw, stride):
    """One tap after the other: windows of any size."""
    (h, width, c), (kh, kw, _), columns = x.shape, dw.shape, dy.shape[0]
    for a in range(max(0, -line), min(kh, h - line)):
        for b in range(kw):
            j0 = max(0, (left - b + stride - 1) // stride)
            j1 = min(columns, (width + left - b + stride - 1) // stride)
            for q in range(0, c, lanes(dw.dtype)):
                n = min(lanes(dw.dtype), c - q)
                how = vectors_of(incoming, x, q, n)
                total = load(dw, (a * kw + b) * c + q, n)
                for j in range(j0, j1):
                    (pixel,) = arrived((load(x, ((line + a) * width + j * stride + b - left) * c + q, n),), how, None)
                    total = fma(load(dy, j * c + q, n), pixel, total)
                store(dw, (a * kw + b) * c + q, total, n)
