"""Exercises of notebook 05, pointwise convolution on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ...engine.op import Case, RandomDraw
from ...ops.pointwise.definition import forward_numpy
from ..checks import Choice, Function, Mistake, Number, WrongNumber, rungs

# Packing ------------------------------------------------------------------------------------------------------


def _pack(w: np.ndarray, width: int, before: int = 0) -> np.ndarray:
    """w (ci, co) as panels (panels, ci, width); ``before`` of the missing columns as zeros in front."""
    ci, co = w.shape
    panels = -(-co // width)
    missing = panels * width - co
    padded = np.pad(w, ((0, 0), (before * missing, missing - before * missing)))  # (ci, panels * width)
    return np.ascontiguousarray(padded.reshape(ci, panels, width).transpose(1, 0, 2))


def _cut(w: np.ndarray, width: int) -> np.ndarray:
    """The right shape, but the elements in the order in which they lie in w."""
    packed = _pack(w, width)
    return packed.transpose(1, 0, 2).reshape(packed.shape)


def _whole_panels(w: np.ndarray, width: int) -> np.ndarray:
    """The columns that fill a panel, without those that are left over."""
    return _pack(w[:, : w.shape[1] // width * width], width)


def _matrix(draw: RandomDraw) -> Case:
    width, panels = draw.integer(2, 5), draw.integer(2, 4)
    return Case((draw.normal(draw.integer(2, 6), width * panels - draw.integer(0, 1)),), {"width": width})


def _matrix_corners(draw: RandomDraw) -> Iterator[Case]:
    """No column missing from the last panel, and up to all but one; fewer columns than a panel has."""
    for ci, co, width in ((3, 10, 4), (2, 9, 4), (1, 3, 5), (4, 1, 8), (3, 16, 8), (2, 33, 16), (2, 4, 1)):
        yield Case((draw.normal(ci, co),), {"width": width})


# A parallel product -------------------------------------------------------------------------------------------


def _product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return forward_numpy(x[:, None, None], w, stride=1)[0][:, 0, 0]


def _case(draw: RandomDraw) -> Case:
    p, c = draw.integer(2, 9), draw.integer(2, 9)
    return Case((draw.normal(p, c), draw.normal(c, c)))


def _corners(draw: RandomDraw) -> Iterator[Case]:
    for p, c in ((1, 3), (4, 1), (3, 16), (40, 17), (2, 33)):
        yield Case((draw.normal(p, c), draw.normal(c, c)))


def _timed() -> Case:
    draw = RandomDraw(0, "float32")
    return Case((draw.normal(360, 256), draw.normal(256, 256)))


EXERCISES = (
    Number(
        name="tile-registers",
        notebook=5,
        title="How many registers does a tile of 8 x 3 vectors need?",
        expected=lambda: 28,
        why="24 sums, 3 vectors of weights and one element of the input: it fits into 32 registers, and not into 16.",
        mistakes=(
            WrongNumber(24, "These are the sums. What is added to them must be in registers as well."),
            WrongNumber(27, "Sums and weights are there. Where is the element of the input that they meet?"),
            WrongNumber(35, "An element of the input is needed for its own row only: then it may be forgotten."),
            WrongNumber(11, "8 + 3: a tile has a sum for each pair of a row and a vector."),
        ),
    ),
    Choice(
        name="tile-too-large",
        notebook=5,
        title="Why the largest tile is not the fastest",
        options={
            "A": "It does more multiply-adds than a small one.",
            "B": "Its sums do not fit into the registers, and go to memory and back in each step.",
            "C": "Its weights do not fit into the cache.",
            "D": "Its sums wait for each other.",
        },
        right="B",
        why="Up to the number of registers, more sums mean fewer loads; beyond it each sum costs a load and a store.",
        hints={
            "A": "The product is the same whatever the tile: 2 p ci co operations.",
            "C": "Of one step of k the tile reads as many vectors of weights as it is wide. Is the tallest tile wide?",
            "D": "Sums do not depend on each other. Having more of them gives the multipliers more to do meanwhile.",
        },
    ),
    Function(
        name="pack-panels",
        notebook=5,
        title="Pack weights into panels",
        reference=_pack,
        draw=_matrix,
        corners=_matrix_corners,
        contiguous=True,
        results=("panels",),
        mistakes=(
            Mistake(
                _cut,
                "The shape is right, but a panel must hold neighbouring columns, and these are whole rows in turn.",
            ),
            Mistake(
                partial(_pack, before=1),
                "The zeros are on the wrong side: the columns that exist come first, so that column o stays at o.",
            ),
            Mistake(
                _whole_panels, "Columns that do not fill a panel belong to one too: round the number up, not down."
            ),
        ),
    ),
    Function(
        name="pointwise-kernel",
        notebook=5,
        title="A parallel product",
        reference=_product,
        draw=_case,
        corners=_corners,
        fills=True,
        peers=lambda x, w: rungs("pointwise_conv2d", x[:, None, None], w, stride=1),
        timed=_timed,
        mistakes=(
            Mistake(
                lambda x, w: _product(x, w.T),
                "The weights are transposed: w[c, o] leads from input channel c to output channel o.",
            ),
            Mistake(
                lambda x, w: _product(x[:, -1:], w[-1:]),
                "Only the last input channel is left: add to y, do not write over it.",
            ),
            Mistake(
                lambda x, w: _product(x[:, 1:], w[1:]),
                "The first input channel is missing from the sum.",
            ),
        ),
    ),
)
