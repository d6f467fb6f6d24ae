"""Solutions of notebook 10, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange


@njit(parallel=True)
def fused(x, wd, wp, y):
    n, h, w, c = x.shape
    for row in prange(n * h):
        m, i = row // h, row % h
        z = np.empty(c, x.dtype)  # one pixel of the depthwise result
        for j in range(w):
            z[:] = 0
            for a in range(3):
                for b in range(3):
                    u, v = i + a - 1, j + b - 1
                    if 0 <= u < h and 0 <= v < w:
                        for k in range(c):
                            z[k] += max(x[m, u, v, k], 0) * wd[a, b, k]
            y[m, i, j] = 0
            for k in range(c):
                for o in range(wp.shape[1]):
                    y[m, i, j, o] += z[k] * wp[k, o]


@njit(parallel=True)
def normalised(x, mean, scale, shift, wd, y):
    n, h, w, c = x.shape
    for row in prange(n * h):
        m, i = row // h, row % h
        for j in range(w):
            y[m, i, j] = 0
            for a in range(3):
                for b in range(3):
                    u, v = i + a - 1, j + b - 1
                    if 0 <= u < h and 0 <= v < w:
                        for k in range(c):
                            y[m, i, j, k] += max((x[m, u, v, k] - mean[k]) * scale[k] + shift[k], 0) * wd[a, b, k]


SOLUTIONS: dict[str, Any] = {
    "depthwise-intensity": 2.25,
    "fused-kernel": fused,
    "normalise-on-load": normalised,
    "large-batch": "B",
}


def one_pixel(x, wd, m, i, j, relu=True, start=-1):
    """The depthwise result at a pixel, in plain Python."""
    z = np.zeros(x.shape[3], x.dtype)
    for a in range(3):
        for b in range(3):
            u, v = i + a + start, j + b + start
            if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                z += (np.maximum(x[m, u, v], 0) if relu else x[m, u, v]) * wd[a, b]
    return z


def without_relu(x, wd, wp, y):
    for m, i, j in np.ndindex(x.shape[:3]):
        y[m, i, j] = one_pixel(x, wd, m, i, j, relu=False) @ wp


def relu_between(x, wd, wp, y):
    for m, i, j in np.ndindex(x.shape[:3]):
        y[m, i, j] = np.maximum(one_pixel(x, wd, m, i, j, relu=False), 0) @ wp


def relu_behind(x, wd, wp, y):
    for m, i, j in np.ndindex(x.shape[:3]):
        y[m, i, j] = np.maximum(one_pixel(x, wd, m, i, j, relu=False) @ wp, 0)


def buffer_kept(x, wd, wp, y):
    n, h, w, c = x.shape
    for m in range(n):
        for i in range(h):
            z = np.zeros(c, x.dtype)
            for j in range(w):
                z += one_pixel(x, wd, m, i, j)
                y[m, i, j] = z @ wp


def without_padding_before(x, wd, wp, y):
    for m, i, j in np.ndindex(x.shape[:3]):
        y[m, i, j] = one_pixel(x, wd, m, i, j, start=0) @ wp


def prange_over_channels(x, wd, wp, y):
    y[...] = 0
    for k in prange(x.shape[3]):
        for m, i, j in np.ndindex(x.shape[:3]):
            y[m, i, j] += one_pixel(x, wd, m, i, j)[k] * wp[k]


def windows(x, wd, y, value, outside=None):
    """Fill y with the depthwise convolution of value(pixel); outside: what a tap beyond the border meets, if any."""
    for m, i, j in np.ndindex(x.shape[:3]):
        y[m, i, j] = 0
        for a in range(3):
            for b in range(3):
                u, v = i + a - 1, j + b - 1
                if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                    y[m, i, j] += value(x[m, u, v]) * wd[a, b]
                elif outside is not None:
                    y[m, i, j] += outside * wd[a, b]


def border_normalised(x, mean, scale, shift, wd, y):
    def value(pixel):
        return np.maximum((pixel - mean) * scale + shift, 0)

    windows(x, wd, y, value, outside=value(np.zeros_like(mean)))


def no_relu(x, mean, scale, shift, wd, y):
    windows(x, wd, y, lambda pixel: (pixel - mean) * scale + shift)


def relu_first(x, mean, scale, shift, wd, y):
    windows(x, wd, y, lambda pixel: (np.maximum(pixel, 0) - mean) * scale + shift)


def result_normalised(x, mean, scale, shift, wd, y):
    windows(x, wd, y, lambda pixel: pixel)
    y[...] = np.maximum((y - mean) * scale + shift, 0)


def mean_added(x, mean, scale, shift, wd, y):
    windows(x, wd, y, lambda pixel: np.maximum((pixel + mean) * scale + shift, 0))


MISTAKES: list[tuple[str, Any, str]] = [
    ("depthwise-intensity", 1.125, "a MAC is two FLOP"),
    ("depthwise-intensity", 4.5, "and one is written"),
    ("depthwise-intensity", 9, "has 4 bytes"),
    ("depthwise-intensity", 0.45, "neighbouring outputs"),
    ("fused-kernel", without_relu, "Where is the ReLU"),
    ("fused-kernel", relu_between, "not to what the depthwise half"),
    ("fused-kernel", relu_behind, "not to y"),
    ("fused-kernel", buffer_kept, "set it to 0 for each pixel"),
    ("fused-kernel", without_padding_before, "begins at the output's own pixel"),
    ("fused-kernel", prange_over_channels, "Let each own the cells"),
    ("normalise-on-load", border_normalised, "0 after batch normalisation, not before"),
    ("normalise-on-load", no_relu, "Where is the ReLU"),
    ("normalise-on-load", relu_first, "first the line, then the maximum"),
    ("normalise-on-load", result_normalised, "not what the convolution makes of it"),
    ("normalise-on-load", mean_added, "taken away"),
    ("large-batch", "A", "one call for the whole batch"),
    ("large-batch", "C", "A maximum costs the same"),
    ("large-batch", "D", "would suffer most"),
]
