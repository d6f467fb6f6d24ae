"""Solutions of notebook 04, and wrong answers with words of the verdict that they get.

The wrong kernels are left uncompiled, which is quicker here; the check sees the same in both.
"""

from __future__ import annotations

from typing import Any

from numba import njit, prange


@njit(parallel=True, fastmath={"contract"}, error_model="numpy")
def depthwise_kernel(x, w, y):
    n, h, wd, c = x.shape
    for line in prange(n * h):
        m, i = line // h, line % h
        for j in range(wd):
            for q in range(c):
                y[m, i, j, q] = 0
            for a in range(max(0, 1 - i), min(3, h + 1 - i)):
                for b in range(max(0, 1 - j), min(3, wd + 1 - j)):
                    for q in range(c):
                        y[m, i, j, q] += x[m, i + a - 1, j + b - 1, q] * w[a, b, q]


SOLUTIONS: dict[str, Any] = {
    "tile-loads": 39,
    "depthwise-kernel": depthwise_kernel,
    "depthwise-batch": "C",
}


def kernel_transposed(x, w, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(h):
            for j in range(wd):
                y[m, i, j] = 0
                for a in range(3):
                    for b in range(3):
                        u, v = i + b - 1, j + a - 1
                        if 0 <= u < h and 0 <= v < wd:
                            y[m, i, j] += x[m, u, v] * w[a, b]


def kernel_rotated(x, w, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(h):
            for j in range(wd):
                y[m, i, j] = 0
                for a in range(3):
                    for b in range(3):
                        u, v = i - a + 1, j - b + 1
                        if 0 <= u < h and 0 <= v < wd:
                            y[m, i, j] += x[m, u, v] * w[a, b]


def padded_behind(x, w, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(h):
            for j in range(wd):
                y[m, i, j] = 0
                for a in range(min(3, h - i)):
                    for b in range(min(3, wd - j)):
                        y[m, i, j] += x[m, i + a, j + b] * w[a, b]


def padded_before(x, w, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(h):
            for j in range(wd):
                y[m, i, j] = 0
                for a in range(3):
                    for b in range(3):
                        if i + a >= 2 and j + b >= 2:
                            y[m, i, j] += x[m, i + a - 2, j + b - 2] * w[a, b]


def border_wraps(x, w, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(h):
            for j in range(wd):
                y[m, i, j] = 0
                for a in range(3):
                    for b in range(3):
                        u, v = i + a - 1, j + b - 1
                        if u < h and v < wd:
                            y[m, i, j] += x[m, u, v] * w[a, b]


def taps_in_parallel(x, w, y):
    h, wd = x.shape[1:3]
    y[:] = 0
    for a in prange(3):
        for b in range(3):
            for i in range(max(0, 1 - a), min(h, h + 1 - a)):
                for j in range(max(0, 1 - b), min(wd, wd + 1 - b)):
                    y[:, i, j] += x[:, i + a - 1, j + b - 1] * w[a, b]


def input_rows_in_parallel(x, w, y):
    h, wd = x.shape[1:3]
    y[:] = 0
    for u in prange(h):
        for a in range(3):
            i = u + 1 - a
            if 0 <= i < h:
                for j in range(wd):
                    for b in range(max(0, 1 - j), min(3, wd + 1 - j)):
                        y[:, i, j] += x[:, u, j + b - 1] * w[a, b]


def never_zeroed(x, w, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(1, h - 1):
            for j in range(1, wd - 1):
                y[m, i, j] = 0
                for a in range(3):
                    for b in range(3):
                        y[m, i, j] += x[m, i + a - 1, j + b - 1] * w[a, b]


MISTAKES: list[tuple[str, Any, str]] = [
    ("tile-loads", 30, "The weights must be loaded"),
    ("tile-loads", 216, "nothing stays in registers"),
    ("tile-loads", 108, "the number of multiply-adds"),
    ("tile-loads", 117, "once for each output"),
    ("depthwise-kernel", kernel_transposed, "changed places"),
    ("depthwise-kernel", kernel_rotated, "rotated by 180 degrees"),
    ("depthwise-kernel", padded_behind, "below and to the right"),
    ("depthwise-kernel", padded_before, "above and to the left"),
    ("depthwise-kernel", border_wraps, "index -1 is the last one"),
    ("depthwise-kernel", taps_in_parallel, "Let each own the cells"),
    ("depthwise-kernel", input_rows_in_parallel, "Let each own the cells it writes"),
    ("depthwise-kernel", never_zeroed, "added to before it was set"),
    ("depthwise-batch", "A", "their ratio"),
    ("depthwise-batch", "D", "One call filters the whole batch"),
]
