"""Depthwise convolution: every channel is filtered by its own small kernel, and channels never mix.

    y[n,i,j,c] = sum_{a,b} x[n, i*s+a-p, j*s+b-p, c] * w[a,b,c]           x is zero outside of the image

Shapes: x (n, h, w, c), w (kh, kw, c), y (n, ho, wo, c); stride s, padding p as in ops/window.py.
With dilation d tap (a, b) meets pixel (i*s+a*d-p, j*s+b*d-p); that, and strides that differ, are the general form's.
Backward: dx[n,u,v,c] = sum over the (i,j,a,b) with i*s+a-p = u, j*s+b-p = v of dy[n,i,j,c] * w[a,b,c]
          dw[a,b,c]   = sum_{n,i,j} dy[n,i,j,c] * x[n, i*s+a-p, j*s+b-p, c]
Cost: n*ho*wo*c*kh*kw MACs on x + w + y elements. A 3x3 kernel does 9 MACs for each 8 bytes that must move (one
input, one output, float32): about 2 FLOP per byte, far below what a CPU needs to be busy. It is memory-bound.
Source: Chollet 2017, section 2 ("a spatial convolution performed independently over each channel").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine.op import Case, Draw, Op, Rung, Shape
from ...engine.tensor import Tensor
from ...errors import ShapeError
from ..window import (
    Border,
    Padding,
    Pair,
    check_image,
    general_form,
    sample_general_window,
    sample_window,
    window_arguments,
    window_shape,
)
from .cpu import backward_cpu, backward_loops, forward_cpu, forward_loops
from .cuda import (
    backward_cuda,
    backward_cuda_coalesced,
    backward_cuda_naive,
    backward_cuda_tiled,
    forward_cuda,
    forward_cuda_coalesced,
    forward_cuda_naive,
    forward_cuda_tiled,
)
from .definition import backward_numpy, forward_numpy

# 4. Operator -------------------------------------------------------------------------------------------------------


def _shape(x: Shape, w: Shape, *, stride: Pair, padding: Border, **dilation: Pair) -> Shape:
    if len(w) != 3:
        raise ShapeError(f"depthwise_conv2d: w must be (kh, kw, c), got {len(w)} dimensions: {w}")
    check_image("depthwise_conv2d", x, channels=w[2])
    return (x[0], *window_shape("depthwise_conv2d", x, w[:2], stride, padding, **dilation), w[2])


def _macs(x: Shape, w: Shape, **params: Any) -> int:
    n, ho, wo, c = _shape(x, w, **params)
    return n * ho * wo * c * w[0] * w[1]


def sample_filter(draw: Draw) -> tuple[tuple[int, int], int, Padding, tuple[int, int]]:
    """``sample_window``, but more often than not 3x3: as in every network here, and some rungs have a kernel for it."""
    kernel, stride, padding, size = sample_window(draw)
    if draw.choice((True, True, False)):
        kernel, padding, size = (3, 3), draw.choice(("same", "valid", 1)), (draw.integer(3, 6), draw.integer(3, 6))
    return kernel, stride, padding, size


def _sample(draw: Draw) -> Case:
    kernel, stride, padding, size = sample_filter(draw)
    return Case(_sample_arrays(draw, kernel, size), {"stride": stride, "padding": padding})


def _sample_general(draw: Draw) -> Case:
    kernel, window, size = sample_general_window(draw)
    return Case(_sample_arrays(draw, kernel, size), window)


def _sample_arrays(draw: Draw, kernel: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    c = draw.integer(1, 20)
    return draw.normal(draw.integer(1, 2), *size, c), draw.normal(*kernel, c)


DEPTHWISE_CONV2D = Op(
    name="depthwise_conv2d",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": Rung(forward_loops, backward_loops),
        "cpu": Rung(forward_cpu, backward_cpu, selective=True),
        "cuda_naive": Rung(forward_cuda_naive, backward_cuda_naive, selective=True),
        "cuda_coalesced": Rung(forward_cuda_coalesced, backward_cuda_coalesced, selective=True),
        "cuda_tiled": Rung(forward_cuda_tiled, backward_cuda_tiled, selective=True),
        "cuda": Rung(forward_cuda, backward_cuda, selective=True),
    },
    shape=_shape,
    macs=_macs,
    sample=_sample,
)
GENERAL_DEPTHWISE_CONV2D = general_form(DEPTHWISE_CONV2D, _sample_general)


# 5. Function -------------------------------------------------------------------------------------------------------


def depthwise_conv2d(x: Tensor, w: Tensor, stride: Pair = 1, padding: Border = "same", dilation: Pair = 1) -> Tensor:
    """Filter each channel of x (n, h, w, c) with its own kernel of w (kh, kw, c); y is (n, ho, wo, c).

    padding: "same", "valid" or a number of pixels on each side (ops/window.py). Stride, padding and dilation may be
    pairs (down, across), as in ``conv2d``. Raises ShapeError if channels disagree or a window does not fit, DTypeError
    for mixed dtypes, ArgumentError for a stride, padding or dilation that does not exist.
    Cost: n*ho*wo*c*kh*kw MACs. Chollet 2017, section 2.

    >>> import minixception as mx
    >>> depthwise_conv2d(mx.tensor([[[[1.0]], [[2.0]]]]), mx.tensor([[[3.0]]])).numpy().ravel()
    array([3., 6.], dtype=float32)
    """
    window = window_arguments(stride, padding, dilation)
    op = GENERAL_DEPTHWISE_CONV2D if "dilation" in window else DEPTHWISE_CONV2D
    return op(x, w, **window)
