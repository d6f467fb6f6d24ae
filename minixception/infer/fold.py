"""Weights as the fused kernels want them: batchnorm folded in, and packed into panels, once per model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import memory
from ..kernels.gemm import panel_width
from ..nn import BatchNorm2d, Conv2d, Linear, Module, PointwiseConv2d, SeparableConv2d
from ..ops.conv2d.cpu import pack_kernel
from ..ops.window import Padding


@dataclass(frozen=True)
class Folded:
    """depthwise: (kh, kw, ci) or None; packed: panels of the (kh, kw, ci/groups, co) kernel; bias: (co,).

    A 1x1 convolution with a stride becomes a separable one whose depthwise kernel is 1x1 and all ones: its tasks then
    gather the pixels they need into a strip, and the product has as many rows as a strip, not as a row of the image.
    """

    depthwise: np.ndarray | None
    packed: np.ndarray
    bias: np.ndarray
    kernel: tuple[int, int, int, int]
    groups: int
    stride: int
    padding: Padding


Key = tuple[Module, BatchNorm2d | None]  # a layer with weights, and the batchnorm behind it


def fold_all(keys: Iterable[Key]) -> dict[Key, Folded]:
    """``fold`` for each, moved into one block of memory in the given order, that in which the layers run.

    The order counts because the panel behind each panel is fetched while it is in use (kernels/gemm.py): behind the
    last panel of a layer lies what the next layer begins with.
    """
    folded = {key: fold(*key) for key in keys}
    arrays = [a for layer in folded.values() for a in (layer.depthwise, layer.bias, layer.packed) if a is not None]
    parts = iter(memory.carve([a.size for a in arrays], arrays[0].dtype))

    def moved(array: np.ndarray) -> np.ndarray:
        part = next(parts).reshape(array.shape)
        part[...] = array
        return part

    return {
        key: replace(
            layer,
            depthwise=None if layer.depthwise is None else moved(layer.depthwise),
            bias=moved(layer.bias),
            packed=moved(layer.packed),
        )
        for key, layer in folded.items()
    }


def fold(module: Any, norm: BatchNorm2d | None) -> Folded:
    """The weights of a convolution, or of a linear layer as a 1x1 convolution, with the batchnorm behind it.

    gamma (z - mean) / sqrt(var + eps) + beta is linear in z: the factor scales the output channels of the weights and
    their bias, the rest is added to the bias. Computed in float64, kept in the weights' dtype.
    """
    if isinstance(module, SeparableConv2d):
        depthwise, dense, groups = module.depthwise.data, module.pointwise.data[None, None], 1
    elif isinstance(module, PointwiseConv2d | Linear):
        depthwise, dense, groups = None, module.weight.data[None, None], 1
    else:
        assert isinstance(module, Conv2d)
        depthwise, dense, groups = None, module.weight.data, module.groups
    kh, kw, ci, co = dense.shape
    stride = getattr(module, "stride", 1)
    if depthwise is None and kh == kw == groups == 1 and stride > 1:
        depthwise = np.ones((1, 1, ci), dense.dtype)
    factor, shift = _affine(norm, co)
    if getattr(module, "bias", None) is not None:
        shift = factor * module.bias.data + shift
    scaled = np.ascontiguousarray(dense * factor, dtype=dense.dtype)  # (kh, kw, ci/groups, co)
    return Folded(
        depthwise=depthwise,
        packed=_pack(scaled, groups),
        bias=shift.astype(dense.dtype),
        kernel=(kh, kw, ci, co),
        groups=groups,
        stride=stride,
        padding=getattr(module, "padding", "same"),
    )


def _affine(norm: BatchNorm2d | None, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """factor and shift (co,) in float64, with batchnorm(z) = factor * z + shift."""
    if norm is None:
        return np.ones(channels), np.zeros(channels)
    beta, mean, var = (t.data.astype(np.float64) for t in (norm.beta, norm.running_mean, norm.running_var))
    factor = (1 if norm.gamma is None else norm.gamma.data) / np.sqrt(var + norm.eps)
    return factor, beta - mean * factor


def _pack(kernel: np.ndarray, groups: int) -> np.ndarray:
    kh, kw, ci, co = kernel.shape
    width = panel_width(kernel.dtype)
    packed = np.empty(-(-(co // groups) // width) * groups * kh * kw * ci * width, kernel.dtype)
    pack_kernel(kernel, packed, groups, width)
    return packed
