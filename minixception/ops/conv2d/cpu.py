"""2. CPU: convolution in plain Numba loops, and as matrix products without an im2col array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...cpu import memory
from ...cpu.elementwise import added
from ...cpu.gemm import TASKS, Epilogue, pack_panel, panel_width, strip, sums_only
from ...cpu.jit import forceinline, loops, parallel, prange
from ...cpu.simd import lanes
from ...engine.op import Shape
from ..depthwise import cpu as depthwise
from ..window import Padding, extents
from . import segment_weights, segments

# Loops: the formula, one scalar at a time ---------------------------------------------------------------------------


@loops
def _forward_loops(x, w, y, stride, top, left):
    n, h, wd, _ = x.shape
    kh, kw, ci, co = w.shape
    per_group = co * ci // x.shape[3]  # output channels of one group
    for m in range(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for o in range(co):
                    first = o // per_group * ci
                    total = x.dtype.type(0)
                    for a in range(kh):
                        for b in range(kw):
                            u, v = i * stride + a - top, j * stride + b - left
                            if 0 <= u < h and 0 <= v < wd:
                                for c in range(ci):
                                    total += x[m, u, v, first + c] * w[a, b, c, o]
                    y[m, i, j, o] = total


@loops
def _backward_loops(dy, x, w, dx, dw, stride, top, left):
    n, h, wd, _ = x.shape
    kh, kw, ci, co = w.shape
    per_group = co * ci // x.shape[3]
    for m in range(n):
        for i in range(dy.shape[1]):
            for j in range(dy.shape[2]):
                for a in range(kh):
                    for b in range(kw):
                        u, v = i * stride + a - top, j * stride + b - left
                        if 0 <= u < h and 0 <= v < wd:
                            for o in range(co):
                                first = o // per_group * ci
                                for c in range(ci):
                                    dx[m, u, v, first + c] += dy[m, i, j, o] * w[a, b, c, o]
                                    dw[a, b, c, o] += dy[m, i, j, o] * x[m, u, v, first + c]


def forward_loops(
    x: np.ndarray, w: np.ndarray, *, stride: int, padding: Padding, groups: int
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The formula of the definition as loops."""
    (ho, top), (wo, left) = extents(x.shape, w.shape, stride, padding)
    y = memory.empty((x.shape[0], ho, wo, w.shape[3]), x.dtype)
    _forward_loops(x, w, y, stride, top, left)
    return y, (x, w, stride, padding, groups)


