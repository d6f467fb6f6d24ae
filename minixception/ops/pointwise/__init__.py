"""Pointwise convolution: a 1x1 convolution; each pixel's channels are mixed, and pixels never meet.

    y[n,i,j,o] = sum_c x[n, i*s, j*s, c] * w[c,o]

Shapes: x (n, h, w, ci), w (ci, co), y (n, ceil(h/s), ceil(w/s), co); a window of one pixel needs no padding.
Backward: dx[n,i*s,j*s,c] = sum_o dy[n,i,j,o] * w[c,o], zero at the pixels the stride skips
          dw[c,o]         = sum_{n,i,j} x[n,i*s,j*s,c] * dy[n,i,j,o]
Cost: n*ho*wo*ci*co MACs. With P = n*ho*wo pixels it is the matrix product (P, ci) (ci, co), which does about
ci*co/(ci+co) MACs per element moved: with hundreds of channels it is limited by arithmetic, not memory.
90.6 % of Xception's MACs are here. Source: Chollet 2017, section 2 ("a 1x1 convolution, projecting the channels").
"""

from __future__ import annotations

from ...engine.op import Case, Draw, Op, Rung, Shape
from ...engine.tensor import Tensor
from ...errors import ShapeError
from ..window import check_image, window_shape
from .cpu import backward_cpu, backward_loops, forward_cpu, forward_loops
from .cuda import COALESCED, FAST, NAIVE, TILED
from .definition import backward_numpy, forward_numpy

# 4. Operator -------------------------------------------------------------------------------------------------------


def _shape(x: Shape, w: Shape, *, stride: int) -> Shape:
    if len(w) != 2:
        raise ShapeError(f"pointwise_conv2d: w must be (ci, co), got {len(w)} dimensions: {w}")
    check_image("pointwise_conv2d", x, channels=w[0])
    return (x[0], *window_shape("pointwise_conv2d", x, (1, 1), stride, "same"), w[1])


def _macs(x: Shape, w: Shape, *, stride: int) -> int:
    n, ho, wo, co = _shape(x, w, stride=stride)
    return n * ho * wo * w[0] * co


def _sample(draw: Draw) -> Case:
    ci, co = draw.integer(1, 20), draw.integer(1, 70)
    x = draw.normal(draw.integer(1, 2), draw.integer(1, 5), draw.integer(1, 5), ci)
    return Case((x, draw.normal(ci, co)), {"stride": draw.choice((1, 2))})


POINTWISE_CONV2D = Op(
    name="pointwise_conv2d",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": Rung(forward_loops, backward_loops),
        "cpu": Rung(forward_cpu, backward_cpu, selective=True),
        "cuda_naive": NAIVE,
        "cuda_coalesced": COALESCED,
        "cuda_tiled": TILED,
        "cuda": FAST,
    },
    shape=_shape,
    macs=_macs,
    sample=_sample,
)


# 5. Function -------------------------------------------------------------------------------------------------------


def pointwise_conv2d(x: Tensor, w: Tensor, stride: int = 1) -> Tensor:
    """Mix the channels of each pixel of x (n, h, w, ci) by w (ci, co); y is (n, ceil(h/s), ceil(w/s), co).

    Raises ShapeError if channels disagree, DTypeError for mixed dtypes, ArgumentError for an impossible stride.
    Cost: n*ho*wo*ci*co MACs. Chollet 2017, section 2.

    >>> import minixception as mx
    >>> pointwise_conv2d(mx.tensor([[[[1.0, 2.0]]]]), mx.tensor([[3.0], [4.0]])).numpy().ravel()
    array([11.], dtype=float32)
    """
    return POINTWISE_CONV2D(x, w, stride=stride)
