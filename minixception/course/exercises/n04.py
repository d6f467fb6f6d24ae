"""Exercises of notebook 04, depthwise convolution on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ...engine.op import Case, RandomDraw
from ...ops.depthwise.definition import forward_numpy
from ..checks import Choice, Function, Mistake, Number, WrongNumber, rungs


def _forward(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return forward_numpy(x, w, stride=1, padding="same")[0]


def _case(draw: RandomDraw) -> Case:
    n, h, wd, c = (draw.integer(low, high) for low, high in ((1, 2), (3, 5), (3, 5), (1, 4)))
    return Case((draw.normal(n, h, wd, c), draw.normal(3, 3, c)))


def _corners(draw: RandomDraw) -> Iterator[Case]:
    """Three images, one row, one column, one channel, and channels across a vector register and beyond."""
    for n, h, w, c in ((3, 4, 5, 17), (1, 1, 6, 2), (2, 6, 1, 1), (1, 3, 4, 33), (3, 2, 2, 8)):
        yield Case((draw.normal(n, h, w, c), draw.normal(3, 3, c)))


def _timed() -> Case:
    draw = RandomDraw(0, "float32")
    return Case((draw.normal(4, 19, 19, 728), draw.normal(3, 3, 728)))


def shifted(x: np.ndarray, w: np.ndarray, stride: int, top: int, left: int, mode: Any = "constant") -> np.ndarray:
    """The outputs of padding "same", but with so many pixels above and to the left of x; mode: see np.pad."""
    ho, wo = (-(-size // stride) for size in x.shape[1:3])
    framed = np.pad(x, ((0, 0), (top, 0), (left, 0), (0, 0)), mode=mode)
    framed = np.pad(framed, ((0, 0), (0, w.shape[0]), (0, w.shape[1]), (0, 0)))
    return np.ascontiguousarray(forward_numpy(framed, w, stride=stride, padding="valid")[0][:, :ho, :wo])


TRANSPOSED = "Rows and columns of the kernel have changed places: w[a, b] meets the pixel a rows down and b across."
ROTATED = (
    "The kernel is rotated by 180 degrees. That is the convolution of mathematics; in a network w[0, 0] meets the "
    "pixel above and to the left."
)

EXERCISES = (
    Number(
        name="tile-loads",
        notebook=4,
        title="How many loads does a tile of 3 x 4 outputs need?",
        expected=lambda: 39,
        why="5 x 6 pixels lie under the 12 windows, and there are 9 weights: 39 loads for 108 multiply-adds.",
        mistakes=(
            WrongNumber(30, "These are the pixels. The weights must be loaded as well."),
            WrongNumber(216, "That is two loads for each multiply-add, and nothing stays in registers."),
            WrongNumber(117, "The weights are loaded once here, but the pixels once for each output that needs them."),
            WrongNumber(108, "That is the number of multiply-adds, 9 for each of 12 outputs."),
            WrongNumber(21, "Under 3 x 4 outputs lie more than 3 x 4 pixels: windows reach beyond on all sides."),
            WrongNumber(37, "That is the tile of 2 x 5 outputs."),
        ),
    ),
    Function(
        name="depthwise-kernel",
        notebook=4,
        title="A parallel kernel for depthwise 3x3",
        reference=_forward,
        draw=_case,
        corners=_corners,
        fills=True,
        peers=partial(rungs, "depthwise_conv2d", stride=1, padding="same"),
        timed=_timed,
        mistakes=(
            Mistake(lambda x, w: _forward(x, w.transpose(1, 0, 2)), TRANSPOSED),
            Mistake(lambda x, w: _forward(x, w[::-1, ::-1]), ROTATED),
            Mistake(
                lambda x, w: shifted(x, w, 1, 0, 0),
                "All of the padding is below and to the right. Where does the first output's window begin?",
            ),
            Mistake(
                lambda x, w: shifted(x, w, 1, 2, 2),
                "All of the padding is above and to the left. Which pixel is under the middle of the first window?",
            ),
            Mistake(
                lambda x, w: shifted(x, w, 1, 1, 1, "wrap"),
                "At the upper and left border you read the other end of the image: index -1 is the last one.",
            ),
        ),
    ),
    Choice(
        name="depthwise-batch",
        notebook=4,
        title="Why larger batches get slower",
        options={
            "A": "Larger batches need more operations for each byte.",
            "B": "Images from different parts of the batch meet the same weights, and wait for each other.",
            "C": "x and y leave the caches, and nine uses of a pixel cannot hide the way from memory.",
            "D": "Each call has a fixed cost, which large batches pay more often.",
        },
        right="C",
        why="The kernel is as before. Its bytes come from another place, and what is allowed falls with that.",
        hints={
            "A": "Operations and bytes both grow with the number of images. What becomes of their ratio?",
            "B": "It is one thread: nobody is there to wait for. And weights are only read.",
            "D": "One call filters the whole batch. A fixed cost would make the small batches slow.",
        },
    ),
)