def backward_loops(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same loops, sending dy back to the input and to the kernel."""
    x, w, stride, padding, _ = saved
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    _backward_loops(dy, x, w, dx, dw, stride, top, left)
    return dx, dw


# Fast ---------------------------------------------------------------------------------------------------------------
# In NHWC the kw * ci elements under one row of the window are neighbours in memory, and the window of the next output
# pixel starts stride * ci elements further on. So one output row is a matrix product whose A is x itself, read with
# overlapping rows: no im2col copy is made. kh of these products, one per row of the window, add up in y:
#
#     y[n,i] (wo, co)  =  sum over a of  x[n, i*s+a] (wo windows, kw*ci)  w[a] (kw*ci, co)
#
# For the tile they are kh parts of one long row of A, and the sums stay in registers for all of them. With groups only
# the ci/G channels of one group are neighbours, and each tap is a part of its own. The tile and the packed panels are
# those of cpu/gemm.py; a task is one output row, or a strip or some columns of it.


@forceinline
def _windows(x, outputs, kernel, groups, stride):
    """x (n, hp, wp, c) seen as (n, ho, groups, wo, lines, taps, depth): for each output pixel what its window reads.

    outputs: (ho, wo); kernel: (kh, kw). No element is copied: neighbouring windows overlap, so that most elements are
    seen several times. Without groups the taps of a line lie next to each other and count as one.
    """
    (n, hp, wp, c), (ho, wo), (kh, kw) = x.shape, outputs, kernel
    pixel = c * x.itemsize
    row = wp * pixel
    taps, depth = (1, kw * c) if groups == 1 else (kw, c // groups)
    strides = hp * row, stride * row, pixel // groups, stride * pixel, row, pixel, x.itemsize
    return as_strided(x, (n, ho, groups, wo, kh, taps, depth), strides)


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


@parallel
def convolve(xp, packed, y, kernel, stride, rows, epilogue, pixels):
    """y = f(convolution + residual + bias), with the epilogue of cpu/gemm.py; a task's strip: ``pixels`` of a row.

    rows: (first, end) of those of xp that are not padding. Lines of the window that lie in the others are left out: of
    a 3x3 window on 28 rows they are 2 %, on 8 rows 8 %.
    """
    groups, panels, k, width = packed.shape
    line = k // kernel[0]
    n, ho, wo, co = y.shape
    windows = _windows(xp, (ho, wo), kernel, groups, stride)
    flat, size = packed.reshape(-1), k * width
    blocks = groups * panels
    strips = (wo + pixels - 1) // pixels
    parts = min(blocks, max(1, TASKS // (n * ho * strips)))  # of the columns: more than one where there are few strips
    for task in prange(n * ho * strips * parts):
        row, place, part = task // parts // strips, task // parts % strips, task % parts
        m, i, strip_of_row = row // ho, row % ho, slice(place * pixels, min(wo, (place + 1) * pixels))
        first = min(max(0, rows[0] - i * stride), kernel[0] - 1)  # a window that sees padding alone keeps a line of it
        end = max(first + 1, min(kernel[0], rows[1] - i * stride))
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            group, panel = block // panels, block % panels
            columns = _columns(group, panel, co // groups, width)
            target, residual = y[m, i, strip_of_row, columns], epilogue.residual[m, i, strip_of_row, columns]
            after = Epilogue(residual, epilogue.add_residual, epilogue.bias[columns], epilogue.relu)
            ahead = flat[(block + 1) * size : (block + 2) * size]
            panel_of_lines = packed[group, panel, first * line : end * line]
            strip(windows[m, i, group, strip_of_row, first:end], panel_of_lines, target, after, ahead)


# dx with stride 1 is a convolution itself: of dy with the kernel rotated by 180 degrees, its input and output channels
# exchanged. With a stride, or where windows see padding alone, input row u collects from every output row i and kernel
# row a with i*s + a - p = u. For one tap the pixels of that row which receive something lie stride apart, each exactly
# once, so a product (wo, co) (co, ci) can add straight into dx, of which it sees every stride-th pixel. Clipping the
# range of j keeps it inside of dx.


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
                    j0 = max(0, (left - b + stride - 1) // stride)
                    j1 = min(wo, (wd + left - b + stride - 1) // stride)
                    if j0 < j1:
                        first, last = j0 * stride + b - left, (j1 - 1) * stride + b - left
                        then = ((block * kh + a) * kw + b + 1) * depth * width
                        ahead = flat[then : then + depth * width]
                        gradients = dy[m, i, j0:j1, None, None, group * depth : (group + 1) * depth]
                        target = row[first : last + 1 : stride, columns]
                        strip(gradients, packed[group, panel, a, b], target, sums_only(target, True), ahead)


# dw: for kernel row a the product (kw*ci, pixels) (pixels, co), summed over all output pixels. A is x again, read as
# its transpose. A task takes a part of the output rows and a panel of columns: it packs a few rows of dy, which stay in
# L1 for all kh products, and sums in its own copy of dw. The copies are added at the end, in a fixed order.

_PARTS = 16  # copies of dw, at most
_PIXELS = 128  # of dy that are packed together, about: a sum of dw comes to the registers once for all of them


@parallel
def _backward_weights(xp, dy, packed, partial, kernel, stride, groups):
    n, ho, wo, co = dy.shape
    parts, tasks, width = len(partial), len(packed), packed.shape[2]
    blocks = tasks // parts
    panels = blocks // groups
    windows = _windows(xp, (ho, wo), kernel, groups, stride)
    lines, taps, depth = windows.shape[4:]
    at_once = packed.shape[1] // wo
    flat, pixels_of_dy = dy.reshape(-1), dy.reshape(n * ho * wo, co)
    for task in prange(tasks):
        part, block = task // blocks, task % blocks
        group, panel = block // panels, block % panels
        columns = _columns(group, panel, co // groups, width)
        begin, end = part * n * ho // parts, (part + 1) * n * ho // parts
        row = begin
        while row < end:
            m, i = row // ho, row % ho
            rows = min(at_once, end - row, ho - i)  # of one image
            gradients = packed[task, : rows * wo]
            pack_panel(pixels_of_dy[row * wo : (row + rows) * wo, columns], gradients)
            then = (row + rows) * wo * co + columns.start
            ahead = flat[then : then + wo * width]
            for a in range(lines):
                for tap in range(taps):
                    pixels = windows[m, i : i + rows, group, :, a, tap].transpose(2, 0, 1)  # (depth, rows, wo)
                    first = (a * taps + tap) * depth
                    target = partial[part, first : first + depth, columns]
                    strip(pixels[:, None], gradients, target, sums_only(target, row > begin), ahead)
            row += rows


def forward_cpu(
    x: np.ndarray, w: np.ndarray, *, stride: int, padding: Padding, groups: int
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """A matrix product per output row and segment, straight from the (padded) input; narrow segments side by side."""
    (ho, top), (wo, left) = extents(x.shape, w.shape, stride, padding)
    saved = x, w, stride, padding, groups
    if _is_depthwise(w, groups):
        return depthwise.filter_images(x, w[:, :, 0], stride, padding, None), saved
    y = memory.empty((x.shape[0], ho, wo, w.shape[3]), x.dtype)
    if segments.suits(w.shape, stride, groups, w.dtype):
        widths = w.shape[2], w.shape[3] // groups
        segments.convolve(x, segments.pack(w, groups), y, sums_only(y, False), stride, (top, left), widths)
    else:
        _product(pad(x, top, left, y.shape, w.shape, stride), w, y, stride, groups, (top, top + x.shape[1]))
    return y, saved


def _is_depthwise(w: np.ndarray, groups: int) -> bool:
    """A segment for each channel, with one output: the other operator."""
    return w.shape[2] == 1 and w.shape[3] == groups


def pad(x: np.ndarray, top: int, left: int, y: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> np.ndarray:
    """x with the border of zeros that the windows of y need; x itself if they need none."""
    n, h, w, c = x.shape
    hp, wp = ((size - 1) * stride + k for size, k in zip(y[1:3], kernel[:2], strict=True))
    if top == left == 0 and hp <= h and wp <= w:
        return x
    xp = memory.empty((n, max(hp, top + h), max(wp, left + w), c), x.dtype)
    _frame(x, top, left, xp)
    return xp


@parallel
def _frame(x, top, left, xp):
    n, h, w, _ = x.shape
    lines = xp.shape[1]
    for task in prange(n * lines):
        m, u = task // lines, task % lines - top
        row = xp[m, u + top]
        if 0 <= u < h:
            row[:left] = 0
            row[left : left + w] = x[m, u]
            row[left + w :] = 0
        else:
            row[:] = 0


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


def _product(xp: np.ndarray, w: np.ndarray, y: np.ndarray, stride: int, groups: int, rows: tuple[int, int]) -> None:
    packed = memory.empty(packed_shape(w.shape, groups, w.dtype), w.dtype)
    pack_kernel(w, packed)
    convolve(xp, packed, y, w.shape[:2], stride, rows, sums_only(y, False), y.shape[2])


def backward_cpu(
    dy: np.ndarray, saved: tuple[Any, ...], wanted: tuple[bool, bool] = (True, True)
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """dx is a convolution of dy, or one product per tap; dw is made of products of transposed windows with dy."""
    return (
        _input_gradient(dy, *saved) if wanted[0] else None,
        _weight_gradient(dy, *saved) if wanted[1] else None,
    )


def _input_gradient(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, groups: int
) -> np.ndarray:
    kh, kw, ci, co = w.shape
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    if _is_depthwise(w, groups):
        return depthwise.input_gradient(dy, x, w[:, :, 0], stride, padding, None, relu=False)
    dx = memory.empty(x.shape, x.dtype)
    if segments.suits(w.shape, stride, groups, w.dtype):
        segments.input_gradient(dy, w, dx, stride, (top, left), groups)
        return dx
    if stride == 1 and top < kh and left < kw:  # with more padding some of dy is not wanted, and nothing is framed
        turned = np.ascontiguousarray(segments.exchanged(w, groups)[::-1, ::-1])
        above = kh - 1 - top
        framed = pad(dy, above, kw - 1 - left, dx.shape, w.shape, 1)
        _product(framed, turned, dx, 1, groups, (above, above + dy.shape[1]))
        return dx
    panels, width = _panels(ci, w.dtype)
    packed = memory.empty((groups, panels, kh, kw, co // groups, width), w.dtype)
    _pack_transposed(w, packed)
    _backward_input_strided(dy, packed, dx, stride, top, left)
    return dx


def _weight_gradient(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, groups: int
) -> np.ndarray:
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    if _is_depthwise(w, groups):
        return depthwise.weight_gradient(dy, x, w[:, :, 0].shape, stride, padding, None).reshape(w.shape)
    if segment_weights.suits_weights(w.shape, stride, groups, w.dtype):
        return segment_weights.weight_gradient(dy, x, w, stride, (top, left), groups)
    xp = pad(x, top, left, dy.shape, w.shape, stride)
    n, ho, wo, co = dy.shape
    k, rows = n * ho * wo, w.size // co
    parts = max(1, min(_PARTS, n * ho, k * (rows + co) // (4 * w.size)))  # as long as the copies are the smaller thing
    panels, width = _panels(co // groups, w.dtype)
    packed = memory.empty((parts * groups * panels, max(1, _PIXELS // wo) * wo, width), w.dtype)
    partial = memory.empty((parts, rows, co), w.dtype)
    _backward_weights(xp, dy, packed, partial, w.shape[:2], stride, groups)
    return added(partial).reshape(w.shape)
