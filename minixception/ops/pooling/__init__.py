"""Pooling: a window of pixels, or the whole image, becomes one pixel, and every channel goes its own way.

One file per operator: ``max_pool.py``, ``avg_pool.py``, ``global_pool.py``.
"""

from __future__ import annotations

from .avg_pool import AVG_POOL2D, GENERAL_AVG_POOL2D, avg_pool2d
from .global_pool import GLOBAL_AVG_POOL, global_avg_pool
from .max_pool import GENERAL_MAX_POOL2D, MAX_POOL2D, max_pool2d

__all__ = [
    "AVG_POOL2D",
    "GENERAL_AVG_POOL2D",
    "GENERAL_MAX_POOL2D",
    "GLOBAL_AVG_POOL",
    "MAX_POOL2D",
    "avg_pool2d",
    "global_avg_pool",
    "max_pool2d",
]
