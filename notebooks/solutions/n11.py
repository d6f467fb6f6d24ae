"""Solutions of notebook 11, and wrong answers with words of the verdict that they get.

The wrong kernels are left uncompiled, which is quicker here; the check sees the same in both.
"""

from __future__ import annotations

from typing import Any

from numba import njit, prange


@njit(parallel=True, fastmath={"contract"}, error_model="numpy")
def own_forward(x, w, stride, top, left, y):
    n, h, wd, c = x.shape
    kh, kw, _ = w.shape
    _, ho, wo, _ = y.shape
    for line in prange(n * ho):
        m, i = line // ho, line % ho
        for j in range(wo):
            for q in range(c):
                y[m, i, j, q] = 0
            for a in range(kh):
                for b in range(kw):
                    u, v = i * stride + a - top, j * stride + b - left
                    if 0 <= u < h and 0 <= v < wd:
                        for q in range(c):
                            y[m, i, j, q] += x[m, u, v, q] * w[a, b, q]


@njit(parallel=True, fastmath={"contract"}, error_model="numpy")
def own_weight_gradient(dy, x, stride, top, left, dw):
    n, h, wd, c = x.shape
    _, ho, wo, _ = dy.shape
    kh, kw, _ = dw.shape
    for tap in prange(kh * kw):
        a, b = tap // kw, tap % kw
        for q in range(c):
            dw[a, b, q] = 0
        for m in range(n):
            for i in range(ho):
                for j in range(wo):
                    u, v = i * stride + a - top, j * stride + b - left
                    if 0 <= u < h and 0 <= v < wd:
                        for q in range(c):
                            dw[a, b, q] += dy[m, i, j, q] * x[m, u, v, q]


SOLUTIONS: dict[str, Any] = {
    "own-forward": own_forward,
    "amdahl": 1.15,
    "own-weight-gradient": own_weight_gradient,
}


def forward_transposed(x, w, stride, top, left, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                y[m, i, j] = 0
                for a in range(w.shape[0]):
                    for b in range(w.shape[1]):
                        u, v = i * stride + a - top, j * stride + b - left
                        if 0 <= u < h and 0 <= v < wd:
                            y[m, i, j] += x[m, u, v] * w[b, a]


def forward_rotated(x, w, stride, top, left, y):
    n, h, wd, _ = x.shape
    kh, kw, _ = w.shape
    for m in prange(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                y[m, i, j] = 0
                for a in range(kh):
                    for b in range(kw):
                        u, v = i * stride + a - top, j * stride + b - left
                        if 0 <= u < h and 0 <= v < wd:
                            y[m, i, j] += x[m, u, v] * w[kh - 1 - a, kw - 1 - b]


def forward_without_top_and_left(x, w, stride, top, left, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                y[m, i, j] = 0
                for a in range(w.shape[0]):
                    for b in range(w.shape[1]):
                        u, v = i * stride + a, j * stride + b
                        if u < h and v < wd:
                            y[m, i, j] += x[m, u, v] * w[a, b]


def forward_centred(x, w, stride, top, left, y):
    n, h, wd, _ = x.shape
    for m in prange(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                y[m, i, j] = 0
                for a in range(w.shape[0]):
                    for b in range(w.shape[1]):
                        u, v = i * stride + a - w.shape[0] // 2, j * stride + b - w.shape[1] // 2
                        if 0 <= u < h and 0 <= v < wd:
                            y[m, i, j] += x[m, u, v] * w[a, b]


def forward_scattered(x, w, stride, top, left, y):
    h, wd = x.shape[1:3]
    y[:] = 0
    for u in prange(h):
        for i in range(y.shape[1]):
            a = u + top - i * stride
            if 0 <= a < w.shape[0]:
                for j in range(y.shape[2]):
                    for b in range(w.shape[1]):
                        v = j * stride + b - left
                        if 0 <= v < wd:
                            y[:, i, j] += x[:, u, v] * w[a, b]


def add_image(dy, x, stride, top, left, dw, m):
    for a in range(3):
        for b in range(3):
            for i in range(dy.shape[1]):
                for j in range(dy.shape[2]):
                    u, v = i * stride + a - top, j * stride + b - left
                    if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                        dw[a, b] += dy[m, i, j] * x[m, u, v]


def gradient_of_first_image(dy, x, stride, top, left, dw):
    dw[:] = 0
    add_image(dy, x, stride, top, left, dw, 0)


def gradient_of_last_image(dy, x, stride, top, left, dw):
    for m in range(len(x)):
        dw[:] = 0
        add_image(dy, x, stride, top, left, dw, m)


def gradient_transposed(dy, x, stride, top, left, dw):
    dw[:] = 0
    for m in range(len(x)):
        add_image(dy.swapaxes(1, 2), x.swapaxes(1, 2), stride, left, top, dw, m)


def gradient_rotated(dy, x, stride, top, left, dw):
    dw[:] = 0
    for m in range(len(x)):
        add_image(dy, x, stride, top, left, dw[::-1, ::-1], m)


def gradient_without_top_and_left(dy, x, stride, top, left, dw):
    dw[:] = 0
    for m in range(len(x)):
        add_image(dy, x, stride, 0, 0, dw, m)


def images_in_parallel(dy, x, stride, top, left, dw):
    dw[:] = 0
    for m in prange(x.shape[0]):
        for a in range(3):
            for b in range(3):
                for i in range(dy.shape[1]):
                    for j in range(dy.shape[2]):
                        u, v = i * stride + a - top, j * stride + b - left
                        if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                            dw[a, b] += dy[m, i, j] * x[m, u, v]


MISTAKES: list[tuple[str, Any, str]] = [
    ("own-forward", forward_transposed, "changed places"),
    ("own-forward", forward_rotated, "rotated by 180 degrees"),
    ("own-forward", forward_without_top_and_left, "all of it behind the image"),
    ("own-forward", forward_centred, "as PyTorch does"),
    ("own-forward", forward_scattered, "Let each own the cells"),
    ("amdahl", 3, "Only a fifth"),
    ("amdahl", 1.25, "no time at all"),
    ("amdahl", 0.867, "the time that is left"),
    ("amdahl", 1.4, "Add times, not speeds"),
    ("own-weight-gradient", gradient_of_first_image, "sum over the batch"),
    ("own-weight-gradient", gradient_of_last_image, "do not write over"),
    ("own-weight-gradient", gradient_transposed, "changed places"),
    ("own-weight-gradient", gradient_rotated, "dw does not"),
    ("own-weight-gradient", gradient_without_top_and_left, "top and left included"),
    ("own-weight-gradient", images_in_parallel, "Let each own the cells"),
]
