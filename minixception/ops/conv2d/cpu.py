"""2. CPU: convolution in plain Numba loops, and the choice among the fast kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.jit import loops
from ..depthwise import cpu as depthwise
from ..window import Padding, extents
from . import products, segment_weights, segments

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


def forward_cpu(
    x: np.ndarray, w: np.ndarray, *, stride: int, padding: Padding, groups: int
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """A matrix product per output row and segment, straight from the input; narrow segments side by side."""
    (ho, top), (wo, left) = extents(x.shape, w.shape, stride, padding)
    saved = x, w, stride, padding, groups
    if _is_depthwise(w, groups):
        return depthwise.filter_images(x, w[:, :, 0], stride, padding, None), saved
    y = memory.empty((x.shape[0], ho, wo, w.shape[3]), x.dtype)
    kernels = segments if segments.suits(w.shape, stride, groups, w.dtype) else products
    kernels.convolution(x, w, y, stride, (top, left), groups)
    return y, saved


def _is_depthwise(w: np.ndarray, groups: int) -> bool:
    """A segment for each channel, with one output: the other operator."""
    return w.shape[2] == 1 and w.shape[3] == groups


def backward_cpu(
    dy: np.ndarray, saved: tuple[Any, ...], wanted: tuple[bool, bool] = (True, True)
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """dx is a convolution of dy, or one product per tap; dw is made of products of x, transposed, with dy."""
    return (
        _input_gradient(dy, *saved) if wanted[0] else None,
        _weight_gradient(dy, *saved) if wanted[1] else None,
    )


def _input_gradient(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, groups: int
) -> np.ndarray:
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    if _is_depthwise(w, groups):
        return depthwise.input_gradient(dy, x, w[:, :, 0], stride, padding, None, relu=False)
    dx = memory.empty(x.shape, x.dtype)
    kernels = segments if segments.suits(w.shape, stride, groups, w.dtype) else products
    kernels.input_gradient(dy, w, dx, stride, (top, left), groups)
    return dx


def _weight_gradient(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, groups: int
) -> np.ndarray:
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    if _is_depthwise(w, groups):
        return depthwise.weight_gradient(dy, x, w[:, :, 0].shape, stride, padding, None).reshape(w.shape)
    kernels = segment_weights if segment_weights.suits(w.shape, stride, groups, w.dtype) else products
    return kernels.weight_gradient(dy, x, w, stride, (top, left), groups)
