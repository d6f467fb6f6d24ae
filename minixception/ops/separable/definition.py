"""1. Definition: separable convolution is the depthwise definition followed by the pointwise one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..depthwise import definition as depthwise_numpy
from ..pointwise import definition as pointwise_numpy


def chain_forward(depthwise: Callable[..., Any], pointwise: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass made of a depthwise and a pointwise one."""

    def forward(
        x: np.ndarray, wd: np.ndarray, wp: np.ndarray, *, stride: int, padding: str
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        z, saved_depthwise = depthwise(x, wd, stride=stride, padding=padding)  # (n, ho, wo, ci)
        y, saved_pointwise = pointwise(z, wp, stride=1)  # (n, ho, wo, co)
        return y, (saved_depthwise, saved_pointwise)

    return forward


def chain_backward(depthwise: Callable[..., Any], pointwise: Callable[..., Any]) -> Callable[..., Any]:
    """The backward pass made of a pointwise and a depthwise one."""

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        saved_depthwise, saved_pointwise = saved
        dz, dwp = pointwise(dy, saved_pointwise)  # (n, ho, wo, ci), (ci, co)
        dx, dwd = depthwise(dz, saved_depthwise)  # (n, h, w, ci), (kh, kw, ci)
        return dx, dwd, dwp

    return backward


forward_numpy = chain_forward(depthwise_numpy.forward_numpy, pointwise_numpy.forward_numpy)
backward_numpy = chain_backward(depthwise_numpy.backward_numpy, pointwise_numpy.backward_numpy)
