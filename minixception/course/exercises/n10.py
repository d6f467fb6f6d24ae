"""Exercises of notebook 10, why fewer MACs is not always faster."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ...cpu.simd import Normalised
from ...engine.op import Case, RandomDraw
from ...ops import OPERATORS
from ...ops.batchnorm.cpu import normalise
from ...ops.depthwise.cpu import filter_into
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


# Normalise on load ----------------------------------------------------------------------------------------------


def _rectified(x: np.ndarray, mean: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.maximum((x - mean) * scale + shift, 0)


def _normalised(x: np.ndarray, mean: np.ndarray, scale: np.ndarray, shift: np.ndarray, wd: np.ndarray) -> np.ndarray:
    return _filter(_rectified(x, mean, scale, shift), wd)


def _with_border(x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _of_images(draw: RandomDraw, n: int, h: int, w: int, c: int) -> Case:
    return Case((draw.normal(n, h, w, c), *(draw.normal(c) for _ in range(3)), draw.normal(3, 3, c)))


def _normalised_case(draw: RandomDraw) -> Case:
    return _of_images(draw, draw.integer(1, 2), draw.integer(3, 5), draw.integer(3, 5), draw.integer(2, 4))


def _normalised_corners(draw: RandomDraw) -> Iterator[Case]:
    """Three images, one row, one column, one channel, and channels beyond a vector register."""
    for shape in ((3, 3, 4, 17), (1, 1, 5, 2), (2, 4, 1, 1), (1, 3, 3, 33)):
        yield _of_images(draw, *shape)


def _ways(x: np.ndarray, mean: np.ndarray, scale: np.ndarray, shift: np.ndarray, wd: np.ndarray) -> dict[str, Any]:
    """Our kernels, with the normalised image written and without."""
    normalised, none = Normalised(-mean, scale, shift, x.dtype.type(0)), x.dtype.type(-np.inf)
    y = np.empty_like(x)
    return {
        "written, then read": lambda: filter_into(y, normalise(x, normalised), wd, 1, (1, 1), none),
        "normalised on load": lambda: filter_into(y, x, wd, 1, (1, 1), normalised),
    }


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
    Function(
        name="normalise-on-load",
        notebook=10,
        title="Batch normalisation and ReLU where the depthwise convolution loads its pixels",
        reference=_normalised,
        draw=_normalised_case,
        corners=_normalised_corners,
        fills=True,
        mistakes=(
            Mistake(
                lambda x, mean, scale, shift, wd: _filter(
                    _rectified(_with_border(x), mean, scale, shift), wd, padding="valid"
                ),
                "What lies outside of the image is 0 after batch normalisation, not before it: there is nothing to "
                "normalise, and the tap is left out.",
            ),
            Mistake(
                lambda x, mean, scale, shift, wd: _filter((x - mean) * scale + shift, wd),
                "Where is the ReLU? It is the maximum with 0 of each pixel once that is normalised.",
            ),
            Mistake(
                lambda x, mean, scale, shift, wd: _filter((np.maximum(x, 0) - mean) * scale + shift, wd),
                "The ReLU stands behind batch normalisation: first the line, then the maximum.",
            ),
            Mistake(
                lambda x, mean, scale, shift, wd: _rectified(_filter(x, wd), mean, scale, shift),
                "It is x that is normalised, pixel by pixel as it is read, not what the convolution makes of it.",
            ),
            Mistake(
                lambda x, mean, scale, shift, wd: _filter(_rectified(x, -mean, scale, shift), wd),
                "The mean is taken away, not added.",
            ),
        ),
        peers=_ways,
        timed=lambda: _of_images(RandomDraw(0, np.float32), 4, 74, 74, 128),
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
