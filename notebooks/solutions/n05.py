"""Solutions of notebook 05, and wrong answers with words of the verdict that they get.

The wrong kernels are left uncompiled, which is quicker here; the check sees the same in both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange


def pack(w, width):
    ci, co = w.shape
    panels = -(-co // width)
    packed = np.zeros((panels, ci, width), w.dtype)
    for panel in range(panels):
        columns = w[:, panel * width : (panel + 1) * width]  # (ci, up to width)
        packed[panel, :, : columns.shape[1]] = columns
    return packed


@njit(parallel=True, fastmath={"contract"}, error_model="numpy")
def pointwise_kernel(x, w, y):
    for i in prange(x.shape[0]):
        for o in range(w.shape[1]):
            y[i, o] = 0
        for c in range(x.shape[1]):
            for o in range(w.shape[1]):
                y[i, o] += x[i, c] * w[c, o]


SOLUTIONS: dict[str, Any] = {
    "tile-registers": 28,
    "tile-too-large": "B",
    "pack-panels": pack,
    "pointwise-kernel": pointwise_kernel,
}


def pack_by_reshape(w, width):
    ci, co = w.shape
    panels = -(-co // width)
    padded = np.zeros((ci, panels * width), w.dtype)
    padded[:, :co] = w
    return padded.reshape(panels, ci, width)


def pack_with_zeros_in_front(w, width):
    ci, co = w.shape
    panels = -(-co // width)
    padded = np.zeros((ci, panels * width), w.dtype)
    padded[:, panels * width - co :] = w
    return np.ascontiguousarray(padded.reshape(ci, panels, width).transpose(1, 0, 2))


def pack_in_float64(w, width):
    ci, co = w.shape
    panels = -(-co // width)
    padded = np.zeros((ci, panels * width))
    padded[:, :co] = w
    return np.ascontiguousarray(padded.reshape(ci, panels, width).transpose(1, 0, 2))


def pack_a_view(w, width):
    ci, co = w.shape
    panels = -(-co // width)
    padded = np.zeros((ci, panels * width), w.dtype)
    padded[:, :co] = w
    return padded.reshape(ci, panels, width).transpose(1, 0, 2)


def pack_whole_panels(w, width):
    ci, co = w.shape
    panels = co // width
    return np.ascontiguousarray(w[:, : panels * width].reshape(ci, panels, width).transpose(1, 0, 2))


def product_transposed(x, w, y):
    for i in prange(x.shape[0]):
        for o in range(w.shape[1]):
            y[i, o] = 0
            for c in range(x.shape[1]):
                y[i, o] += x[i, c] * w[o, c]


def product_overwritten(x, w, y):
    for i in prange(x.shape[0]):
        for c in range(x.shape[1]):
            for o in range(w.shape[1]):
                y[i, o] = x[i, c] * w[c, o]


def product_one_short(x, w, y):
    for i in prange(x.shape[0]):
        for o in range(w.shape[1]):
            y[i, o] = 0
        for c in range(1, x.shape[1]):
            for o in range(w.shape[1]):
                y[i, o] += x[i, c] * w[c, o]


def channels_in_parallel(x, w, y):
    y[:] = 0
    for c in prange(x.shape[1]):
        for i in range(x.shape[0]):
            for o in range(w.shape[1]):
                y[i, o] += x[i, c] * w[c, o]


def zeroed_by_everybody(x, w, y):
    for i in prange(x.shape[0]):
        y[:] = 0
        for c in range(x.shape[1]):
            y[i] += x[i, c] * w[c]


MISTAKES: list[tuple[str, Any, str]] = [
    ("tile-registers", 24, "What is added to them"),
    ("tile-registers", 27, "the element of the input"),
    ("tile-registers", 35, "it may be forgotten"),
    ("tile-too-large", "A", "the same whatever the tile"),
    ("tile-too-large", "C", "Is the tallest tile wide?"),
    ("pack-panels", pack_by_reshape, "neighbouring columns"),
    ("pack-panels", pack_with_zeros_in_front, "on the wrong side"),
    ("pack-panels", pack_in_float64, "make float64 creep in"),
    ("pack-panels", pack_a_view, "np.ascontiguousarray copies it"),
    ("pack-panels", pack_whole_panels, "round the number up"),
    ("pointwise-kernel", product_transposed, "w[c, o] leads from"),
    ("pointwise-kernel", product_overwritten, "do not write over it"),
    ("pointwise-kernel", product_one_short, "The first input channel is missing"),
    ("pointwise-kernel", channels_in_parallel, "Let each own the cells"),
    ("pointwise-kernel", zeroed_by_everybody, "Let each own the cells it writes"),
]
