"""Solutions of notebook 06, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np

AXES = (0, 1, 2)


def batchnorm_backward(dy, x, gamma, eps):
    m = x.size // x.shape[-1]
    s = 1 / np.sqrt(x.var(axis=AXES) + x.dtype.type(eps))  # (c,)
    xhat = (x - x.mean(axis=AXES)) * s  # (n, h, w, c)
    dbeta = dy.sum(axis=AXES)  # (c,)
    dgamma = (dy * xhat).sum(axis=AXES)  # (c,)
    return gamma * s * (dy - dbeta / m - xhat * dgamma / m), dgamma, dbeta


def merge(mean_a, m2_a, mean_b, m2_b, count_a, count_b):
    count = count_a + count_b
    mean = (count_a * mean_a + count_b * mean_b) / count  # (c,)
    m2 = m2_a + m2_b + count_a * (mean_a - mean) ** 2 + count_b * (mean_b - mean) ** 2  # (c,)
    return mean, m2


SOLUTIONS: dict[str, Any] = {
    "batchnorm-backward": batchnorm_backward,
    "variance-cancels": "C",
    "merge-statistics": merge,
    "momentum-memory": 459,
}


def backward_of_constants(dy, x, gamma, eps):
    s = 1 / np.sqrt(x.var(axis=AXES) + x.dtype.type(eps))
    xhat = (x - x.mean(axis=AXES)) * s
    return gamma * s * dy, (dy * xhat).sum(axis=AXES), dy.sum(axis=AXES)


def backward_without_variance(dy, x, gamma, eps):
    s = 1 / np.sqrt(x.var(axis=AXES) + x.dtype.type(eps))
    xhat = (x - x.mean(axis=AXES)) * s
    return gamma * s * (dy - dy.mean(axis=AXES)), (dy * xhat).sum(axis=AXES), dy.sum(axis=AXES)


def backward_without_mean(dy, x, gamma, eps):
    s = 1 / np.sqrt(x.var(axis=AXES) + x.dtype.type(eps))
    xhat = (x - x.mean(axis=AXES)) * s
    return gamma * s * (dy - xhat * (dy * xhat).mean(axis=AXES)), (dy * xhat).sum(axis=AXES), dy.sum(axis=AXES)


def backward_with_sums(dy, x, gamma, eps):
    s = 1 / np.sqrt(x.var(axis=AXES) + x.dtype.type(eps))
    xhat = (x - x.mean(axis=AXES)) * s
    dbeta, dgamma = dy.sum(axis=AXES), (dy * xhat).sum(axis=AXES)
    return gamma * s * (dy - dbeta - xhat * dgamma), dgamma, dbeta


def backward_divided_by_pictures(dy, x, gamma, eps):
    n = len(x)
    s = 1 / np.sqrt(x.var(axis=AXES) + x.dtype.type(eps))
    xhat = (x - x.mean(axis=AXES)) * s
    dbeta, dgamma = dy.sum(axis=AXES), (dy * xhat).sum(axis=AXES)
    return gamma * s * (dy - dbeta / n - xhat * dgamma / n), dgamma, dbeta


def backward_over_pictures(dy, x, gamma, eps):
    s = 1 / np.sqrt(x.var(axis=0) + x.dtype.type(eps))
    xhat = (x - x.mean(axis=0)) * s
    dbeta, dgamma = dy.sum(axis=0), (dy * xhat).sum(axis=0)
    return gamma * s * (dy - dbeta / len(x) - xhat * dgamma / len(x)), dgamma, dbeta


def backward_gamma_of_x(dy, x, gamma, eps):
    dx, _, dbeta = batchnorm_backward(dy, x, gamma, eps)
    return dx, (dy * x).sum(axis=AXES), dbeta


def backward_without_gamma(dy, x, gamma, eps):
    m = x.size // x.shape[-1]
    s = 1 / np.sqrt(x.var(axis=AXES) + x.dtype.type(eps))
    xhat = (x - x.mean(axis=AXES)) * s
    dbeta, dgamma = dy.sum(axis=AXES), (dy * xhat).sum(axis=AXES)
    return s * (dy - dbeta / m - xhat * dgamma / m), dgamma, dbeta


def merge_added(mean_a, m2_a, mean_b, m2_b, count_a, count_b):
    return (count_a * mean_a + count_b * mean_b) / (count_a + count_b), m2_a + m2_b


def merge_plain_mean(mean_a, m2_a, mean_b, m2_b, count_a, count_b):
    delta = mean_a - mean_b
    return (mean_a + mean_b) / 2, m2_a + m2_b + delta**2 * count_a * count_b / (count_a + count_b)


def merge_distance_once(mean_a, m2_a, mean_b, m2_b, count_a, count_b):
    mean = (count_a * mean_a + count_b * mean_b) / (count_a + count_b)
    return mean, m2_a + m2_b + (mean_b - mean_a) ** 2


MISTAKES: list[tuple[str, Any, str]] = [
    ("batchnorm-backward", backward_of_constants, "mean and variance as constants"),
    ("batchnorm-backward", backward_without_variance, "the way through the variance, steps 3 and 4?"),
    ("batchnorm-backward", backward_without_mean, "the way through the mean, step 5?"),
    ("batchnorm-backward", backward_with_sums, "hand on 1/m"),
    ("batchnorm-backward", backward_divided_by_pictures, "not pictures alone"),
    ("batchnorm-backward", backward_over_pictures, "every axis but the last"),
    ("batchnorm-backward", backward_gamma_of_x, "gamma multiplies xhat"),
    ("batchnorm-backward", backward_without_gamma, "a factor is missing"),
    ("variance-cancels", "A", "does not change their variance"),
    ("variance-cancels", "B", "the same float32 values"),
    ("merge-statistics", merge_added, "deviations from their own means"),
    ("merge-statistics", merge_plain_mean, "weigh the means"),
    ("merge-statistics", merge_distance_once, "but not once"),
    ("momentum-memory", 100, "more than a third"),
    ("momentum-memory", 44, "momentum of 0.9"),
    ("momentum-memory", 458, "One step too few"),
    ("momentum-memory", 69, "counts half"),
]
