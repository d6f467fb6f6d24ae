"""Networks that cost the same: widths for which a design meets a number of parameters, or of multiply-accumulates."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from ..errors import ArgumentError
from .designs import Design

NEAR = 0.01  # of the target, at most, that a solved design is away from it
_SCALES = np.geomspace(1 / 4, 4, 81)  # of the given widths
_BRIDGED = 0.15  # of the target, about, that a stem can make up for


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
    solutions = []
    for one in sorted(_candidates(design), key=lambda one: _distortion(one, design)):
        if abs(measure(one) - target) <= _BRIDGED * target:
            of_stem = [replace(one, stem=stem) for stem in range(max(2, one.stem // 2), 2 * one.stem + 1)]
            above = bisect_left(of_stem, target, key=measure)  # more channels in the stem, more of everything
            nearest = of_stem[max(0, above - 1) : above + 1]
            solutions += [found for found in nearest if abs(measure(found) - target) <= NEAR * target]
            if len(solutions) >= 4:  # the next ones are less and less like the design
                break
    if not solutions:
        raise ArgumentError(
            f"no widths like {design.widths} in {design.segments} segments come within {NEAR:.0%} of {target:,}"
        )
    return min(solutions, key=lambda one: _distortion(one, design))


def _candidates(design: Design) -> Iterator[Design]:
    """The design at every scale, each width rounded to whole segments, or to those beside them; widths do not fall."""
    step, seen = design.segments, set()
    for scale in _SCALES:
        stem = max(2, round(float(scale) * design.stem))
        exact = [float(scale) * width / step for width in design.widths]
        for rounded in product(*({max(1, round(width) + more) for more in (-1, 0, 1)} for width in exact)):
            widths = tuple(step * count for count in rounded)
            if list(widths) == sorted(widths) and (stem, widths) not in seen:
                seen.add((stem, widths))
                yield replace(design, widths=widths, stem=stem)


def _distortion(one: Design, design: Design) -> float:
    """How far apart the ratios of the widths and the stem are from one factor for all, on a log scale."""
    logs = [math.log(a / b) for a, b in zip((one.stem, *one.widths), (design.stem, *design.widths), strict=True)]
    return max(logs) - min(logs)
