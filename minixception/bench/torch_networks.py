"""The same network in PyTorch, with the same weights: what our own is measured against.

PyTorch is never needed to use the package; the extra ``peers`` installs it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn as tnn

from .. import nn

CHANNELS_LAST, CONTIGUOUS = "channels_last", "contiguous"  # (n, c, h, w) with c or with w innermost in memory


def to_torch(array: np.ndarray, device: str = "cpu", layout: str = CHANNELS_LAST) -> torch.Tensor:
    """An NHWC array as a tensor (n, c, h, w); by default in the same memory, only the strides are named anew."""
    image = torch.from_numpy(array).permute(0, 3, 1, 2).to(device)
    return image if layout == CHANNELS_LAST else image.contiguous()


def from_torch(parameter: torch.Tensor) -> np.ndarray:
    """A parameter of such a network in our order of axes: (kh, kw, ci/groups, co), (ci, co) or (c,)."""
    array = parameter.detach().cpu().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def peer_model_on(module: nn.Module, device: str = "cpu", layout: str = CHANNELS_LAST) -> Any:
    """``peer_model`` on a device, in either layout."""
    theirs = peer_model(module).to(device)
    return theirs if layout == CHANNELS_LAST else theirs.to(memory_format=torch.contiguous_format)


def peer_model(module: nn.Module) -> Any:
    """The PyTorch module that computes what ``module`` does, in channels_last, with copies of its weights."""
    kind = type(module)
    if kind in _LEAVES:
        return _LEAVES[kind](module).to(memory_format=torch.channels_last)
    if isinstance(module, nn.Residual):
        body = tnn.Sequential(*[peer_model(getattr(module, name)) for name in module.chain])
        return _Residual(body, peer_model(module.shortcut) if module.shortcut else tnn.Identity())
    return tnn.Sequential(*[peer_model(child) for child in module.children().values()])


class _Residual(tnn.Module):
    def __init__(self, body: Any, shortcut: Any) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Any) -> Any:
        return self.body(x) + self.shortcut(x)


class _SamePool(tnn.Module):
    """3x3 max pool with stride 2 by the TensorFlow rule: an even size is padded at the end only."""

    def forward(self, x: Any) -> Any:
        even = int(x.shape[2]) % 2 == 0  # int(): torch.jit.trace hands out sizes that are tensors
        return tnn.functional.max_pool2d(x, 3, 2, padding=0 if even else 1, ceil_mode=even)


class _Mean(tnn.Module):
    def forward(self, x: Any) -> Any:
        return x.mean((2, 3))


def _convolution(weight: np.ndarray, stride: int, padding: str, groups: int) -> Any:
    """weight: (kh, kw, ci/groups, co), an odd kernel."""
    kh, kw, ci, co = weight.shape
    around = (kh // 2, kw // 2) if padding == "same" else 0
    conv = tnn.Conv2d(ci * groups, co, (kh, kw), stride, around, groups=groups, bias=False)
    conv.weight.data = torch.from_numpy(weight.transpose(3, 2, 0, 1).copy())
    return conv


def _pointwise(weight: np.ndarray, stride: int = 1) -> Any:
    return _convolution(weight[None, None], stride, "valid", 1)


def _depthwise(weight: np.ndarray, stride: int, padding: str) -> Any:
    """weight: (kh, kw, c); one input channel per group."""
    return _convolution(weight[:, :, None], stride, padding, weight.shape[2])


def _separable(module: Any) -> Any:
    before = [tnn.ReLU()] if module.relu else []
    depthwise = _depthwise(module.depthwise.data, module.stride, module.padding)
    return tnn.Sequential(*before, depthwise, _pointwise(module.pointwise.data))


def _batchnorm(module: Any) -> Any:
    bn = tnn.BatchNorm2d(module.gamma.shape[0], module.eps, 1 - module.momentum)
    for name, t in (("weight", module.gamma), ("bias", module.beta)):
        getattr(bn, name).data = torch.from_numpy(t.data.copy())
    bn.running_mean = torch.from_numpy(module.running_mean.data.copy())
    bn.running_var = torch.from_numpy(module.running_var.data.copy())
    return bn


def _linear(module: Any) -> Any:
    linear = tnn.Linear(*module.weight.shape)
    linear.weight.data = torch.from_numpy(module.weight.data.T.copy())
    linear.bias.data = torch.from_numpy(module.bias.data.copy())
    return linear


_LEAVES: dict[type, Any] = {
    nn.Conv2d: lambda m: _convolution(m.weight.data, m.stride, m.padding, m.groups),
    nn.DepthwiseConv2d: lambda m: _depthwise(m.weight.data, m.stride, m.padding),
    nn.PointwiseConv2d: lambda m: _pointwise(m.weight.data, m.stride),
    nn.SeparableConv2d: _separable,
    nn.BatchNorm2d: _batchnorm,
    nn.Activation: lambda m: {"relu": tnn.ReLU, "elu": tnn.ELU}[m.name](),
    nn.MaxPool2d: lambda m: _SamePool(),
    nn.GlobalAvgPool: lambda m: _Mean(),
    nn.Linear: _linear,
}
