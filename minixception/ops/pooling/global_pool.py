"""Global average pooling: every channel of an image becomes one value, its mean over all pixels.

    y[n,c] = 1/(h*w) sum_{i,j} x[n,i,j,c]

Shapes: x (n, h, w, c), y (n, c). Any image size gives the same number of features, which is what lets the
network take other sizes than it was trained on.
Backward: dx[n,i,j,c] = dy[n,c] / (h*w), the same for all pixels.
Cost: no MACs in the paper's way of counting; n*h*w*c additions. Memory-bound: x is read once.
Source: Lin, Chen and Yan 2014, section 3.2; Chollet 2017, figure 5 (exit flow).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.jit import loops, parallel, prange
from ...engine.op import Case, Draw, Op, Rung, Shape
from ...engine.tensor import Tensor
from ...errors import ShapeError
from ...gpu.kernel import dtype, empty, kernel
from ...gpu.pixels import pixel_grid, this_element
from ...gpu.reduce import sums
from ..window import check_image

# 1. Definition ----------------------------------------------------------------------------------------------


def forward_numpy(x: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The mean over height and width, summed in float64."""
    return x.mean((1, 2), dtype=np.float64).astype(x.dtype), x.shape  # (n, c)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    """dy / (h*w), repeated for every pixel."""
    _, h, w, _ = saved
    return (np.broadcast_to((dy / (h * w))[:, None, None, :], saved).copy(),)  # (n, h, w, c)


# 2. CPU -----------------------------------------------------------------------------------------------------

# Loops: the formula, one scalar at a time


@loops
def _forward_loops(x, y):
    n, h, w, c = x.shape
    for m in range(n):
        for q in range(c):
            total = 0.0  # float64, as in the definition
            for i in range(h):
                for j in range(w):
                    total += x[m, i, j, q]
            y[m, q] = total / (h * w)


@loops
def _backward_loops(dy, dx):
    n, h, w, c = dx.shape
    for m in range(n):
        for i in range(h):
            for j in range(w):
                for q in range(c):
                    dx[m, i, j, q] = dy[m, q] / (h * w)


def forward_loops(x: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The formula of the definition as loops."""
    y = memory.empty((x.shape[0], x.shape[3]), x.dtype)
    _forward_loops(x, y)
    return y, x.shape


def backward_loops(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    """The same share for every pixel."""
    dx = memory.empty(saved, dy.dtype)
    _backward_loops(dy, dx)
    return (dx,)


# Fast: a task is a strip of 64 channels of one image, so that one image alone keeps many cores busy. Its 64
# sums, in float64, stay in L1 while the pixels pass by, 4 whole cache lines of each in float32.

_STRIP = 64


@parallel
def _forward(x, y):
    n, h, w, c = x.shape
    strips = (c + _STRIP - 1) // _STRIP
    for task in prange(n * strips):
        m, start = task // strips, task % strips * _STRIP
        stop = min(start + _STRIP, c)
        total = np.zeros(stop - start)
        for i in range(h):
            for j in range(w):
                pixel = x[m, i, j, start:stop]
                for q in range(stop - start):
                    total[q] += pixel[q]
        for q in range(stop - start):
            y[m, start + q] = total[q] / (h * w)


@parallel
def _backward(share, dx):
    n, h, w, c = dx.shape
    for task in prange(n * h):
        m, i = task // h, task % h
        for j in range(w):
            for q in range(c):
                dx[m, i, j, q] = share[m, q]


def forward_cpu(x: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    """64 channels of an image per task; x is read once."""
    y = memory.empty((x.shape[0], x.shape[3]), x.dtype)
    _forward(x, y)
    return y, x.shape


def backward_cpu(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    """n*c divisions, then copies; one task per row of dx."""
    _, h, w, _ = saved
    dx = memory.empty(saved, dy.dtype)
    _backward(dy / (h * w), dx)
    return (dx,)


# 3. GPU -----------------------------------------------------------------------------------------------------
# Forward is a sum over the middle of x, seen as (n, h*w, c), and gpu/reduce.py has it: a thread adds 32 pixels
# of one channel, in the type of x, and the next launch adds the sums of up to 32 such threads. Neighbouring threads
# have neighbouring channels. The definition sums in float64; chains of 32 stay within a few units of float32's last
# digit of it, and consumer GPUs, slow in float64, run them at full speed. One read per element, and a 32nd in between.
# Backward, a thread per element of dx, laid out as gpu/pixels.py says: one write, and a read from the cache.


@kernel
def _backward_on_gpu(dy, dx):
    _, h, w, c = dx.shape
    m, i, j, q = this_element(h)
    if j < w and q < c:
        dx[m, i, j, q] = dy[m, q] / dtype(h * w)


def forward_cuda(x: Any) -> tuple[Any, tuple[Any, ...]]:
    """Partial sums of 32 pixels, added in a fixed order; x is read once."""
    return sums(x, (1, 2), mean=True), x.shape


def backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any]:
    """A thread per element of dx divides, which costs nothing beside the write."""
    dx = empty(saved, dy.dtype)
    _backward_on_gpu[pixel_grid(saved)](dy, dx)
    return (dx,)


# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape) -> Shape:
    check_image("global_avg_pool", x)
    if 0 in x[1:3]:
        raise ShapeError(f"global_avg_pool: expected images of at least one pixel, got {x[1]}x{x[2]} in shape {x}")
    return (x[0], x[3])


def _sample(draw: Draw) -> Case:
    n, h, w, c = draw.integer(1, 2), draw.integer(1, 5), draw.integer(1, 5), draw.integer(1, 70)
    return Case((draw.normal(n, h, w, c),))


GLOBAL_AVG_POOL = Op(
    name="global_avg_pool",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": Rung(forward_loops, backward_loops),
        "cpu": Rung(forward_cpu, backward_cpu),
        "cuda": Rung(forward_cuda, backward_cuda),
    },
    shape=_shape,
    sample=_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def global_avg_pool(x: Tensor) -> Tensor:
    """The mean over height and width: x (n, h, w, c) becomes (n, c). ShapeError if x is no image or has no pixel.

    >>> import minixception as mx
    >>> global_avg_pool(mx.tensor([[[[1.0, 10.0], [3.0, 30.0]]]])).numpy()
    array([[ 2., 20.]], dtype=float32)
    """
    return GLOBAL_AVG_POOL(x)
