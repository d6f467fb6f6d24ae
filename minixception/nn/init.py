"""Initial values of parameters, drawn from the package's generator (``minixception.engine.random``)."""

from __future__ import annotations

import math
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
    return generator().uniform(-limit, limit, shape).astype(dtype)


def he_normal(shape: tuple[int, ...], fan_in: int, dtype: Any = np.float32) -> np.ndarray:
    """Normal with variance 2 / fan_in: keeps the variance of activations behind a ReLU (He et al. 2015, eq. 10).

    >>> he_normal((3, 3), 3).dtype
    dtype('float32')
    """
    _check(shape)
    return (generator().standard_normal(shape) * math.sqrt(2.0 / fan_in)).astype(dtype)


def _check(shape: tuple[int, ...]) -> None:
    if min(shape) < 1:
        raise ArgumentError(f"a layer needs at least one channel and one tap, got a parameter of shape {shape}")
