"""timm's legacy_xception in .safetensors: PyTorch's names and layouts, and its two other conventions.

    conv1, bn1, conv2, bn2            block1
    block1 .. block12                 block2 .. block13; rep.0, rep.1, ... count ReLU, separable convolution, batchnorm
    conv3, bn3, conv4, bn4            block14
    fc                                predictions

A kernel is (co, ci, kh, kw), a matrix (co, ci). The weights were once converted from Keras', but the network around
them differs in two settings, and the logits with it (by some 2 % of their norm): batchnorm adds 1e-5 to the variance,
not 1e-3, and the max pools are padded by one pixel on each side, not by Keras' "same". ``apply_conventions`` sets both.
Source: timm 1.0.31, models/xception.py; Keras 3 ``applications.Xception``.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ..nn import BatchNorm2d, MaxPool2d, Module
from .source import StoredTensor

_STEM = {"1": "block1.conv1", "2": "block1.conv2", "3": "block14.sepconv1", "4": "block14.sepconv2"}
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
_SEPARABLE = {"conv1.weight": "depthwise", "pointwise.weight": "pointwise"}
_TIMM_ONLY = re.compile(r"block\d+\.(rep\.|skip)")
EPS = 1e-5


def is_timm(names: Collection[str]) -> bool:
    """Are there names that only timm's file has?"""
    return any(_TIMM_ONLY.match(name) for name in names)


def from_timm(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors with our names and layouts; one that timm's network does not have keeps its own."""
    ours = {}
    for name, tensor in tensors.items():
        if our_name := _our_name(name):
            ours[our_name] = _our_layout(tensor)
        elif not name.endswith(".num_batches_tracked"):
            ours[name] = tensor
    return ours


def _our_name(name: str) -> str | None:
    if match := re.fullmatch(r"conv([34])\.(.+)", name):
        return _join(_STEM[match[1]], _SEPARABLE.get(match[2]))
    if match := re.fullmatch(r"conv([12])\.weight", name):
        return f"{_STEM[match[1]]}.weight"
    if match := re.fullmatch(r"bn([1-4])\.(.+)", name):
        return _join(f"{_STEM[match[1]]}_bn", _NORM.get(match[2]))
    if match := re.fullmatch(r"fc\.(weight|bias)", name):
        return f"predictions.{match[1]}"
    if match := re.fullmatch(r"block(\d+)\.(.+)", name):
        block = int(match[1])
        return _join(f"block{block + 1}", _in_block(match[2], leading_relu=block > 1))
    return None


def _in_block(name: str, leading_relu: bool) -> str | None:
    if name == "skip.weight":
        return "shortcut.conv.weight"
    if match := re.fullmatch(r"skipbn\.(.+)", name):
        return _join("shortcut.bn", _NORM.get(match[1]))
    if match := re.fullmatch(r"rep\.(\d+)\.(.+)", name):
        unit, place = divmod(int(match[1]) + (not leading_relu), 3)  # ReLU, separable convolution, batchnorm
        parts, suffix = {1: (_SEPARABLE, ""), 2: (_NORM, "_bn")}.get(place, ({}, ""))
        return _join(f"sepconv{unit + 1}{suffix}", parts.get(match[2]))
    return None


def _join(path: str, attribute: str | None) -> str | None:
    return f"{path}.{attribute}" if attribute else None


def _our_layout(tensor: StoredTensor) -> StoredTensor:
    if len(tensor.shape) == 2:
        return tensor.transposed(1, 0)
    if len(tensor.shape) != 4:
        return tensor
    co, ci, kh, kw = tensor.shape
    if (kh, kw) == (1, 1):
        return tensor.reshaped((co, ci)).transposed(1, 0)
    if ci == 1:
        return tensor.reshaped((co, kh, kw)).transposed(1, 2, 0)
    return tensor.transposed(2, 3, 1, 0)


def apply_conventions(model: Module) -> None:
    """Make the model compute as timm's does: batchnorm's eps, and the padding of max pools."""
    for _, module in model.named_modules():
        if isinstance(module, BatchNorm2d):
            module.eps = EPS
        elif isinstance(module, MaxPool2d) and module.padding == "same":
            module.padding = (module.size - 1) // 2
