"""Solutions of notebook 02, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np


def conv2d(x, w, stride):
    n, h, wd, _ = x.shape
    k, _, _, co = w.shape
    ho, wo = -(-h // stride), -(-wd // stride)
    down, across = max((ho - 1) * stride + k - h, 0), max((wo - 1) * stride + k - wd, 0)
    xp = np.pad(x, ((0, 0), (down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)))
    y = np.zeros((n, ho, wo, co), x.dtype)
    for a in range(k):
        for b in range(k):
            y += xp[:, a : a + stride * ho : stride, b : b + stride * wo : stride] @ w[a, b]  # (n, ho, wo, co)
    return y


SOLUTIONS: dict[str, Any] = {"conv2d-forward": conv2d, "block1-macs": 398_297_088, "few-pixels": "B"}


def slide(x, w, stride, before, after):
    """Windows over x with the given padding on all sides, output by output."""
    n, h, wd, _ = x.shape
    k, co = w.shape[0], w.shape[3]
    ho, wo = -(-h // stride), -(-wd // stride)
    xp = np.pad(x, ((0, 0), (before[0], after[0]), (before[1], after[1]), (0, 0)))
    y = np.zeros((n, ho, wo, co), x.dtype)
    for i in range(ho):
        for j in range(wo):
            window = xp[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.tensordot(window, w, 3)
    return y


def needed(size, k, stride):
    return max((-(-size // stride) - 1) * stride + k - size, 0)


def extra_pixel_first(x, w, stride):
    total = [needed(size, len(w), stride) for size in x.shape[1:3]]
    after = [t // 2 for t in total]
    return slide(x, w, stride, [t - a for t, a in zip(total, after, strict=True)], after)


def like_pytorch(x, w, stride):
    p = len(w) // 2
    return slide(x, w, stride, (p, p), (p, p))


def subsampled(x, w, stride):
    return np.ascontiguousarray(conv2d(x, w, 1)[:, ::stride, ::stride])


def valid(x, w, stride):
    k, co = w.shape[0], w.shape[3]
    ho, wo = (x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1
    y = np.zeros((len(x), ho, wo, co), x.dtype)
    for i in range(ho):
        for j in range(wo):
            y[:, i, j] = np.tensordot(x[:, i * stride : i * stride + k, j * stride : j * stride + k], w, 3)
    return y


def turned(x, w, stride):
    return conv2d(x, np.flip(w, (0, 1)), stride)


def transposed(x, w, stride):
    return conv2d(x, w.swapaxes(0, 1), stride)


def creeping_float64(x, w, stride):
    y = np.zeros((len(x), -(-x.shape[1] // stride), -(-x.shape[2] // stride), w.shape[3]))
    y += conv2d(x, w, stride)
    return y


MISTAKES: list[tuple[str, Any, str]] = [
    ("conv2d-forward", extra_pixel_first, "on the wrong side"),
    ("conv2d-forward", like_pytorch, "PyTorch's habit"),
    ("conv2d-forward", subsampled, "outputs of stride 1"),
    ("conv2d-forward", valid, "only windows that lie inside"),
    ("conv2d-forward", turned, "180 degrees"),
    ("conv2d-forward", transposed, "The kernel is transposed"),
    ("conv2d-forward", creeping_float64, "make float64 creep in"),
    ("block1-macs", 149**2 * 9 * 32 * 64, "How many windows fit"),
    ("block1-macs", 796_594_176, "A MAC is a multiplication and an add"),
    ("block1-macs", 147**2 * 32 * 64, "what of the window?"),
    ("block1-macs", 18_432, "These are the parameters"),
    ("few-pixels", "A", "less to multiply"),
    ("few-pixels", "C", "too many, not too few"),
    ("few-pixels", "D", "What else does the layer read"),
]
