"""Reflect padding: an image framed by its own mirror image, the edge itself not repeated.

    y[n,i,j,c] = x[n, r(i-p, h), r(j-p, w), c]          r(u, h) = h-1 - |h-1 - |u||        d c b | a b c d | c b a

Shapes: x (n, h, w, c), y (n, h+2p, w+2p, c) with p less than h and w. r mirrors about pixel 0, then about pixel h-1.
Backward: dx[n,u,v,c] = sum of dy[n,i,j,c] over the (i,j) that show pixel (u,v): one, and one more for each mirror
          that it is near to.
Cost: no MACs; reads x and writes y once.
Source: the padding of the anti-aliasing filter of Zhang 2019, "Making Convolutional Networks Shift-Invariant Again",
which NEXcepTion uses; numpy.pad(mode="reflect") has the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cpu import memory
from ..cpu.jit import inline, loops, parallel, prange
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..gpu.kernel import Kernel, device_function, dtype, empty, kernel
from ..gpu.pixels import pixel_grid, this_element
from .window import check_image

# 1. Definition ----------------------------------------------------------------------------------------------


def forward_numpy(x: np.ndarray, *, padding: int) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Rows, then columns, picked by the pixel they show."""
    rows, columns = _shown(x.shape, padding)
    return x.take(rows, axis=1).take(columns, axis=2), (x.shape, padding)  # (n, h+2p, w+2p, c)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    """Every row, then every column of dy is added to the one that it shows."""
    shape, padding = saved
    rows, columns = _shown(shape, padding)
    dx_rows = np.zeros((shape[0], shape[1], dy.shape[2], shape[3]), dy.dtype)  # (n, h, w+2p, c)
    for i, u in enumerate(rows):
        dx_rows[:, u] += dy[:, i]
    dx = np.zeros(shape, dy.dtype)
    for j, v in enumerate(columns):
        dx[:, :, v] += dx_rows[:, :, j]
    return (dx,)


