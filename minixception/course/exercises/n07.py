"""Exercises of notebook 07, on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...analysis.counts import Counts
from ...engine.op import Case, RandomDraw
from ...gpu.kernel import blocks
from ..checks import Choice, CudaKernel, Mistake, Number, WrongNumber

LENGTH = 64  # elements of a row, and threads of the block that adds them


def _scaled(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return x * scale + shift


def _pixels_and_factors(draw: RandomDraw) -> Case:
    pixels, c = draw.integer(33, 40), draw.integer(9, 15)
    return Case((draw.normal(pixels, c), draw.normal(c), draw.normal(c)))


def _thread_each(case: Case, shape: tuple[int, ...]) -> tuple[Any, Any]:
    return blocks(shape[0] * shape[1], LENGTH), LENGTH


def _scattered(counts: Counts, outputs: int) -> tuple[str, str] | None:
    if counts.global_accesses > outputs:
        return (
            "a single thread does the work of many",
            "There is a thread for each element of y. Which one is this thread's?",
        )
    if counts.sectors_per_access < 6:
        return None
    return (
        f"an access of a warp moves {counts.sectors_per_access:.0f} sectors",
        "Which elements of y lie side by side in memory, and which ones do the threads 0, 1, 2 of your kernel write?",
    )


def _rows(draw: RandomDraw) -> Case:
    return Case((draw.normal(draw.integer(2, 4), LENGTH),))


def _block_each(case: Case, shape: tuple[int, ...]) -> tuple[Any, Any]:
    return shape[0], LENGTH


def _one_by_one(counts: Counts, outputs: int) -> tuple[str, str] | None:
    if counts.global_accesses >= 8 * outputs:
        return (
            "a single thread reads one element after the other",
            "The others of its block wait meanwhile. Let each read one.",
        )
    if counts.shared_accesses >= LENGTH * outputs:  # a tree of six steps needs about half as many
        return (
            "a single thread adds up one element of shared memory after the other",
            "The others of its block wait meanwhile. Let half of them add two each, then a quarter, and so on.",
        )
    return None


EXERCISES = (
    Number(
        name="red-sectors",
        notebook=7,
        title="How many sectors a warp moves to read one colour",
        expected=lambda: 12,
        why="32 pixels of 12 bytes are 384 bytes without a gap of 32: each of their 12 sectors holds a red value.",
        mistakes=(
            WrongNumber(4, "That would be 32 neighbouring values. Between two reds lie a green and a blue."),
            WrongNumber(32, "That needs values at least 32 bytes apart. How far apart are two reds?"),
            WrongNumber(384, "That is how many bytes the 32 pixels take. A sector is 32 bytes."),
            WrongNumber(3, "A warp reads 32 values of 4 bytes at least, and a sector is 32 bytes."),
            WrongNumber(1, "A sector is 32 bytes: it holds 8 float32."),
        ),
    ),
    CudaKernel(
        name="scale-and-shift",
        notebook=7,
        title="A kernel that scales and shifts every channel",
        reference=_scaled,
        draw=_pixels_and_factors,
        launch=_thread_each,
        mistakes=(
            Mistake(lambda x, scale, shift: (x + shift) * scale, "First the factor, then the sum."),
            Mistake(lambda x, scale, shift: x * scale, "The shift is missing."),
            Mistake(
                lambda x, scale, shift: x * scale[0] + shift[0],
                "Every channel has a factor of its own: which one belongs to this thread's element?",
            ),
            Mistake(
                lambda x, scale, shift: x * np.resize(np.repeat(scale, len(x)), x.shape) + shift,
                "This takes the factors in another order than the elements: pixels count up first there.",
            ),
        ),
        too_much=_scattered,
    ),
    CudaKernel(
        name="row-sums",
        notebook=7,
        title="A block that adds up a row",
        reference=lambda x: x.sum(axis=1),
        draw=_rows,
        launch=_block_each,
        mistakes=(
            Mistake(
                lambda x: x[:, :32].sum(axis=1),
                "This is the first half of the row: a shuffle reaches the 32 threads of its own warp only.",
            ),
            Mistake(
                lambda x: x[:, ::2].sum(axis=1),
                "This is the sum of every second element: one step of the tree is missing, the one at a distance of 1.",
            ),
            Mistake(lambda x: x[:, 0], "This is the first element of the row alone: nothing has been added to it."),
            Mistake(lambda x: x[:, 0] + x[:, 32], "One step of the tree. It takes six to bring 64 elements together."),
        ),
        too_much=_one_by_one,
    ),
    Choice(
        name="occupancy-steps",
        notebook=7,
        title="Why occupancy falls in steps",
        options={
            "A": "Registers are given out in portions, so that a kernel often gets more than it asked for.",
            "B": "Whole blocks are resident: nothing changes until one block less fits, and then all its warps go.",
            "C": "A thread with more registers does more work, so that fewer threads are needed.",
            "D": "With more registers the clock must be slower.",
        },
        right="B",
        why="The larger the blocks, the longer and the higher the steps.",
        hints={
            "A": "That is true, and makes steps of 8 registers. Why are the steps of large blocks so much longer?",
            "C": "Occupancy asks how many threads fit, not how many are needed. What are they put in as?",
            "D": "The plot is of counts alone: no clock is in it.",
        },
    ),
)
