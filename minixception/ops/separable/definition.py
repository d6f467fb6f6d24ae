"""1. Definition: separable convolution is the depthwise definition followed by the pointwise one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..depthwise import definition as depthwise_numpy
from ..pointwise import definition as pointwise_numpy
from ..window import Padding


def chain_forward(depthwise: Callable[..., Any], pointwise: Callable[..., Any]) -> Callable[..., Any]:
    """The forward pass made of a depthwise and a pointwise one."""

    def forward(
        x: np.ndarray, wd: np.ndarray, wp: np.ndarray, *, stride: int, padding: Padding, relu: bool
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        z, _ = depthwise(np.maximum(x, 0) if relu else x, wd, stride=stride, padding=padding)  # (n, ho, wo, ci)
        y, _ = pointwise(z, wp, stride=1)  # (n, ho, wo, co)
        return y, (x, wd, wp, stride, padding, relu)

    return forward


def chain_backward(
    depthwise: Callable[..., Any], depthwise_backward: Callable[..., Any], pointwise_backward: Callable[..., Any]
) -> Callable[..., Any]:
    """The backward pass made of a pointwise and a depthwise one; z is computed again, not kept."""

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x, wd, wp, stride, padding, relu = saved
        z, saved_depthwise = depthwise(np.maximum(x, 0) if relu else x, wd, stride=stride, padding=padding)
        dz, dwp = pointwise_backward(dy, (z, wp, 1))  # (n, ho, wo, ci), (ci, co)
        dx, dwd = depthwise_backward(dz, saved_depthwise)  # (n, h, w, ci), (kh, kw, ci)
        return np.where(x > 0, dx, 0) if relu else dx, dwd, dwp

    return backward


forward_numpy = chain_forward(depthwise_numpy.forward_numpy, pointwise_numpy.forward_numpy)
backward_numpy = chain_backward(
    depthwise_numpy.forward_numpy, depthwise_numpy.backward_numpy, pointwise_numpy.backward_numpy
)
