"""The spectrum between regular and depthwise convolution: what becomes of the time when the segments get narrower.

One convolution, 3x3 with 192 channels before and behind on 8 images of 28x28, in 1 to 192 segments of channels, forward
and backward. Its multiply-accumulates fall as 1 / segments; the bytes of its images stay. So the limit is arithmetic
first, and memory where segments are few channels wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from .. import nn
from .kernels import Workload
from .measurement import Measurement

if TYPE_CHECKING:
    from ..viz.style import VectorFigure

CHANNELS = 192
SEGMENTS = (1, 2, 4, 8, 12, 24, 48, 96, 192)
WORKLOADS = {
    segments: Workload(
        f"conv 3x3, {segments} x {CHANNELS // segments} channels",
        partial(nn.Conv2d, CHANNELS, CHANNELS, 3, groups=segments),
        (8, 28, 28, CHANNELS),
    )
    for segments in SEGMENTS
}


def figure(rows: Sequence[Measurement]) -> VectorFigure:
    """Time along the segments: ours, PyTorch's and the limit, a panel for each direction and number of threads."""
    from ..viz import SpectrumTime, spectrum_times

    segments = {workload.name: number for number, workload in WORKLOADS.items()}
    points = []
    for row in rows:
        panel = f"{row.direction}, {row.threads} thread{'s' if row.threads > 1 else ''}"
        seconds = {"PyTorch" if who == "torch" else who: time.median for who, time in row.times.items()}
        times = {**seconds, "limit": row.bound}.items()
        points += [SpectrumTime(panel, segments[row.name], who, time) for who, time in times]
    return spectrum_times(points)
