"""Random valid inputs of an operator, chosen by hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

# Operators that have no rung but the first: faster ones are not worth their lines, and the GPU falls back on it, too.
MOVE_BYTES = {"transpose", "index"}
BY_HAND = {"exp", "log", "sqrt", "abs", "power", "clip", "matmul", "max", "min", "mse_loss"}  # of small models by hand
ANY_WINDOW = {"general_conv2d", "general_depthwise_conv2d", "general_max_pool2d", "general_avg_pool2d"}
DEFINITION_ALONE = MOVE_BYTES | BY_HAND | ANY_WINDOW
COMPILED_FOR_LONG = (
    "linear",
    "conv2d",
    "depthwise_conv2d",
    "pointwise_conv2d",
    "separable_conv2d",
    "relu_separable_conv2d",
)


def in_float64(name: str) -> Any:
    """The marks of a test of an operator's fast CPU rung in float64: slow where its kernels compile for long.

    They are of the same source as in float32, in which every rung of every operator meets the definition.
    """
    return pytest.mark.slow if name in COMPILED_FOR_LONG else ()


class HypothesisDraw:
    """``Op.sample``'s random choices made by hypothesis, so that a failing case shrinks to a small one."""

    def __init__(self, draw: Any, dtype: Any) -> None:
        self._draw = draw
        self.dtype = np.dtype(dtype)

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def choice(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(list(options)))

    def _rng(self) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(self._draw(st.integers(0, 2**32 - 1))))

    def normal(self, *shape: int) -> np.ndarray:
        return self._rng().standard_normal(shape).astype(self.dtype)

    def distinct(self, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        values = (np.arange(size) - size // 2 + 0.5) * 0.1
        return self._rng().permutation(values).reshape(shape).astype(self.dtype)


@st.composite
def cases(draw: Any, op: Any, dtype: Any) -> Any:
    """Random valid inputs of an operator, from its own ``sample``."""
    return op.sample(HypothesisDraw(draw, dtype))
