"""Solutions of notebook 03, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np

import minixception as mx


def conv(x, w):
    return mx.ops.conv2d(mx.tensor(x), mx.tensor(w)).numpy()


def segments(x, w, groups):
    ci, co = x.shape[-1] // groups, w.shape[-1] // groups
    parts = [
        conv(np.ascontiguousarray(x[..., g * ci : (g + 1) * ci]), np.ascontiguousarray(w[..., g * co : (g + 1) * co]))
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=-1)


def one_kernel(depthwise, pointwise):
    return np.einsum("abc,co->abco", depthwise, pointwise)


SOLUTIONS: dict[str, Any] = {"segments": segments, "balance": 9, "time-turns": "B", "one-kernel": one_kernel}


def inputs_dealt_out(x, w, groups):
    ws = np.split(w, groups, axis=-1)
    return np.concatenate([conv(x[..., g::groups].copy(), ws[g].copy()) for g in range(groups)], axis=-1)


def outputs_dealt_out(x, w, groups):
    xs = np.split(x, groups, axis=-1)
    return np.concatenate([conv(xs[g].copy(), w[..., g::groups].copy()) for g in range(groups)], axis=-1)


def all_dealt_out(x, w, groups):
    return np.concatenate([conv(x[..., g::groups].copy(), w[..., g::groups].copy()) for g in range(groups)], axis=-1)


def one_kernel_for_all(x, w, groups):
    first = w[..., : w.shape[-1] // groups].copy()
    return np.concatenate([conv(part.copy(), first) for part in np.split(x, groups, axis=-1)], axis=-1)


def stacked(x, w, groups):
    pairs = zip(np.split(x, groups, axis=-1), np.split(w, groups, axis=-1), strict=True)
    y = np.stack([conv(a.copy(), b.copy()) for a, b in pairs], axis=-1)
    return y.reshape(*y.shape[:3], -1)


def added(x, w, groups):
    pairs = zip(np.split(x, groups, axis=-1), np.split(w, groups, axis=-1), strict=True)
    return sum(conv(a.copy(), b.copy()) for a, b in pairs)


def multiplied_as_matrices(depthwise, pointwise):
    return np.einsum("abc,co->abo", depthwise, pointwise)


def summed(depthwise, pointwise):
    return np.expand_dims(depthwise, -1) + pointwise[None, None]


def outputs_first(depthwise, pointwise):
    return np.einsum("abc,co->aboc", depthwise, pointwise)


def turned(depthwise, pointwise):
    return np.einsum("abc,co->abco", np.flip(depthwise, (0, 1)), pointwise)


MISTAKES: list[tuple[str, Any, str]] = [
    ("segments", inputs_dealt_out, "Segments are neighbours: the first ci"),
    ("segments", outputs_dealt_out, "the first co of them"),
    ("segments", all_dealt_out, "Both kinds of channels"),
    ("segments", one_kernel_for_all, "weights of its own"),
    ("segments", stacked, "in another order"),
    ("segments", added, "stand side by side"),
    ("balance", 3, "not k"),
    ("balance", 192, "far less than"),
    ("balance", 1, "a regular convolution"),
    ("time-turns", "A", "does not know the number of segments"),
    ("time-turns", "C", "weights become fewer"),
    ("time-turns", "D", "inside of the compiled kernel"),
    ("one-kernel", multiplied_as_matrices, "adds up over the input channels"),
    ("one-kernel", summed, "they multiply"),
    ("one-kernel", outputs_first, "input channels come before"),
    ("one-kernel", turned, "180 degrees"),
]