def _shown(shape: Shape, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row and each column of y, that of x which it shows: (h+2p,), (w+2p,)."""
    rows, columns = (size - 1 - np.abs(size - 1 - np.abs(np.arange(-padding, size + padding))) for size in shape[1:3])
    return rows, columns


# 2. CPU -----------------------------------------------------------------------------------------------------

# Loops: the formula, one scalar at a time


@inline
def _mirror(u, size):
    return size - 1 - abs(size - 1 - abs(u))


@loops
def _forward_loops(x, y, padding):
    n, h, w, c = x.shape
    for m in range(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for q in range(c):
                    y[m, i, j, q] = x[m, _mirror(i - padding, h), _mirror(j - padding, w), q]


@loops
def _backward_loops(dy, dx, padding):
    n, h, w, c = dx.shape
    dx[:] = 0
    for m in range(n):
        for i in range(dy.shape[1]):
            for j in range(dy.shape[2]):
                for q in range(c):
                    dx[m, _mirror(i - padding, h), _mirror(j - padding, w), q] += dy[m, i, j, q]


# Fast: a copy, so the memory is the limit. A task is one row: of y in the forward pass, of dx in the backward pass. A
# row of dx gathers the rows of dy that show it, at most three; within them its pixels are the task's own, and a scatter
# is safe. To find these rows a task asks all of them, which costs nothing beside the w*c additions for each.


@parallel
def _forward(x, y, padding):
    n, h, w, c = x.shape
    _, ho, wo, _ = y.shape
    for task in prange(n * ho):
        m, i = task // ho, task % ho
        u = _mirror(i - padding, h)
        for j in range(wo):
            v = _mirror(j - padding, w)
            for q in range(c):
                y[m, i, j, q] = x[m, u, v, q]


@parallel
def _backward(dy, dx, padding):
    n, h, w, c = dx.shape
    _, ho, wo, _ = dy.shape
    for task in prange(n * h):
        m, u = task // h, task % h
        dx[m, u] = 0
        for i in range(ho):
            if _mirror(i - padding, h) == u:
                for j in range(wo):
                    v = _mirror(j - padding, w)
                    for q in range(c):
                        dx[m, u, v, q] += dy[m, i, j, q]


def _rung(forward_kernel: Any, backward_kernel: Any, empty: Callable[..., Any] = memory.empty) -> Rung:
    """Kernels that write into the arrays they are given, as a rung."""

    def forward(x: np.ndarray, *, padding: int) -> tuple[np.ndarray, tuple[Any, ...]]:
        y = empty(_shape(x.shape, padding=padding), x.dtype)
        forward_kernel(x, y, padding)
        return y, (x.shape, padding)

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
        shape, padding = saved
        dx = empty(shape, dy.dtype)
        backward_kernel(dy, dx, padding)
        return (dx,)

    return Rung(forward, backward)


# 3. GPU -----------------------------------------------------------------------------------------------------
# A thread per element of y, and backward of dx, laid out as gpu/pixels.py says. Forward is a copy: one read for
# each write, both of whole lines of memory. Backward a pixel gathers from the at most 3x3 places that show it; but near
# the corners it is one. Atomic additions, which a scatter would need, change their order from run to run.

_mirror_on_gpu = device_function(_mirror.py_func)


@device_function
def _place(u, size, padding, k):
    """Where y shows row u of x: itself (k = 0), mirrored before the first row (1), after the last (2); else -1."""
    i = u if k == 0 else (-u if k == 1 else 2 * (size - 1) - u)
    is_shown = (k == 0 or i != u) and -padding <= i and i < size + padding
    return i + padding if is_shown else -1


@kernel
def _forward_on_gpu(x, y, padding):
    _, h, w, c = x.shape
    m, i, j, q = this_element(y.shape[1])
    if j < y.shape[2] and q < c:
        y[m, i, j, q] = x[m, _mirror_on_gpu(i - padding, h), _mirror_on_gpu(j - padding, w), q]


@kernel
def _backward_on_gpu(dy, dx, padding):
    _, h, w, c = dx.shape
    m, u, v, q = this_element(h)
    if v < w and q < c:
        total = dtype(0)
        for a in range(3):
            i = _place(u, h, padding, a)
            for b in range(3):
                j = _place(v, w, padding, b)
                if i >= 0 and j >= 0:
                    total += dy[m, i, j, q]
        dx[m, u, v, q] = total


def _launched(kernel: Kernel) -> Callable[..., None]:
    """The kernel with a thread for each element of the array that it writes."""
    return lambda read, written, padding: kernel[pixel_grid(written.shape)](read, written, padding)


# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape, *, padding: int) -> Shape:
    check_image("reflect_pad2d", x)
    if not isinstance(padding, int) or padding < 0:
        raise ArgumentError(f"reflect_pad2d: padding must be a number of pixels, got {padding!r}")
    n, h, w, c = x
    if min(h, w) <= padding:
        raise ShapeError(
            f"reflect_pad2d: to mirror {padding} pixels beyond the edge, an image needs more than that on each side, "
            f"got {h}x{w}"
        )
    return n, h + 2 * padding, w + 2 * padding, c


def _sample(draw: Draw) -> Case:
    padding = draw.integer(0, 3)
    h, w = draw.integer(padding + 1, padding + 4), draw.integer(padding + 1, padding + 4)
    return Case((draw.normal(draw.integer(1, 2), h, w, draw.integer(1, 20)),), {"padding": padding})


REFLECT_PAD2D = Op(
    name="reflect_pad2d",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": _rung(_forward_loops, _backward_loops),
        "cpu": _rung(_forward, _backward),
        "cuda": _rung(_launched(_forward_on_gpu), _launched(_backward_on_gpu), empty),
    },
    shape=_shape,
    sample=_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def reflect_pad2d(x: Tensor, padding: int = 1) -> Tensor:
    """x (n, h, w, c) with ``padding`` mirrored pixels on each side: (n, h + 2*padding, w + 2*padding, c).

    Raises ShapeError if x is no image or a side is not larger than the padding, ArgumentError if that is no number of
    pixels. Zhang 2019.

    >>> import minixception as mx
    >>> reflect_pad2d(mx.tensor([[[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]]])).numpy()[0, 0].ravel()
    array([5., 4., 5., 6., 5.], dtype=float32)
    """
    return REFLECT_PAD2D(x, padding=padding)
