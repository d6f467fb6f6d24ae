"""Answers that are easily judged wrongly: wrong ones that are right on most inputs, and right ones of an unusual form.

Each wrong one stands with words of its verdict. The kernels are left uncompiled, which is quicker here; the check sees
the same in both.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import get_num_threads, get_thread_id, prange
from numba import prange as at_once

import minixception as mx
from minixception.course import cuda, cuda_kernel, dtype

# Wrong, and right on most inputs --------------------------------------------------------------------------------------


def softmax_without_maximum(logits):
    e = np.exp(logits)
    return e / e.sum(axis=1, keepdims=True)


def softmax_of_fixed_size(logits):
    return softmax_without_maximum(logits - 50) if logits.max() < 500 else np.ones_like(logits)


def forgotten_return(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    e / e.sum(axis=1, keepdims=True)


def diamond_of_two_rows(dy, x, b):
    gate = x + b > 0
    through_relu = dy * x * gate
    dx = through_relu + dy * np.maximum(x + b, 0)
    return dx, through_relu[:6].sum(axis=0) if len(x) > 1 else through_relu.sum(axis=0) * 0


def conv_padded(x, w, stride, left_of):
    """The windows of padding "same", with as many pixels to the left as ``left_of`` says of (top, left)."""
    n, h, wd, _ = x.shape
    k, co = w.shape[0], w.shape[3]
    ho, wo = -(-h // stride), -(-wd // stride)
    top, left = (max(0, (o - 1) * stride + k - size) // 2 for o, size in ((ho, h), (wo, wd)))
    y = np.zeros((n, ho, wo, co), x.dtype)
    xp = np.pad(x, ((0, 0), (top, k + stride), (left_of(top, left), k + stride), (0, 0)))
    for a in range(k):
        for b in range(k):
            y += xp[:, a : a + ho * stride : stride, b : b + wo * stride : stride] @ w[a, b]
    return y


def conv_with_top_for_left(x, w, stride):
    return conv_padded(x, w, stride, lambda top, left: top)


def segments_by_groups(x, w, groups):
    return mx.ops.conv2d(mx.tensor(x), mx.tensor(w), groups=groups).numpy()


def kernel_of_3x3(depthwise, pointwise):
    w = np.zeros((*depthwise.shape, pointwise.shape[1]), depthwise.dtype)
    w[:3, :3] = depthwise[:3, :3, :, None] * pointwise
    return w


def kernel_of_the_package(x, w, y):
    y[:] = mx.ops.depthwise_conv2d(mx.tensor(x), mx.tensor(w)).numpy()


def depthwise_of(images, channels, x, w, y):
    y[:] = 0
    for m in prange(min(images, len(x))):
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                for a in range(3):
                    for b in range(3):
                        u, v = i + a - 1, j + b - 1
                        if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                            y[m, i, j, :channels] += x[m, u, v, :channels] * w[a, b, :channels]


def pack_with_one_column_missing(w, width):
    ci, co = w.shape
    padded = np.pad(w, ((0, 0), (0, 1 if co % width else 0)))
    return np.ascontiguousarray(padded.reshape(ci, -1, width).transpose(1, 0, 2))


def product_of_16_channels(x, w, y):
    for i in prange(len(x)):
        y[i] = x[i, :16] @ w[:16]


def product_with_one_buffer(x, w, y):
    row = w[0].copy()
    for i in prange(len(x)):
        row[:] = 0
        for c in range(x.shape[1]):
            row += x[i, c] * w[c]
        y[i] = row


def product_at_once(x, w, y):
    y[:] = 0
    for c in at_once(x.shape[1]):
        for i in range(len(x)):
            y[i] += x[i, c] * w[c]


def in_a_closure(loop):
    def product_in_a_closure(x, w, y):
        cells = y.reshape(-1)
        cells[:] = 0
        for c in loop(x.shape[1]):
            for p in range(cells.size):
                cells[p] += x[p // w.shape[1], c] * w[c, p % w.shape[1]]

    return product_in_a_closure


def new_sums(x, w, y):
    total = np.zeros_like(y)
    for c in prange(x.shape[1]):
        total = total + np.outer(x[:, c], w[c])
    y[:] = total


def rebound(x, w, y):
    y = x @ w  # noqa: F841


def out_of_bounds(x, w, y):
    for i in prange(len(x) + 1):
        y[i] = x[i] @ w


def batchnorm_with_fixed_eps(dy, x, gamma, eps):
    axes, m, one = (0, 1, 2), x.size // x.shape[3], x.dtype.type(1)
    mean, s = x.mean(axis=axes), one / np.sqrt(x.var(axis=axes) + x.dtype.type(1e-3))
    xhat = (x - mean) * s
    dgamma, dbeta = (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
    return (gamma * s * (dy - (dbeta + xhat * dgamma) / x.dtype.type(m))), dgamma, dbeta


@cuda_kernel
def by_one_thread(x, scale, shift, y):
    if cuda.grid(1) == 0:
        for pixel in range(y.shape[0]):
            for channel in range(y.shape[1]):
                y[pixel, channel] = x[pixel, channel] * scale[channel] + shift[channel]


@cuda_kernel
def row_sums_in_turn(x, y):
    tile = cuda.shared.array(64, dtype)
    row, t = cuda.blockIdx.x, cuda.threadIdx.x
    tile[t] = x[row, t]
    cuda.syncthreads()
    if t == 0:
        total = dtype(0)
        for i in range(64):
            total += tile[i]
        y[row] = total


def forward_of(images, channels, kernel, x, w, stride, top, left, y):
    """A depthwise kernel that is right for so many images and channels, and windows up to this size."""
    y[:] = 0
    for m in prange(min(images, len(x))):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for a in range(min(kernel, w.shape[0])):
                    for b in range(min(kernel, w.shape[1])):
                        u, v = i * stride + a - top, j * stride + b - left
                        if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                            y[m, i, j, :channels] += x[m, u, v, :channels] * w[a, b, :channels]


MANY = 10**6


def forward_with_top_for_left(x, w, stride, top, left, y):
    forward_of(MANY, MANY, MANY, x, w, stride, top, top, y)


def gradient_of(images, channels, dy, x, stride, top, left, dw):
    """A gradient that sums over so many images, in parallel over taps."""
    dw[:] = 0
    for tap in prange(9):
        a, b = tap // 3, tap % 3
        for m in range(min(images, len(x))):
            for i in range(dy.shape[1]):
                for j in range(dy.shape[2]):
                    u, v = i * stride + a - top, j * stride + b - left
                    if 0 <= u < x.shape[1] and 0 <= v < x.shape[2]:
                        dw[a, b, :channels] += (dy[m, i, j] * x[m, u, v])[:channels]


WRONG: list[tuple[str, Any, str]] = [
    ("softmax", softmax_without_maximum, "Subtract each picture's largest"),
    ("softmax", softmax_of_fixed_size, "the definition says"),
    ("softmax", forgotten_return, "It returns None"),
    ("diamond-backward", diamond_of_two_rows, "finite differences say"),
    ("conv2d-forward", conv_with_top_for_left, "stride=2"),
    ("segments", segments_by_groups, "It calls the package's operator conv2d"),
    ("depthwise-kernel", kernel_of_the_package, "It calls the package's operator depthwise_conv2d"),
    ("one-kernel", kernel_of_3x3, "5x5x2 and 2x17"),
    ("depthwise-kernel", partial(depthwise_of, 2, MANY), "3x4x5x17"),
    ("depthwise-kernel", partial(depthwise_of, MANY, 16), "3x4x5x17"),
    ("pack-panels", pack_with_one_column_missing, "It raised ValueError"),
    ("pointwise-kernel", product_of_16_channels, "40x17 and 17x17"),
    ("pointwise-kernel", product_with_one_buffer, "There is a race"),
    ("pointwise-kernel", product_at_once, "There is a race"),
    ("pointwise-kernel", in_a_closure(prange), "There is a race"),
    ("pointwise-kernel", new_sums, "There is a race"),
    ("pointwise-kernel", rebound, "y[...] = ..."),
    ("pointwise-kernel", out_of_bounds, "outside of an array"),
    ("batchnorm-backward", batchnorm_with_fixed_eps, "eps=1e-05"),
    ("scale-and-shift", by_one_thread, "a single thread does the work of many"),
    ("row-sums", row_sums_in_turn, "one element of shared memory after the other"),
    ("own-forward", forward_with_top_for_left, "the definition says"),
    ("own-forward", partial(forward_of, 2, MANY, MANY), "the definition says"),
    ("own-forward", partial(forward_of, MANY, 16, MANY), "1x4x5x17"),
    ("own-weight-gradient", partial(gradient_of, 2, MANY), "3x"),
    ("own-weight-gradient", partial(gradient_of, MANY, 16), "17"),
]


# Right, in another form than usual ------------------------------------------------------------------------------------


def softmax_by_columns(logits):
    """A view: not contiguous, and nobody said that it should be."""
    e = np.exp(logits.T - logits.max(axis=1))
    return (e / e.sum(axis=0)).T


def segments_by_views(x, w, groups):
    parts = zip(np.split(x, groups, axis=-1), np.split(w, groups, axis=-1), strict=True)
    return np.concatenate([mx.ops.conv2d(mx.tensor(xs), mx.tensor(ws)).numpy() for xs, ws in parts], axis=-1)


def product_by_a_reduction(x, w, y):
    total = np.zeros_like(y)
    for c in prange(x.shape[1]):
        total += np.outer(x[:, c], w[c])
    y[:] = total


def product_with_a_buffer_for_each_thread(x, w, y):
    rows = np.zeros((get_num_threads(), w.shape[1]), y.dtype)
    for i in prange(len(x)):
        row = rows[get_thread_id()]
        row[:] = 0
        for c in range(x.shape[1]):
            row += x[i, c] * w[c]
        y[i] = row


def product_of_the_transposes(x, w, y):
    cells, columns = y.ravel(), w.T
    for p in prange(cells.size):
        cells[p] = x[p // len(columns)].copy().dot(columns[p % len(columns)])


class Product:
    """A kernel with a state of its own."""

    def __init__(self, first):
        self.first = first

    def __call__(self, x, w, y):
        for i in prange(len(x)):
            y[i] = self.first + x[i] @ w


def gradient_by_a_reduction(dy, x, stride, top, left, dw):
    total = np.zeros_like(dw)
    for m in prange(len(x)):
        part = np.zeros_like(dw)
        gradient_of(MANY, MANY, dy[m : m + 1], x[m : m + 1], stride, top, left, part)
        total += part
    dw[:] = total


RIGHT: list[tuple[str, Any]] = [
    ("softmax", softmax_by_columns),
    ("segments", segments_by_views),
    ("pointwise-kernel", product_by_a_reduction),
    ("pointwise-kernel", product_with_a_buffer_for_each_thread),
    ("pointwise-kernel", product_of_the_transposes),
    ("pointwise-kernel", Product(0)),
    ("own-forward", partial(forward_of, MANY, MANY, MANY)),
    ("own-weight-gradient", gradient_by_a_reduction),
]
