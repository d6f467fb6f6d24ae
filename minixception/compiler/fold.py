"""Weights as the fused kernels want them: batchnorm folded in, once per model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.op import Shape
from ..nn import BatchNorm2d, Conv2d, Linear, Module, PointwiseConv2d, SeparableConv2d
from ..ops.window import Padding


@dataclass(frozen=True)
class Folded:
    """depthwise: (kh, kw, ci) or None; packed: the (kh, kw, ci/groups, co) kernel; bias: (co,).

    ``fold`` makes NumPy arrays; each device puts them where its kernels read them, and orders ``packed`` as they do
    (``Kernels.place``).
    """

    depthwise: Any
    packed: Any
    bias: Any
    kernel: tuple[int, int, int, int]
    groups: int
    stride: int
    padding: Padding


Key = tuple[Module, BatchNorm2d | None]  # a layer with weights, and the batchnorm behind it


def fold(module: Any, norm: BatchNorm2d | None) -> Folded:
    """The weights of a convolution, or of a linear layer as a 1x1 convolution, with the batchnorm behind it.

    gamma (z - mean) / sqrt(var + eps) + beta is linear in z: the factor scales the output channels of the weights and
    their bias, the rest is added to the bias. Computed in float64, kept in the weights' dtype.
    """
    if isinstance(module, SeparableConv2d):
        depthwise, dense, groups = module.depthwise.numpy(), module.pointwise.numpy()[None, None], 1
    elif isinstance(module, PointwiseConv2d | Linear):
        depthwise, dense, groups = None, module.weight.numpy()[None, None], 1
    else:
        assert isinstance(module, Conv2d)
        depthwise, dense, groups = None, module.weight.numpy(), module.groups
    factor, shift = _affine(norm, dense.shape[3])
    if getattr(module, "bias", None) is not None:
        shift = factor * module.bias.numpy() + shift
    return Folded(
        depthwise=depthwise,
        packed=np.ascontiguousarray(dense * factor, dtype=dense.dtype),
        bias=shift.astype(dense.dtype),
        kernel=dense.shape,
        groups=groups,
        stride=getattr(module, "stride", 1),
        padding=getattr(module, "padding", "same"),
    )


def _affine(norm: BatchNorm2d | None, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """factor and shift (co,) in float64, with batchnorm(z) = factor * z + shift."""
    if norm is None:
        return np.ones(channels), np.zeros(channels)
    beta, mean, var = (t.numpy().astype(np.float64) for t in (norm.beta, norm.running_mean, norm.running_var))
    factor = (1 if norm.gamma is None else norm.gamma.numpy()) / np.sqrt(var + norm.eps)
    return factor, beta - mean * factor


def as_image(shape: Shape) -> Shape:
    """The rows (n, c) of a linear layer as the pixels of one image (1, 1, n, c); images as they are."""
    return (1, 1, *shape) if len(shape) == 2 else shape
