"""Exercises of notebook 03, from Inception to Xception."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...engine.op import Case, RandomDraw
from ...ops import OPERATORS
from ..checks import Choice, Function, Mistake, Number, WrongNumber

_CONV = OPERATORS["conv2d"].rungs["numpy"].forward


# Segments -------------------------------------------------------------------------------------------------------


def _segments(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    return _CONV(x, w, stride=1, padding="same", groups=groups)[0]


def _segments_case(draw: RandomDraw) -> Case:
    groups, ci, co = draw.integer(2, 4), draw.integer(2, 3), draw.integer(2, 3)
    x = draw.normal(draw.integer(1, 2), draw.integer(3, 6), draw.integer(3, 6), groups * ci)
    return Case((x, draw.normal(3, 3, ci, groups * co)), {"groups": groups})


def _segments_corners(draw: RandomDraw) -> Iterator[Case]:
    for n, groups, ci, co in ((1, 1, 2, 3), (3, 5, 1, 1), (1, 2, 9, 17)):
        yield Case((draw.normal(n, 4, 5, groups * ci), draw.normal(3, 3, ci, groups * co)), {"groups": groups})


def _in_turns(array: np.ndarray, groups: int) -> np.ndarray:
    """The last axis dealt out like cards: every groups-th, then every groups-th from the second on, and so on."""
    return np.concatenate([array[..., g::groups] for g in range(groups)], axis=-1)


def _first_kernel(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    return _segments(x, np.tile(w[..., : w.shape[3] // groups], groups), groups)


def _interleaved(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """The outputs of all segments, first the first of each."""
    y = _segments(x, w, groups)
    return y.reshape(*y.shape[:3], groups, -1).swapaxes(3, 4).reshape(y.shape)


def _added(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    y = _segments(x, w, groups)
    return y.reshape(*y.shape[:3], groups, -1).sum(axis=3)


# One kernel of two ----------------------------------------------------------------------------------------------


def _one_kernel(depthwise: np.ndarray, pointwise: np.ndarray) -> np.ndarray:
    return depthwise[..., None] * pointwise  # (kh, kw, ci, co)


def _kernels(draw: RandomDraw) -> Case:
    ci, co = draw.integer(2, 5), draw.integer(2, 5)
    return Case((draw.normal(3, 3, ci), draw.normal(ci, co)))


def _kernels_corners(draw: RandomDraw) -> Iterator[Case]:
    for kh, kw, ci, co in ((3, 3, 1, 1), (1, 1, 3, 2), (5, 5, 2, 17), (1, 7, 17, 2)):
        yield Case((draw.normal(kh, kw, ci), draw.normal(ci, co)))


EXERCISES = (
    Function(
        name="segments",
        notebook=3,
        title="A convolution on segments, made of regular ones",
        reference=_segments,
        draw=_segments_case,
        corners=_segments_corners,
        allows=lambda name, params: name == "conv2d" and params["groups"] == 1,
        mistakes=(
            Mistake(
                lambda x, w, groups: _segments(_in_turns(x, groups), w, groups),
                "Segments are neighbours: the first ci input channels, then the next ci. x[..., g::groups] deals them "
                "out like cards.",
            ),
            Mistake(
                lambda x, w, groups: _segments(x, _in_turns(w, groups), groups),
                "The kernel's output channels are neighbours, too: the first co of them belong to the first segment.",
            ),
            Mistake(
                lambda x, w, groups: _segments(_in_turns(x, groups), _in_turns(w, groups), groups),
                "Both kinds of channels are dealt out like cards here. Segments are neighbours.",
            ),
            Mistake(_first_kernel, "Each segment has weights of its own; here all use those of the first."),
            Mistake(_interleaved, "The right values in another order: all outputs of the first segment come first."),
            Mistake(
                _added, "The segments' outputs stand side by side; added up, they would be a regular convolution's."
            ),
        ),
    ),
    Number(
        name="balance",
        notebook=3,
        title="The number of segments at which both halves cost the same",
        expected=lambda: 9,
        why="C*C = 9*C*C/g has the solution g = 9, for any number of channels: beyond it, 1x1 is the dearer half.",
        mistakes=(
            WrongNumber(
                3, "The window has k*k weights, not k. At g = 3 the spatial half still costs three times more."
            ),
            WrongNumber(192, "At g = C the spatial half has 9*C parameters, far less than the C*C of the other."),
            WrongNumber(1, "At g = 1 the spatial half is a regular convolution, nine times the 1x1."),
            WrongNumber(1 / 9, "Turn it over: the spatial half has to become nine times cheaper."),
            WrongNumber(81, "That is 9 times 9: there the spatial half costs a ninth of the 1x1."),
        ),
    ),
    Choice(
        name="time-turns",
        notebook=3,
        title="Why time rises where MACs fall",
        options={
            "A": "The 1x1 convolution takes longer the more segments there are.",
            "B": "Each segment is a product of its own, too small to fill vector registers.",
            "C": "With more segments, more bytes have to be moved.",
            "D": "Each segment is a call from Python.",
        },
        right="B",
        why="At g = C a product makes one channel, in a register with room for 8 or 16 of them.",
        hints={
            "A": "The 1x1 convolution does not know the number of segments. It is the level part of the upper panel.",
            "C": "Inputs and outputs are the same for every g, and weights become fewer.",
            "D": "The operator is called once for any g; the loop over segments is inside of the compiled kernel.",
        },
    ),
    Function(
        name="one-kernel",
        notebook=3,
        title="The regular kernel that a separable convolution is",
        reference=_one_kernel,
        draw=_kernels,
        corners=_kernels_corners,
        results=("w",),
        mistakes=(
            Mistake(
                lambda depthwise, pointwise: depthwise @ pointwise,
                "This adds up over the input channels. The regular convolution does that itself; w still has them, as "
                "its third axis.",
            ),
            Mistake(
                lambda depthwise, pointwise: depthwise[..., None] + pointwise,
                "On its way an input meets both weights one after the other: they multiply.",
            ),
            Mistake(
                lambda depthwise, pointwise: _one_kernel(depthwise, pointwise).swapaxes(2, 3),
                "The right values, but a kernel is (kh, kw, ci, co): input channels come before output channels.",
            ),
            Mistake(
                lambda depthwise, pointwise: _one_kernel(depthwise[::-1, ::-1], pointwise),
                "The window is rotated by 180 degrees. It need not be: both convolutions read taps in the same order.",
            ),
        ),
    ),
)
