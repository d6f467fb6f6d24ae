"""Gradient clipping by the norm of all gradients together."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..errors import ArgumentError, NumericError
from ..gpu.device import is_on_gpu
from . import cuda as gpu
from .common import Parameter


def clip_grad_norm(params: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients, in place, to a common L2 norm of at most ``max_norm``. Returns the norm before.

    The norm is accumulated in float64 (Pascanu et al., 2013, algorithm 1).

    Raises:
        ArgumentError: max_norm is not positive.
        NumericError: the norm is not finite; the gradients are left as they are.

    >>> from types import SimpleNamespace
    >>> w = SimpleNamespace(data=np.zeros(2), grad=np.array([3.0, 4.0]))
    >>> clip_grad_norm([w], max_norm=1.0), w.grad.round(6).tolist()
    (5.0, [0.6, 0.8])
    """
    if not max_norm > 0:
        raise ArgumentError(f"expected a max_norm above 0, got {max_norm}")
    gradients = [p.grad for p in params if p.grad is not None]
    there = [g for g in gradients if is_on_gpu(g)]
    here = [g for g in gradients if not is_on_gpu(g)]
    norm = math.sqrt(sum(map(_sum_of_squares, here)) + (gpu.sum_of_squares(there) if there else 0))
    if not math.isfinite(norm):
        raise NumericError(f"expected finite gradients, got a gradient norm of {norm}")
    if norm > max_norm:
        for g in gradients:
            if is_on_gpu(g):
                gpu.update(gpu.scale, g, factor=max_norm / norm)
            else:
                g *= max_norm / norm
    return norm


def _sum_of_squares(g: np.ndarray) -> float:
    flat = g.ravel()
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))
