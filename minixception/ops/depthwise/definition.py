"""1. Definition: depthwise convolution in NumPy. The reference that every other rung is tested against."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..window import Border, Pair, pad_image, taps


def forward_numpy(
    x: np.ndarray, w: np.ndarray, *, stride: Pair, padding: Border, dilation: Pair = 1
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """One shifted copy of x per tap of the kernel, each scaled by that tap and summed."""
    xp, outputs, _ = pad_image(x, w.shape[:2], stride, padding, dilation)  # (n, hp, wp, c), (ho, wo)
    y = np.zeros((x.shape[0], *outputs, x.shape[3]), x.dtype)
    for a, b, window in taps(w.shape[:2], stride, outputs, dilation):
        y += xp[window] * w[a, b]  # (n, ho, wo, c)
    return y, (x, w, stride, padding)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...], dilation: Pair = 1) -> tuple[np.ndarray, np.ndarray]:
    """dy scattered back along each tap; and dy correlated with the shifted x for the tap itself."""
    x, w, stride, padding = saved
    xp, outputs, inside = pad_image(x, w.shape[:2], stride, padding, dilation)  # (n, hp, wp, c), (ho, wo)
    dxp = np.zeros_like(xp)
    dw = np.empty_like(w)
    for a, b, window in taps(w.shape[:2], stride, outputs, dilation):
        dxp[window] += dy * w[a, b]  # (n, ho, wo, c)
        dw[a, b] = np.einsum("nijc,nijc->c", dy, xp[window])  # (c,)
    return np.ascontiguousarray(dxp[inside]), dw
