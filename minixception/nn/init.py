"""Initial values of parameters, drawn from the package's generator (``minixception.engine.random``)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.random import generator
from ..errors import ArgumentError


def glorot_uniform(shape: tuple[int, ...], fan_in: int, fan_out: int, dtype: Any = np.float32) -> np.ndarray:
    """Uniform in +-sqrt(6 / (fan_in + fan_out)): keeps the variance of both passes (Glorot & Bengio 2010, eq. 16).

    >>> glorot_uniform((3, 3), 3, 3).shape
    (3, 3)
    """
    _check(shape)
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return _drawn(shape, dtype, lambda count: generator().uniform(-limit, limit, count))


def he_normal(shape: tuple[int, ...], fan_in: int, dtype: Any = np.float32) -> np.ndarray:
    """Normal with variance 2 / fan_in: keeps the variance of activations behind a ReLU (He et al. 2015, eq. 10).

    >>> he_normal((3, 3), 3).dtype
    dtype('float32')
    """
    _check(shape)
    return _drawn(shape, dtype, lambda count: generator().standard_normal(count) * math.sqrt(2.0 / fan_in))


def _drawn(shape: tuple[int, ...], dtype: Any, draw: Callable[[int], np.ndarray]) -> np.ndarray:
    """Values drawn a part at a time: a part stays in the cache, where all in float64 would take new pages of memory."""
    values = np.empty(shape, dtype)
    flat = values.reshape(-1)
    for start in range(0, flat.size, _PART):
        part = flat[start : start + _PART]
        part[:] = draw(part.size)
    return values


_PART = 1 << 16  # elements


def _check(shape: tuple[int, ...]) -> None:
    if min(shape) < 1:
        raise ArgumentError(f"a layer needs at least one channel and one tap, got a parameter of shape {shape}")
