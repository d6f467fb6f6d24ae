"""2. CPU: convolution in plain Numba loops, and as matrix products without an im2col array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...cpu import memory
from ...cpu.gemm import TASKS, Epilogue, pack_panel, panel_width, strip, sums_only
from ...cpu.jit import forceinline, loops, parallel, prange
from ...engine.op import Shape
from ..window import Padding, extents

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
# For the tile they are the kh segments of one long row of A, and the sums stay in registers for all of them. With
# groups only the ci/G channels of one group are neighbours, and each column of taps is a product of its own ("run").
# The tile and the packed panels are those of cpu/gemm.py; a task is one output row, or a strip or some columns of it.


@forceinline
def _windows(x, ho, wo, kh, depth, groups, runs, stride):
    """x (n, hp, wp, c) seen as (n, ho, groups, runs, wo, kh, depth): for each output pixel what its window reads.

    No element is copied: neighbouring windows overlap, so that most elements are seen several times.
    """
    n, hp, wp, c = x.shape
    pixel = c * x.itemsize
    row = wp * pixel
    shape = (n, ho, groups, runs, wo, kh, depth)
    return as_strided(x, shape, (hp * row, stride * row, pixel // groups, pixel, stride * pixel, row, x.itemsize))


@parallel
def pack_kernel(w, packed):
    """packed[group, panel, run, a] is a panel of w[a]: columns of that group, taps of that run (``packed_shape``)."""
    kh, kw, ci, co = w.shape
    groups, panels, runs, _, depth, width = packed.shape
    rows = w.reshape(kh, kw * ci, co)
    for block in prange(groups * panels * runs * kh):
        group, panel = block // (panels * runs * kh), block // (runs * kh) % panels
        run, a = block // kh % runs, block % kh
        columns = _columns(group, panel, co // groups, width)
        pack_panel(rows[a, run * depth : (run + 1) * depth, columns], packed[group, panel, run, a])


@forceinline
def _columns(group, panel, per_group, width):
    """The channels that a panel holds, of ``per_group`` in its group; the last panel of a group may be narrower."""
    first = group * per_group + panel * width
    return slice(first, min(first + width, (group + 1) * per_group))


@parallel
def convolve(xp, packed, y, stride, epilogue, pixels):
    """y = f(convolution + residual + bias), with the epilogue of cpu/gemm.py; a task's strip: ``pixels`` of a row."""
    groups, panels, runs, kh, depth, width = packed.shape
    n, ho, wo, co = y.shape
    windows = _windows(xp, ho, wo, kh, depth, groups, runs, stride)
    flat, size = packed.reshape(-1), kh * depth * width
    blocks = groups * panels
    strips = (wo + pixels - 1) // pixels
    parts = min(blocks, max(1, TASKS // (n * ho * strips)))  # of the columns: more than one where there are few strips
    for task in prange(n * ho * strips * parts):
        row, place, part = task // parts // strips, task // parts % strips, task % parts
        m, i, strip_of_row = row // ho, row % ho, slice(place * pixels, min(wo, (place + 1) * pixels))
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            group, panel = block // panels, block % panels
            columns = _columns(group, panel, co // groups, width)
            target, residual = y[m, i, strip_of_row, columns], epilogue.residual[m, i, strip_of_row, columns]
            bias = epilogue.bias[columns]
            for run in range(runs):
                last = run == runs - 1
                if run == 0:
                    after = Epilogue(residual, epilogue.add_residual, bias, epilogue.relu and last)
                else:
                    after = Epilogue(target, True, bias[:0], epilogue.relu and last)
                then = (block * runs + run + 1) * size
                ahead = flat[then : then + size]
                strip(windows[m, i, group, run, strip_of_row], packed[group, panel, run], target, after, ahead)


# dx with stride 1 is a convolution itself: of dy with the kernel rotated by 180 degrees, its input and output channels
# exchanged. With a stride, input row u collects from every output row i and kernel row a with i*s + a - p = u. For one
# tap the pixels of that row which receive something lie stride apart, each exactly once, so a product (wo, co) (co, ci)
# can add straight into dx, of which it sees every stride-th pixel. Clipping the range of j keeps it inside of dx.


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
                        gradients = dy[m, i, j0:j1, None, group * depth : (group + 1) * depth]
                        target = row[first : last + 1 : stride, columns]
                        strip(gradients, packed[group, panel, a, b : b + 1], target, sums_only(target, True), ahead)


# dw: for kernel row a the product (kw*ci, wo) (wo, co), summed over all output rows. A is x again, read as its
# transpose. A task takes a part of the output rows and a panel of columns: it packs a row of dy, which stays in L1 for
# all kh products, and sums in its own copy of dw. The copies are added at the end, in a fixed order.

_PARTS = 16  # copies of dw, at most


@parallel
def _backward_weights(xp, dy, packed, partial, stride, groups):
    n, ho, wo, co = dy.shape
    parts, kh, runs, depth, _ = partial.shape  # of dw one run of taps at a time: those that lie next to each other in x
    tasks, _, _, width = packed.shape
    blocks = tasks // parts
    panels = blocks // groups
    windows = _windows(xp, ho, wo, kh, depth, groups, runs, stride)
    flat = dy.reshape(-1)
    for task in prange(tasks):
        part, block = task // blocks, task % blocks
        group, panel = block // panels, block % panels
        columns = _columns(group, panel, co // groups, width)
        first = part * n * ho // parts
        for row in range(first, (part + 1) * n * ho // parts):
            m, i = row // ho, row % ho
            pack_panel(dy[m, i, :, columns], packed[task, 0])
            then = (row + 1) * wo * co + columns.start
            ahead = flat[then : then + wo * width]
            for a in range(kh):
                for run in range(runs):
                    pixels = windows[m, i, group, run, :, a].T  # (depth, wo)
                    target = partial[part, a, run, :, columns]
                    strip(pixels[:, None], packed[task], target, sums_only(target, row > first), ahead)


def forward_cpu(
    x: np.ndarray, w: np.ndarray, *, stride: int, padding: Padding, groups: int
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """kh matrix products per output row, straight from the (padded) input."""
    (ho, top), (wo, left) = extents(x.shape, w.shape, stride, padding)
    y = memory.empty((x.shape[0], ho, wo, w.shape[3]), x.dtype)
    _product(pad(x, top, left, y.shape, w.shape, stride), w, y, stride, groups)
    return y, (x, w, stride, padding, groups)


def pad(x: np.ndarray, top: int, left: int, y: tuple[int, ...], kernel: tuple[int, ...], stride: int) -> np.ndarray:
    """x with the border of zeros that the windows of y need; x itself if they need none."""
    n, h, w, c = x.shape
    hp, wp = ((size - 1) * stride + k for size, k in zip(y[1:3], kernel[:2], strict=True))
    if top == left == 0 and hp <= h and wp <= w:
        return x
    xp = memory.empty((n, max(hp, top + h), max(wp, left + w), c), x.dtype)
    inside = xp[:, top : top + h]
    inside[:, :, left : left + w] = x
    for border in (xp[:, :top], xp[:, top + h :], inside[:, :, :left], inside[:, :, left + w :]):
        border[...] = 0
    return xp


def packed_shape(w: Shape, groups: int, dtype: np.dtype) -> Shape:
    """(groups, panels, runs, kh, depth, width): a kernel w (kh, kw, ci, co) as panels of its columns, row by row.

    A run is what lies next to each other under one row of the window: all its taps, or with groups one tap at a time.

    >>> packed_shape((3, 3, 4, 16), 2, np.dtype(np.float32))[:5]
    (2, 1, 3, 3, 4)
    """
    kh, kw, ci, co = w
    width, runs = panel_width(dtype), 1 if groups == 1 else kw
    return (groups, -(-(co // groups) // width), runs, kh, kw * ci // runs, width)


def no_epilogue(y: np.ndarray) -> Epilogue:
    """The sums go to y as they are."""
    return Epilogue(y, False, np.empty(0, y.dtype), False)


def _product(xp: np.ndarray, w: np.ndarray, y: np.ndarray, stride: int, groups: int) -> None:
    packed = memory.empty(packed_shape(w.shape, groups, w.dtype), w.dtype)
    pack_kernel(w, packed)
    convolve(xp, packed, y, stride, no_epilogue(y), y.shape[2])


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
    dx = memory.empty(x.shape, x.dtype)
    if stride == 1:
        exchanged = w[::-1, ::-1].reshape(kh, kw, ci, groups, co // groups).transpose(0, 1, 4, 3, 2)
        turned = np.ascontiguousarray(exchanged).reshape(kh, kw, co // groups, groups * ci)
        _product(pad(dy, kh - 1 - top, kw - 1 - left, dx.shape, w.shape, 1), turned, dx, 1, groups)
        return dx
    width = panel_width(w.dtype)
    packed = memory.empty((groups, -(-ci // width), kh, kw, co // groups, width), w.dtype)
    _pack_transposed(w, packed)
    _backward_input_strided(dy, packed, dx, stride, top, left)
    return dx


def _weight_gradient(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, groups: int
) -> np.ndarray:
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    xp = pad(x, top, left, dy.shape, w.shape, stride)
    n, ho, wo, co = dy.shape
    k, rows = n * ho * wo, w.size // co
    parts = max(1, min(_PARTS, n * ho, k * (rows + co) // (4 * w.size)))  # as long as the copies are the smaller thing
    _, panels, runs, kh, depth, width = packed_shape(w.shape, groups, w.dtype)
    packed = memory.empty((parts * groups * panels, 1, wo, width), w.dtype)
    partial = memory.empty((parts, kh, runs, depth, co), w.dtype)
    _backward_weights(xp, dy, packed, partial, stride, groups)
    return partial.sum(axis=0).reshape(w.shape)
