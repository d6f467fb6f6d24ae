"""2. CPU: convolution in plain Numba loops, and as matrix products without an im2col array."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.gemm import TASKS, pack_panel, panel_width, strip, strip_sum
from ...cpu.jit import loops, parallel, prange
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
# In NHWC the kw * ci numbers under one row of the window are neighbours in memory, and the window of the next output
# pixel starts stride * ci numbers further on. So one output row is a matrix product whose A is x itself, read with
# overlapping rows: no im2col copy is made. kh of these products, one per row of the window, add up in y:
#
#     y[n,i] (wo, co)  =  sum over a of  x[n, i*s+a] (wo windows, kw*ci)  w[a] (kw*ci, co)
#
# For the tile they are the kh segments of one long row of A, and the sums stay in registers for all of them. With
# groups only the ci/G channels of one group are neighbours, and each column of taps is a product of its own ("run").
# The tile and the packed panels are those of cpu/gemm.py; a task is one output row, or a part of its columns.


@parallel
def pack_kernel(w, packed, groups, width):
    """packed[group, panel, a] is a panel of depth kw * ci: row (b, c) holds w[a, b, c, columns of the panel].

    With groups it is packed[group, panel, b, a], of depth ci.
    """
    kh, kw, ci, co = w.shape
    per_group = co // groups
    panels = (per_group + width - 1) // width
    ws = w.reshape(-1)
    runs = 1 if groups == 1 else kw
    depth = kw * ci // runs
    for block in prange(groups * panels * runs * kh):
        group, panel = block // (panels * runs * kh), block // (runs * kh) % panels
        run, a = block // kh % runs, block % kh
        column = panel * width
        pack_panel(
            ws, (a * kw * ci + run * depth) * co + group * per_group + column, co, 1, depth,
            min(width, per_group - column), width, packed, block * depth * width,
        )  # fmt: skip


@parallel
def convolve(xp, packed, y, kh, kw, ci, stride, groups, width, residual, add_residual, bias, add_bias, relu):
    """y = f(convolution + residual + bias), with the epilogue of cpu/gemm.py; f is ReLU or nothing."""
    n, hp, wp, channels = xp.shape
    _, ho, wo, co = y.shape
    per_group = co // groups
    panels = (per_group + width - 1) // width
    runs = 1 if groups == 1 else kw
    depth = kw * ci // runs
    xs, ys, residuals = xp.reshape(-1), y.reshape(-1), residual.reshape(-1)
    blocks = groups * panels
    parts = min(blocks, max(1, TASKS // (n * ho)))  # of the columns: more than one where there are few rows
    for task in prange(n * ho * parts):
        row, part = task // parts, task % parts
        top_row = row // ho * hp + row % ho * stride
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            group, column = block // panels, block % panels * width
            for run in range(runs):
                first, last = run == 0, run == runs - 1
                panel = (block * runs + run) * kh * depth * width
                strip(
                    xs, top_row * wp * channels + run * channels + group * ci, stride * channels, 1, wo,
                    packed, panel, depth, kh, wp * channels,
                    ys, row * wo * co + group * per_group + column, co, min(width, per_group - column),
                    residuals if first else ys, add_residual or not first,
                    bias, group * per_group + column, add_bias and first, relu and last,
                    packed, panel + kh * depth * width,
                )  # fmt: skip


# dx with stride 1 is a convolution itself: of dy with the kernel turned by half a turn, its input and output channels
# exchanged. With a stride, input row u collects from every output row i and kernel row a with i*s + a - p = u. For one
# tap the pixels of that row which receive something lie stride apart, each exactly once, so a product (wo, co) (co, ci)
# can add straight into dx with rows of C stride * ci apart. Clipping the range of j keeps it inside of the image.


@parallel
def _pack_transposed(w, packed, groups, width):
    # packed[group, panel, a, b] is a panel of depth co/G: row o holds w[a, b, columns of the panel, o]
    kh, kw, ci, co = w.shape
    depth = co // groups
    panels = (ci + width - 1) // width
    ws = w.reshape(-1)
    for block in prange(groups * panels * kh * kw):
        tap, group, panel = block % (kh * kw), block // (panels * kh * kw), block // (kh * kw) % panels
        column = panel * width
        pack_panel(
            ws, (tap * ci + column) * co + group * depth, 1, co, depth, min(width, ci - column), width,
            packed, block * depth * width,
        )  # fmt: skip


@parallel
def _backward_input_strided(dy, packed, dx, kh, kw, ci, stride, top, left, groups, width):
    n, h, wd, channels = dx.shape
    _, ho, wo, co = dy.shape
    depth = co // groups
    panels = (ci + width - 1) // width
    dys, dxs = dy.reshape(-1), dx.reshape(-1)
    for task in prange(n * h):
        m, u = task // h, task % h + top
        dxs[task * wd * channels : (task + 1) * wd * channels] = 0
        for block in range(groups * panels):
            group, column = block // panels, block % panels * width
            for a in range(max(u % stride, u - stride * (ho - 1)), min(kh, u + 1), stride):
                i = (u - a) // stride
                for b in range(kw):
                    j0 = max(0, (left - b + stride - 1) // stride)
                    j1 = min(wo, (wd + left - b + stride - 1) // stride)
                    pixel = task * wd + j0 * stride + b - left
                    strip_sum(
                        dys, ((m * ho + i) * wo + j0) * co + group * depth, co, 1, j1 - j0,
                        packed, ((block * kh + a) * kw + b) * depth * width, depth,
                        dxs, pixel * channels + group * ci + column, stride * channels, min(width, ci - column), True,
                        packed, ((block * kh + a) * kw + b + 1) * depth * width,
                    )  # fmt: skip


# dw: for kernel row a the product (kw*ci, wo) (wo, co), summed over all output rows. A is x again, read as its
# transpose. A task takes a part of the output rows and a panel of columns: it packs a row of dy, which stays in L1 for
# all kh products, and sums in its own copy of dw. The copies are added at the end, in a fixed order.

_PARTS = 16  # copies of dw, at most


@parallel
def _backward_weights(xp, dy, packed, partial, stride, groups, width):
    n, hp, wp, channels = xp.shape
    _, ho, wo, co = dy.shape
    parts, kh, kw, ci, _ = partial.shape
    per_group = co // groups
    panels = (per_group + width - 1) // width
    blocks = groups * panels
    runs = 1 if groups == 1 else kw
    height = kw * ci // runs  # rows of dw that one run reads as neighbours
    xs, dys, partials = xp.reshape(-1), dy.reshape(-1), partial.reshape(-1)
    for task in prange(parts * blocks):
        part, block = task // blocks, task % blocks
        group, column = block // panels, block % panels * width
        columns, here = min(width, per_group - column), task * wo * width
        first = part * n * ho // parts
        for row in range(first, (part + 1) * n * ho // parts):
            dy_row = row * wo * co + group * per_group + column
            pack_panel(dys, dy_row, co, 1, wo, columns, width, packed, here)
            for a in range(kh):
                x_row = row // ho * hp + row % ho * stride + a
                for run in range(runs):
                    strip_sum(
                        xs, x_row * wp * channels + run * channels + group * ci, 1, stride * channels, height,
                        packed, here, wo,
                        partials, ((part * kh + a) * runs + run) * height * co + group * per_group + column, co,
                        columns, row > first, dys, dy_row + wo * co,
                    )  # fmt: skip


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


def _product(xp: np.ndarray, w: np.ndarray, y: np.ndarray, stride: int, groups: int) -> None:
    kh, kw, ci, co = w.shape
    width = panel_width(w.dtype)
    packed = memory.empty((_panels(co // groups, width) * groups * kh * kw * ci * width,), w.dtype)
    pack_kernel(w, packed, groups, width)
    convolve(xp, packed, y, kh, kw, ci, stride, groups, width, y, False, y.reshape(-1), False, False)


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
    packed = memory.empty((_panels(ci, width) * groups * kh * kw * (co // groups) * width,), w.dtype)
    _pack_transposed(w, packed, groups, width)
    _backward_input_strided(dy, packed, dx, kh, kw, ci, stride, top, left, groups, width)
    return dx


def _weight_gradient(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, groups: int
) -> np.ndarray:
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    xp = pad(x, top, left, dy.shape, w.shape, stride)
    n, ho, wo, co = dy.shape
    k, rows, width = n * ho * wo, w.size // co, panel_width(w.dtype)
    parts = max(1, min(_PARTS, n * ho, k * (rows + co) // (4 * w.size)))  # as long as the copies are the smaller thing
    packed = memory.empty((parts * groups * _panels(co // groups, width) * wo * width,), w.dtype)
    partial = memory.empty((parts, *w.shape), w.dtype)
    _backward_weights(xp, dy, packed, partial, stride, groups, width)
    return partial.sum(axis=0)


def _panels(columns: int, width: int) -> int:
    return -(-columns // width)
