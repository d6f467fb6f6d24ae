"""Depthwise separable convolution: a depthwise convolution, then a pointwise one, nothing in between.

    z = depthwise(f(x), depthwise_kernel)   each channel filtered in space      (n, ho, wo, ci)
    y = pointwise(z, pointwise_kernel)      channels mixed at each pixel        (n, ho, wo, co)

Shapes: x (n, h, w, ci), depthwise_kernel (kh, kw, ci), pointwise_kernel (ci, co), y (n, ho, wo, co); the stride is
the depthwise part's.
f is nothing or, as in most of Xception, the ReLU in front, taken in because as a layer of its own it would go through
memory twice.
Backward: dz, dpointwise_kernel from the pointwise part; dx, ddepthwise_kernel from dz; with ReLU, dx is 0 where x <= 0.
Saved is x; z is computed again, for kh*kw MACs per element instead of a second activation kept in memory.
Cost: n*ho*wo*ci*(kh*kw + co) MACs against n*ho*wo*ci*kh*kw*co of a regular convolution: for 3x3 and many
channels almost 9 times fewer. Source: Chollet 2017, sections 1.2 and 2, figure 4.
"""

from __future__ import annotations

from functools import partial

from ...engine.op import Case, Draw, Op, Rung, Shape
from ...engine.tensor import Tensor
from ...errors import ShapeError
from ..activation import relu as rectified
from ..depthwise import DEPTHWISE_CONV2D, depthwise_conv2d, sample_filter
from ..pointwise import POINTWISE_CONV2D, pointwise_conv2d
from ..window import Border, Padding, Pair, window_arguments
from .cpu import backward_cpu, backward_loops, forward_cpu, forward_loops
from .cuda import backward_cuda, forward_cuda, forward_cuda_fused
from .definition import backward_numpy, forward_numpy

# 4. Operator -------------------------------------------------------------------------------------------------------


def _shape(x: Shape, depthwise: Shape, pointwise: Shape, *, stride: int, padding: Padding) -> Shape:
    between = DEPTHWISE_CONV2D.shape(x, depthwise, stride=stride, padding=padding)
    if len(pointwise) != 2 or pointwise[0] != between[3]:
        raise ShapeError(
            f"separable_conv2d: the pointwise kernel must be ({between[3]}, co), one row for each channel of the "
            f"depthwise kernel, got {pointwise}"
        )
    return POINTWISE_CONV2D.shape(between, pointwise, stride=1)


def _macs(x: Shape, depthwise: Shape, pointwise: Shape, *, stride: int, padding: Padding) -> int:
    between = DEPTHWISE_CONV2D.shape(x, depthwise, stride=stride, padding=padding)
    return DEPTHWISE_CONV2D.macs(x, depthwise, stride=stride, padding=padding) + POINTWISE_CONV2D.macs(
        between, pointwise, stride=1
    )


def _sample(draw: Draw) -> Case:
    kernel, stride, padding, size = sample_filter(draw)
    ci, co = draw.integer(1, 12), draw.integer(1, 12)
    x = draw.distinct(draw.integer(1, 2), *size, ci) / 8  # small, so that sums that cancel leave small rounding errors
    return Case((x, draw.normal(*kernel, ci), draw.normal(ci, co)), {"stride": stride, "padding": padding})


def _operator(name: str, relu: bool) -> Op:
    return Op(
        name=name,
        rungs={
            "numpy": Rung(partial(forward_numpy, relu=relu), backward_numpy),
            "loops": Rung(partial(forward_loops, relu=relu), backward_loops),
            "cpu": Rung(partial(forward_cpu, relu=relu), backward_cpu, selective=True),
            "cuda_fused": Rung(partial(forward_cuda_fused, relu=relu), backward_cuda, selective=True),
            "cuda": Rung(partial(forward_cuda, relu=relu), backward_cuda, selective=True),
        },
        shape=_shape,
        macs=_macs,
        sample=_sample,
    )


SEPARABLE_CONV2D = _operator("separable_conv2d", relu=False)
RELU_SEPARABLE_CONV2D = _operator("relu_separable_conv2d", relu=True)


# 5. Function -------------------------------------------------------------------------------------------------------


def separable_conv2d(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    stride: Pair = 1,
    padding: Border = "same",
    relu: bool = False,
    dilation: Pair = 1,
) -> Tensor:
    """Filter each channel of x (n, h, w, ci) by depthwise (kh, kw, ci), then mix channels by pointwise (ci, co).

    relu: of relu(x) instead, in the same pass. y is (n, ho, wo, co). With a dilation, or with a stride or padding that
    is not the same down and across, it is the two convolutions one after the other. Raises ShapeError, DTypeError and
    ArgumentError as they do. Cost: n*ho*wo*ci*(kh*kw + co) MACs. Chollet 2017, section 2.

    >>> import minixception as mx
    >>> separable_conv2d(mx.tensor([[[[1.0]]]]), mx.tensor([[[2.0]]]), mx.tensor([[3.0]])).item()
    6.0
    """
    window = window_arguments(stride, padding, dilation)
    if "dilation" in window:
        return pointwise_conv2d(depthwise_conv2d(rectified(x) if relu else x, depthwise, **window), pointwise)
    op = RELU_SEPARABLE_CONV2D if relu else SEPARABLE_CONV2D
    return op(x, depthwise, pointwise, **window)
