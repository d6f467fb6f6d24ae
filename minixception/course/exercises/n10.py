"""Exercises of notebook 10, why fewer MACs is not always faster."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ...engine.op import Case, RandomDraw
from ...ops import OPERATORS
from ..checks import Choice, Function, Mistake, Number, WrongNumber, rungs

# A fused kernel -------------------------------------------------------------------------------------------------


def _filter(x: np.ndarray, wd: np.ndarray, padding: str = "same") -> np.ndarray:
    return OPERATORS["depthwise_conv2d"].rungs["numpy"].forward(x, wd, stride=1, padding=padding)[0]


def _fused(x: np.ndarray, wd: np.ndarray, wp: np.ndarray) -> np.ndarray:
    return _filter(np.maximum(x, 0), wd) @ wp


def _case(draw: RandomDraw) -> Case:
    c, co = draw.integer(2, 4), draw.integer(2, 5)
    x = draw.normal(draw.integer(1, 2), draw.integer(3, 5), draw.integer(3, 5), c)
    return Case((x, draw.normal(3, 3, c), draw.normal(c, co)))


def _corners(draw: RandomDraw) -> Iterator[Case]:
    """Three images, one row, one column, one channel, and channels beyond a vector register."""
    for n, h, w, c, co in ((3, 3, 4, 17, 2), (1, 1, 5, 2, 33), (2, 4, 1, 1, 1), (1, 3, 3, 33, 17)):
        yield Case((draw.normal(n, h, w, c), draw.normal(3, 3, c), draw.normal(c, co)))


def _timed() -> Case:
    draw = RandomDraw(0, np.float32)
    return Case((draw.normal(1, 14, 14, 64), draw.normal(3, 3, 64), draw.normal(64, 64)))


EXERCISES = (
    Number(
        name="depthwise-intensity",
        notebook=10,
        title="The arithmetic intensity of a depthwise convolution",
        expected=lambda: 18 / 8,
        within=0.02,
        why="9 MACs are 18 FLOP, and each output has one float32 of 4 bytes to read and one to write.",
        mistakes=(
            WrongNumber(9 / 8, "These are MACs per byte; a MAC is two FLOP."),
            WrongNumber(18 / 4, "This counts one float32 for each output. One is read, and one is written."),
            WrongNumber(9, "This is per element. A float32 has 4 bytes."),
            WrongNumber(18 / 40, "Nine inputs for each output: but neighbouring outputs read the same pixels."),
            WrongNumber(9 / 40, "Nine inputs for each output: but neighbouring outputs read the same pixels."),
            WrongNumber(18, "These are the FLOP of an output. How many bytes does it cost?"),
        ),
    ),
    Function(
        name="fused-kernel",
        notebook=10,
        title="ReLU, depthwise and pointwise in one kernel",
        reference=_fused,
        draw=_case,
        corners=_corners,
        fills=True,
        mistakes=(
            Mistake(
                lambda x, wd, wp: _filter(x, wd) @ wp,
                "Where is the ReLU? It is a maximum with 0 on each x as it is read.",
            ),
            Mistake(
                lambda x, wd, wp: np.maximum(_filter(x, wd), 0) @ wp,
                "The ReLU stands in front: it is applied to x, not to what the depthwise half makes of it.",
            ),
            Mistake(
                lambda x, wd, wp: np.maximum(_filter(x, wd) @ wp, 0),
                "The ReLU stands in front: it is applied to x, not to y.",
            ),
            Mistake(
                lambda x, wd, wp: np.cumsum(_filter(np.maximum(x, 0), wd), axis=2) @ wp,
                "The buffer still holds the pixel before: set it to 0 for each pixel.",
            ),
            Mistake(
                lambda x, wd, wp: _filter(np.pad(np.maximum(x, 0), ((0, 0), (0, 2), (0, 2), (0, 0))), wd, "valid") @ wp,
                "The window begins at the output's own pixel. With a pixel of padding in front, tap (a, b) meets the "
                "pixel (i + a - 1, j + b - 1).",
            ),
        ),
        peers=partial(rungs, "relu_separable_conv2d", stride=1, padding="same"),
        timed=_timed,
    ),
    Choice(
        name="large-batch",
        notebook=10,
        title="Why a large batch slows one operator and not another",
        options={
            "A": "With a large batch Python has more to do for each image.",
            "B": "Arrays outgrow the cache, and only one of the operators waits for them.",
            "C": "In a large batch more values are negative, and ReLU has more to do.",
            "D": "The processor lowers its clock under load.",
        },
        right="B",
        why="ReLU does one comparison for 8 bytes, so it is as fast as these come; the product does 192 MACs.",
        hints={
            "A": "Python makes one call for the whole batch. What it costs is shared by more images.",
            "C": "The images are drawn alike: half of their values are negative. A maximum costs the same for both.",
            "D": "Then the operator that works hardest, the product, would suffer most.",
        },
    ),
)
