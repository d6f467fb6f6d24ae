"""1. Definition: convolution in NumPy. The reference that every other rung is tested against."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..window import Border, Pair, pad_image, taps


def forward_numpy(
    x: np.ndarray, w: np.ndarray, *, stride: Pair, padding: Border, groups: int, dilation: Pair = 1
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """One matrix product over the channels per tap and group, summed."""
    kh, kw, ci, co = w.shape  # ci: input channels of one group
    wg = w.reshape(kh, kw, ci, groups, co // groups)
    xp, outputs, _ = pad_image(x, (kh, kw), stride, padding, dilation)  # (n, hp, wp, groups * ci), (ho, wo)
    xg = xp.reshape(*xp.shape[:3], groups, ci)
    y = np.zeros((x.shape[0], *outputs, groups, co // groups), x.dtype)
    for a, b, window in taps((kh, kw), stride, outputs, dilation):
        y += np.einsum("nijgc,cgo->nijgo", xg[window], wg[a, b], optimize=True)  # (n, ho, wo, groups, co/groups)
    return y.reshape(*y.shape[:3], co), (x, w, stride, padding, groups)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...], dilation: Pair = 1) -> tuple[np.ndarray, np.ndarray]:
    """dy sent back along each tap by that tap's transpose; and the product of the shifted x with dy for the tap."""
    x, w, stride, padding, groups = saved
    kh, kw, ci, co = w.shape
    wg = w.reshape(kh, kw, ci, groups, co // groups)
    dyg = dy.reshape(*dy.shape[:3], groups, co // groups)
    xp, outputs, inside = pad_image(x, (kh, kw), stride, padding, dilation)
    xg = xp.reshape(*xp.shape[:3], groups, ci)
    dxg, dwg = np.zeros_like(xg), np.empty_like(wg)
    for a, b, window in taps((kh, kw), stride, outputs, dilation):
        dxg[window] += np.einsum("nijgo,cgo->nijgc", dyg, wg[a, b], optimize=True)  # (n, ho, wo, groups, ci)
        dwg[a, b] = np.einsum("nijgc,nijgo->cgo", xg[window], dyg, optimize=True)  # (ci, groups, co/groups)
    return np.ascontiguousarray(dxg.reshape(xp.shape)[inside]), dwg.reshape(w.shape)
