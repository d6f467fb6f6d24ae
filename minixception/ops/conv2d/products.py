"""2a. CPU: convolution as matrix products, one for each row of outputs, without an im2col array.

In NHWC the kw * ci elements under one row of the window are neighbours in memory, and the window of the next output
pixel starts stride * ci elements further on. So one output row is a matrix product whose A is x itself, read with
overlapping rows: no im2col copy is made. kh of these products, one per row of the window, add up in y:

    y[n,i] (wo, co)  =  sum over a of  x[n, i*s+a] (wo windows, kw*ci)  w[a] (kw*ci, co)

For the tile they are kh lines of one long row of A, and the sums stay in registers for all of them. With groups only
the ci/G channels of one group are neighbours, and each tap is a part of its own. The tile and the packed panels are
those of cpu/gemm.py.

At the border a window meets fewer taps, and only those are multiplied: of a 3x3 window on 28x28 pixels 5 % lie in the
padding, on 8x8 16 %. Nor is there a copy of the image with a frame of zeros: that takes as long as the products of
several segments. So a task is a run of outputs that meet the same taps: pixels of a row, or, in the few columns at
the border, of a column; or some of their channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...cpu import memory
from ...cpu.elementwise import added
from ...cpu.gemm import TASKS, Epilogue, pack_panel, panel_width, strip, sums_only
from ...cpu.jit import forceinline, parallel, prange
from ...cpu.simd import lanes
from ...engine.op import Shape
from .segments import Pair, exchanged


def packed_shape(w: Shape, groups: int, dtype: np.dtype) -> Shape:
    """(groups, panels, kh * kw * ci, width): a kernel w (kh, kw, ci, co) as panels of its columns, row by row.

    The panels of a group are of one width, in whole vectors: 96 columns are 48 and 48, not 64 and 32.

    >>> packed_shape((3, 3, 4, 16), 2, np.dtype(np.float32))[:3]
    (2, 1, 36)
    """
    kh, kw, ci, co = w
    panels, width = _panels(co // groups, dtype)
    return (groups, panels, kh * kw * ci, width)


def _panels(columns: int, dtype: np.dtype) -> tuple[int, int]:
    """(panels, width): as few panels as there must be, all as wide as the widest."""
    panels, vectors = -(-columns // panel_width(dtype)), -(-columns // lanes(dtype))
    return panels, -(-vectors // panels) * lanes(dtype)


@parallel
def pack_kernel(w, packed):
    """packed[group, panel] is a panel of w (kh * kw * ci, co): columns of that group (``packed_shape``)."""
    groups, panels, k, width = packed.shape
    co = w.shape[3]
    rows = w.reshape(k, co)
    pieces = min(k, TASKS)
    for block in prange(groups * panels * pieces):
        group, panel, piece = block // (panels * pieces), block // pieces % panels, block % pieces
        part = slice(piece * k // pieces, (piece + 1) * k // pieces)
        pack_panel(rows[part, _columns(group, panel, co // groups, width)], packed[group, panel, part])


@forceinline
def _columns(group, panel, per_group, width):
    """The channels that a panel holds, of ``per_group`` in its group; the last panel of a group may be narrower."""
    first = group * per_group + panel * width
    return slice(first, min(first + width, (group + 1) * per_group))


class Run(NamedTuple):
    """``count`` outputs of image m, to the right of (i, j) or down from there."""

    m: Any
    i: Any
    j: Any
    count: Any
    down: Any


# What follows is for one side of the image, with pairs (first, end) of outputs or of taps; before: padding in front.


@forceinline
def _meeting(tap, outputs, size, stride, before):
    """The outputs under whose tap there is a pixel of the image."""
    first = max(0, (before - tap + stride - 1) // stride)
    return first, max(first, min(outputs, (size - 1 + before - tap) // stride + 1))


@forceinline
def _inside(taps, outputs, size, stride, before):
    """The outputs that meet all taps."""
    first, _ = _meeting(0, outputs, size, stride, before)
    _, end = _meeting(taps - 1, outputs, size, stride, before)
    return first, max(first, end)


@forceinline
def _met(output, taps, size, stride, before):
    """The taps that an output meets: none where it sees padding alone."""
    first = max(0, before - output * stride)
    return first, max(first, min(taps, size + before - output * stride))


@forceinline
def _outside(number, inside):
    """The output with this number among those that are not inside: first those before, then those behind."""
    first, end = inside
    return number if number < first else number - first + end


@forceinline
def _in_row(number, ho, columns, strips, pixels):
    """A run along a row, of the columns inside: one of ``strips``, of so many pixels or, the last one, fewer."""
    row, j = number // strips, columns[0] + number % strips * pixels
    return Run(row // ho, row % ho, j, min(pixels, columns[1] - j), False)


@forceinline
def _in_column(number, ho, wo, rows, columns):
    """A run down one of the columns at the border: the rows inside or, alone, one of the others."""
    (first, end), edges = rows, wo - columns[1] + columns[0]
    bands = 1 + ho - end + first
    m, j, band = number // bands // edges, _outside(number // bands % edges, columns), number % bands
    return Run(m, first, j, end - first, True) if band == 0 else Run(m, _outside(band - 1, rows), j, 1, True)


@forceinline
def _pixels(y, run):
    """The outputs of a run, (count, channels)."""
    first = y[run.m, run.i :, run.j :]
    row, pixel, element = first.strides
    return as_strided(first, (run.count, y.shape[3]), (row if run.down else pixel, element))


@forceinline
def _windows(x, run, lines, taps, channels, stride, corner):
    """What the windows of a run see, (count, lines, taps, depth), of x (n, h, w, c) itself: neighbours overlap.

    Taps of all channels lie next to each other and count as one.
    """
    seen = x[run.m, run.i * stride + lines[0] - corner[0] :, run.j * stride + taps[0] - corner[1] :, channels]
    (row, pixel, element), depth = seen.strides, seen.shape[2]
    merged, count = depth == x.shape[3], taps[1] - taps[0]
    shape = run.count, lines[1] - lines[0], 1 if merged else count, count * depth if merged else depth
    return as_strided(seen, shape, (stride * (row if run.down else pixel), row, pixel, element))


@forceinline
def _part(panel, lines, taps, depth):
    """These lines of a panel, and of each line these taps, of ``depth`` rows each."""
    return panel[lines[0] : lines[1], taps[0] * depth : taps[1] * depth]


@parallel
def convolve(x, packed, y, kernel, stride, corner, epilogue, pixels):
    """y = f(convolution + residual + bias), with the epilogue of cpu/gemm.py; ``pixels`` of a row at a time.

    corner: padding above and to the left.
    """
    groups, panels, k, width = packed.shape
    n, h, w, ci = x.shape
    _, ho, wo, co = y.shape
    (kh, kw), (top, left) = kernel, corner
    depth, blocks = ci // groups, groups * panels
    flat, size, by_line = packed.reshape(-1), k * width, packed.reshape(blocks, kh, k // kh, width)
    rows, columns = _inside(kh, ho, h, stride, top), _inside(kw, wo, w, stride, left)
    strips = (columns[1] - columns[0] + pixels - 1) // pixels
    along, down = n * ho * strips, n * (wo - columns[1] + columns[0]) * (1 + ho - rows[1] + rows[0])
    parts = min(blocks, max(1, TASKS // max(1, along)))  # of the channels: more than one where there are few strips
    for task in prange((along + down) * parts):
        number, part = task // parts, task % parts
        column = number * down // (along + down)  # these runs are short: among the others evenly, for equal threads
        is_down = (number + 1) * down // (along + down) > column
        run = (
            _in_column(column, ho, wo, rows, columns)
            if is_down
            else _in_row(number - column, ho, columns, strips, pixels)
        )
        lines, taps = _met(run.i, kh, h, stride, top), _met(run.j, kw, w, stride, left)
        sums, residual = _pixels(y, run), _pixels(epilogue.residual, run)
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            group, panel = block // panels, block % panels
            channels = _columns(group, panel, co // groups, width)
            windows = _windows(x, run, lines, taps, slice(group * depth, (group + 1) * depth), stride, corner)
            weights = _part(by_line[block], lines, taps, depth)
            after = Epilogue(residual[:, channels], epilogue.add_residual, epilogue.bias[channels], epilogue.relu)
            strip(windows, weights, sums[:, channels], after, flat[(block + 1) * size : (block + 2) * size])


def convolution(x: np.ndarray, w: np.ndarray, y: np.ndarray, stride: int, corner: Pair, groups: int) -> None:
    """Write y."""
    packed = memory.empty(packed_shape(w.shape, groups, w.dtype), w.dtype)
    pack_kernel(w, packed)
    convolve(x, packed, y, w.shape[:2], stride, corner, sums_only(y, False), y.shape[2])


# dx with stride 1 is a convolution itself: of dy with the kernel rotated by 180 degrees, its input and output channels
# exchanged. With a stride input row u collects from every output row i and kernel row a with i*s + a - p = u. For one
# tap the pixels of that row which receive something lie stride apart, each exactly once, so a product (wo, co) (co, ci)
# can add straight into dx, of which it sees every stride-th pixel.


@parallel
def _pack_transposed(w, packed):
    # packed[group, panel, a, b] (depth, width): row o holds w[a, b, columns of the panel, output o of the group]
    kh, kw, ci, _ = w.shape
    groups, panels, _, _, depth, width = packed.shape
    for block in prange(groups * panels * kh * kw):
        group, panel = block // (panels * kh * kw), block // (kh * kw) % panels
        a, b = block // kw % kh, block % kw
        taps = w[a, b, _columns(0, panel, ci, width), group * depth : (group + 1) * depth]
        pack_panel(taps.T, packed[group, panel, a, b])


@parallel
def _backward_input_strided(dy, packed, dx, stride, top, left):
    n, h, wd, channels = dx.shape
    groups, panels, kh, kw, depth, width = packed.shape
    _, ho, wo, _ = dy.shape
    flat = packed.reshape(-1)
    for task in prange(n * h):
        m, u = task // h, task % h + top
        row = dx[m, u - top]
        row[:] = 0
        for block in range(groups * panels):
            group, panel = block // panels, block % panels
            columns = _columns(group, panel, channels // groups, width)
            for a in range(max(u % stride, u - stride * (ho - 1)), min(kh, u + 1), stride):
                i = (u - a) // stride
                for b in range(kw):
                    j0, j1 = _meeting(b, wo, wd, stride, left)
                    if j0 < j1:
                        first, last = j0 * stride + b - left, (j1 - 1) * stride + b - left
                        then = ((block * kh + a) * kw + b + 1) * depth * width
                        ahead = flat[then : then + depth * width]
                        gradients = dy[m, i, j0:j1, None, None, group * depth : (group + 1) * depth]
                        target = row[first : last + 1 : stride, columns]
                        strip(gradients, packed[group, panel, a, b : b + 1], target, sums_only(target, True), ahead)


def input_gradient(dy: np.ndarray, w: np.ndarray, dx: np.ndarray, stride: int, corner: Pair, groups: int) -> None:
    """Write dx."""
    kh, kw, ci, co = w.shape
    top, left = corner
    if stride == 1:
        turned = np.ascontiguousarray(exchanged(w, groups)[::-1, ::-1])
        convolution(dy, turned, dx, 1, (kh - 1 - top, kw - 1 - left), groups)
    else:
        panels, width = _panels(ci, w.dtype)
        packed = memory.empty((groups, panels, kh, kw, co // groups, width), w.dtype)
        _pack_transposed(w, packed)
        _backward_input_strided(dy, packed, dx, stride, top, left)


# dw: for each tap the product (ci, pixels) (pixels, co), summed over the output pixels under whose tap there is a pixel
# of the image. A is x again, read as its transpose. A task takes a part of the output rows and a panel of columns: it
# packs a few rows of dy, which stay in L2 for all taps, and sums in its own copy of dw. The copies are added at the
# end, in a fixed order.

_PARTS = 16  # copies of dw, at most
_PIXELS = 256  # of dy that are packed together, 64 KiB: a sum of dw comes to the registers once for all of them


@forceinline
def _under_tap(image, tap, down, across, channels, stride):
    """Pixels of an image that lie under one tap of these outputs, (depth, rows, 1, columns); tap: without padding."""
    first = image[down[0] * stride + tap[0] :, across[0] * stride + tap[1] :, channels]
    row, pixel, element = first.strides
    shape = first.shape[2], down[1] - down[0], 1, across[1] - across[0]
    return as_strided(first, shape, (element, stride * row, pixel, stride * pixel))


@parallel
def _backward_weights(x, dy, packed, partial, stride, corner, groups):
    _, h, w, _ = x.shape
    n, ho, wo, co = dy.shape
    top, left = corner
    parts, kh, kw, depth, _ = partial.shape
    tasks, at_once, _, width = packed.shape
    blocks = tasks // parts
    panels = blocks // groups
    flat, pixels_of_dy = dy.reshape(-1), dy.reshape(n * ho * wo, co)
    for task in prange(tasks):
        part, block = task // blocks, task % blocks
        group, panel = block // panels, block % panels
        columns, channels = _columns(group, panel, co // groups, width), slice(group * depth, (group + 1) * depth)
        begin, end = part * n * ho // parts, (part + 1) * n * ho // parts
        row = begin
        while row < end:
            m, i = row // ho, row % ho
            rows = min(at_once, end - row, ho - i)  # of one image
            flat_panel = packed[task].reshape(at_once * wo, width)
            pack_panel(pixels_of_dy[row * wo : (row + rows) * wo, columns], flat_panel[: rows * wo])
            then = (row + rows) * wo * co + columns.start
            ahead = flat[then : then + wo * width]
            for a in range(kh):
                first, end_of_all = _meeting(a, ho, h, stride, top)
                first = max(i, first)
                down = first, max(first, min(i + rows, end_of_all))
                for b in range(kw):
                    across = _meeting(b, wo, w, stride, left)
                    pixels = _under_tap(x[m], (a - top, b - left), down, across, channels, stride)
                    gradients = _part(packed[task], (down[0] - i, down[1] - i), across, 1)
                    target = partial[part, a, b, :, columns]
                    strip(pixels, gradients, target, sums_only(target, row > begin), ahead)
            row += rows


def weight_gradient(dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, corner: Pair, groups: int) -> np.ndarray:
    """dw."""
    n, ho, wo, co = dy.shape
    k, rows = n * ho * wo, w.size // co
    parts = max(1, min(_PARTS, n * ho, k * (rows + co) // (4 * w.size)))  # as long as the copies are the smaller thing
    panels, width = _panels(co // groups, w.dtype)
    packed = memory.empty((parts * groups * panels, max(1, _PIXELS // wo), wo, width), w.dtype)
    partial = memory.empty((parts, *w.shape), w.dtype)
    _backward_weights(x, dy, packed, partial, stride, corner, groups)
    return added(partial)
