"""Networks that cost the same: widths for which a design meets a number of parameters, or of multiply-accumulates."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..errors import ArgumentError
from .designs import Design

NEAR = 0.01  # of the target, at most, that a solved design is away from it
_SCALES = np.geomspace(1 / 6, 6, 121)  # of the given widths
_STEMS = range(4, 97)


def solve(design: Design, target: int, measure: Callable[[Design], int]) -> Design:
    """The design with other widths and another stem, whose ``measure`` is within 1 % of the target.

    Widths keep their proportions as far as their steps allow, which are the segments: 32 channels with 32 segments.
    What these miss the stem makes up for, whose channels nothing must divide. Of several solutions the one with
    proportions nearest to the given ones is taken. Raises ArgumentError if there is none.

    >>> from minixception.experiments.designs import cost
    >>> small = Design(widths=(16, 32), middle_blocks=1, stem=8)
    >>> target = cost(small).parameters
    >>> found = solve(replace(small, form="segments", segments=4), target, lambda one: cost(one).parameters)
    >>> abs(cost(found).parameters - target) <= 0.01 * target
    True
    """
    step = design.segments
    candidates = {tuple(max(step, round(scale * width / step) * step) for width in design.widths) for scale in _SCALES}
    solutions = []
    for widths in sorted(candidates):
        of_stem = [replace(design, widths=widths, stem=stem) for stem in _STEMS]
        above = bisect_left(of_stem, target, key=measure)  # more channels in the stem, more of everything
        solutions += [
            one for one in of_stem[max(0, above - 1) : above + 1] if abs(measure(one) - target) <= NEAR * target
        ]
    if not solutions:
        raise ArgumentError(f"no widths like {design.widths} in {step} segments come within {NEAR:.0%} of {target:,}")
    return min(solutions, key=lambda one: _distortion(one, design))


def _distortion(one: Design, design: Design) -> float:
    """How far apart the ratios of the widths and the stem are from one factor for all, on a log scale."""
    logs = [math.log(a / b) for a, b in zip((one.stem, *one.widths), (design.stem, *design.widths), strict=True)]
    return max(logs) - min(logs)
