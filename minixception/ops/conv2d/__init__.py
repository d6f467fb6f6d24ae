"""Convolution: space and channels in one step, regular (groups = 1) or in separate segments of channels.

    y[n,i,j,o] = sum_{a,b,c} x[n, i*s+a-p, j*s+b-p, g*ci/G + c] * w[a,b,c,o]      g = o // (co/G), c < ci/G

Shapes: x (n, h, w, ci), w (kh, kw, ci/G, co), y (n, ho, wo, co); stride s, padding p as in ops/window.py, G groups.
With dilation d tap (a, b) meets pixel (i*s+a*d-p, j*s+b*d-p); that, and strides that differ, are the general form's.
G = 1 is the regular convolution, G = ci = co the depthwise one; the paper's spectrum lies between them.
Backward: dx[n,u,v,c] = sum over the (i,j,a,b,o) that read it of dy[n,i,j,o] * w[a,b,c,o]
          dw[a,b,c,o] = sum_{n,i,j} x[n, i*s+a-p, j*s+b-p, c] * dy[n,i,j,o]
Cost: n*ho*wo*kh*kw*(ci/G)*co MACs. Each input is used kh*kw*co/G times: it is limited by arithmetic.
Source: Chollet 2017, sections 1 and 3 (block 1 of Xception is made of two of these).
"""

from __future__ import annotations

from typing import Any

from ...engine.op import Case, Draw, Op, Rung, Shape
from ...engine.tensor import Tensor
from ...errors import ArgumentError, ShapeError
from ..window import (
    Border,
    Pair,
    check_image,
    general_form,
    sample_general_window,
    sample_window,
    window_arguments,
    window_shape,
)
from .cpu import backward_cpu, backward_loops, forward_cpu, forward_loops
from .cuda import backward_cuda, forward_cuda
from .definition import backward_numpy, forward_numpy

# 4. Operator -------------------------------------------------------------------------------------------------------


def _shape(x: Shape, w: Shape, *, stride: Pair, padding: Border, groups: int, **dilation: Pair) -> Shape:
    if len(w) != 4:
        raise ShapeError(f"conv2d: w must be (kh, kw, ci/groups, co), got {len(w)} dimensions: {w}")
    if not isinstance(groups, int) or groups < 1 or w[3] % groups:
        raise ArgumentError(f"conv2d: groups must be a positive divisor of the {w[3]} output channels, got {groups!r}")
    check_image("conv2d", x, channels=w[2] * groups)
    return (x[0], *window_shape("conv2d", x, w[:2], stride, padding, **dilation), w[3])


def _macs(x: Shape, w: Shape, **params: Any) -> int:
    n, ho, wo, co = _shape(x, w, **params)
    return n * ho * wo * w[0] * w[1] * w[2] * co


def _sample(draw: Draw) -> Case:
    kernel, stride, padding, size = sample_window(draw)
    return _sample_channels(draw, kernel, size, {"stride": stride, "padding": padding})


def _sample_general(draw: Draw) -> Case:
    kernel, window, size = sample_general_window(draw)
    return _sample_channels(draw, kernel, size, window)


def _sample_channels(draw: Draw, kernel: tuple[int, int], size: tuple[int, int], window: dict[str, Any]) -> Case:
    groups, ci = draw.choice((1, 1, 2, 3, 9)), draw.integer(1, 4)
    co = draw.integer(1, 20 if groups < 9 else 4)  # nine narrow segments are more than a register holds
    x = draw.normal(draw.integer(1, 2), *size, groups * ci)
    w = draw.normal(*kernel, ci, groups * co)
    return Case((x, w), {**window, "groups": groups})


CONV2D = Op(
    name="conv2d",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": Rung(forward_loops, backward_loops),
        "cpu": Rung(forward_cpu, backward_cpu, selective=True),
        "cuda": Rung(forward_cuda, backward_cuda, selective=True),
    },
    shape=_shape,
    macs=_macs,
    sample=_sample,
)
GENERAL_CONV2D = general_form(CONV2D, _sample_general)


# 5. Function -------------------------------------------------------------------------------------------------------


def conv2d(
    x: Tensor, w: Tensor, stride: Pair = 1, padding: Border = "same", groups: int = 1, dilation: Pair = 1
) -> Tensor:
    """Convolve x (n, h, w, ci) with w (kh, kw, ci/groups, co); y is (n, ho, wo, co).

    padding: "same", "valid" or a number of pixels on each side (ops/window.py). dilation: the distance of neighbouring
    taps. Each of the three may be a pair (down, across); what is not the same for both, and a dilation, is computed by
    the NumPy definition. Raises ShapeError if channels disagree or a window does not fit, DTypeError for mixed dtypes,
    ArgumentError for an impossible stride, padding, dilation or number of groups.
    Cost: n*ho*wo*kh*kw*(ci/groups)*co MACs. Chollet 2017, section 1; Yu and Koltun 2016 (dilation).

    >>> import minixception as mx
    >>> conv2d(mx.tensor([[[[1.0], [2.0]]]]), mx.tensor([[[[3.0]], [[4.0]]]]), padding="valid").item()
    11.0
    """
    window = window_arguments(stride, padding, dilation)
    op = GENERAL_CONV2D if "dilation" in window else CONV2D
    return op(x, w, **window, groups=groups)
