"""Exercises of notebook 02, what a convolution costs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ...engine.op import Case, RandomDraw
from ...ops import OPERATORS
from ..checks import Choice, Function, Mistake, Number, WrongNumber, rungs

_CONV = OPERATORS["conv2d"]


# The forward pass -----------------------------------------------------------------------------------------------


def _conv(x: np.ndarray, w: np.ndarray, stride: int, padding: Any = "same") -> np.ndarray:
    return _CONV.rungs["numpy"].forward(x, w, stride=stride, padding=padding, groups=1)[0]


def _case(draw: RandomDraw) -> Case:
    ci, co = draw.integer(1, 4), draw.integer(1, 5)
    x = draw.normal(draw.integer(1, 3), draw.integer(4, 8), draw.integer(4, 8), ci)
    k, stride = draw.choice(((2, 1), (3, 1), (3, 2)))
    return Case((x, draw.normal(k, k, ci, co)), {"stride": stride})


def _corners(draw: RandomDraw) -> Iterator[Case]:
    """One image and three, one channel and many, windows of one pixel, padding that differs above and to the left."""
    for n, h, w, ci, co, k, stride in (
        (1, 5, 6, 1, 1, 1, 1),
        (3, 6, 5, 2, 17, 3, 2),
        (2, 5, 8, 17, 2, 3, 2),
        (1, 2, 7, 3, 33, 5, 3),
        (2, 1, 4, 2, 2, 3, 1),
        (1, 7, 7, 2, 3, 1, 2),
    ):
        yield Case((draw.normal(n, h, w, ci), draw.normal(k, k, ci, co)), {"stride": stride})


def _extra_pixel_first(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    """An odd pixel of padding in front, as k // 2 on both sides: everything rotated by 180 degrees, and back."""
    return _conv(x[:, ::-1, ::-1], w[::-1, ::-1], stride)[:, ::-1, ::-1]


def _every_second(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    return _conv(x, w, 1)[:, ::stride, ::stride]


def _timed() -> Case:
    draw = RandomDraw(0, np.float32)
    return Case((draw.normal(1, 12, 12, 16), draw.normal(3, 3, 16, 16)), {"stride": 1})


# MACs of block 1 of Xception ------------------------------------------------------------------------------------

_INPUT, _WINDOW, _CI, _CO = 149, 3, 32, 64
_OUTPUT = _INPUT - _WINDOW + 1
_WEIGHTS = _WINDOW * _WINDOW * _CI * _CO

EXERCISES = (
    Function(
        name="conv2d-forward",
        notebook=2,
        title="The forward pass of a convolution, with padding and stride",
        reference=_conv,
        draw=_case,
        corners=_corners,
        mistakes=(
            Mistake(
                _extra_pixel_first,
                "The padding is on the wrong side. Where the windows need an odd number of pixels, the extra one goes "
                "to the end; k // 2 pixels on each side, PyTorch's habit, is another rule.",
            ),
            Mistake(
                _every_second,
                "These are some of the outputs of stride 1. With a stride less padding is needed, so the first window "
                "may start elsewhere.",
            ),
            Mistake(
                partial(_conv, padding="valid"),
                'This is "valid": only windows that lie inside. "same" has ceil(h / stride) rows of outputs.',
            ),
            Mistake(
                lambda x, w, stride: _conv(x, w[::-1, ::-1], stride),
                "The kernel is rotated by 180 degrees, as in a mathematician's convolution. Here tap (a, b) meets the "
                "pixel a rows down and b columns to the right.",
            ),
            Mistake(
                lambda x, w, stride: _conv(x, w.transpose(1, 0, 2, 3), stride),
                "The kernel is transposed: its first axis goes down, along rows, its second across.",
            ),
        ),
        peers=partial(rungs, "conv2d", padding="same", groups=1),
        timed=_timed,
    ),
    Number(
        name="block1-macs",
        notebook=2,
        title="The MACs of Xception's second convolution",
        expected=lambda: _OUTPUT**2 * _WEIGHTS,
        why="147 x 147 outputs, and at each all 18,432 weights: nearly a twentieth of the whole network's MACs.",
        mistakes=(
            WrongNumber(_INPUT**2 * _WEIGHTS, 'The input has 149x149 pixels. How many windows fit with "valid"?'),
            WrongNumber(
                2 * _OUTPUT**2 * _WEIGHTS, "These are operations (FLOP). A MAC is a multiplication and an add."
            ),
            WrongNumber(_OUTPUT**2 * _CI * _CO, "This is a 1x1 convolution: what of the window?"),
            WrongNumber(_OUTPUT**2 * _WINDOW * _CI * _CO, "The window has k rows and k columns."),
            WrongNumber(_WEIGHTS, "These are the parameters. How often is each of them used?"),
            WrongNumber(_OUTPUT**2 * _WINDOW**2 * _CI, "This makes one output channel, and there are 64."),
            WrongNumber(_OUTPUT**2 * _WINDOW**2 * _CO, "Each output sums over all 32 input channels, too."),
        ),
    ),
    Choice(
        name="few-pixels",
        notebook=2,
        title="Why a small image takes longer than its MACs",
        options={
            "A": "A small image has more padding, and windows over padding take longer.",
            "B": "Each weight has to be fetched and arranged, however few pixels use it.",
            "C": "The formula counts too few MACs for a small image.",
            "D": "The activations of a small image do not fit into the cache.",
        },
        right="B",
        why="Fetching 331,776 weights costs the same for one pixel as for 4,096, which share it.",
        hints={
            "A": "Over padding there is less to multiply, not more: the loops leave those taps out.",
            "C": "Padding makes the formula count too many, not too few: at one pixel, eight of nine taps are padding.",
            "D": "One pixel of 192 channels has 768 bytes. What else does the layer read?",
        },
    ),
)
