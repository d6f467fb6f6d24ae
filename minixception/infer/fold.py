"""Weights as the fused kernels want them: batchnorm folded in, and packed into panels, once per model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.gemm import panel_width
from ..nn import BatchNorm2d, Conv2d, Linear, PointwiseConv2d, SeparableConv2d
from ..ops.conv2d.cpu import pack_kernel


@dataclass(frozen=True)
class Folded:
    """depthwise: (kh, kw, ci) or None; packed: panels of the (kh, kw, ci/groups, co) kernel; bias: (co,)."""

    depthwise: np.ndarray | None
    packed: np.ndarray
    bias: np.ndarray
    kernel: tuple[int, int, int, int]
    groups: int
    stride: int
    padding: str


def fold(module: Any, norm: BatchNorm2d | None) -> Folded:
    """The weights of a convolution, or of a linear layer as a 1x1 convolution, with the batchnorm behind it.

    gamma (z - mean) / sqrt(var + eps) + beta is linear in z: the factor scales the output channels of the weights,
    the rest is a bias. Computed in float64, kept in the weights' dtype.
    """
    if isinstance(module, SeparableConv2d):
        depthwise, dense, groups = module.depthwise.data, module.pointwise.data[None, None], 1
    elif isinstance(module, PointwiseConv2d | Linear):
        depthwise, dense, groups = None, module.weight.data[None, None], 1
    else:
        assert isinstance(module, Conv2d)
        depthwise, dense, groups = None, module.weight.data, module.groups
    kh, kw, ci, co = dense.shape
    factor, shift = _affine(norm, co)
    if isinstance(module, Linear):
        shift = factor * module.bias.data + shift
    scaled = np.ascontiguousarray(dense * factor, dtype=dense.dtype)  # (kh, kw, ci/groups, co)
    return Folded(
        depthwise=depthwise,
        packed=_pack(scaled, groups),
        bias=shift.astype(dense.dtype),
        kernel=(kh, kw, ci, co),
        groups=groups,
        stride=getattr(module, "stride", 1),
        padding=getattr(module, "padding", "same"),
    )


def _affine(norm: BatchNorm2d | None, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """factor and shift (co,) in float64, with batchnorm(z) = factor * z + shift."""
    if norm is None:
        return np.ones(channels), np.zeros(channels)
    gamma, beta, mean, var = (
        t.data.astype(np.float64) for t in (norm.gamma, norm.beta, norm.running_mean, norm.running_var)
    )
    factor = gamma / np.sqrt(var + norm.eps)
    return factor, beta - mean * factor


def _pack(kernel: np.ndarray, groups: int) -> np.ndarray:
    kh, kw, ci, co = kernel.shape
    width = panel_width(kernel.dtype)
    packed = np.empty(-(-(co // groups) // width) * groups * kh * kw * ci * width, kernel.dtype)
    pack_kernel(kernel, packed, groups, width)
    return packed
