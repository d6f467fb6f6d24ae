"""One look for every figure: readable from the last row, and without colour vision. Loads matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all common kinds of colour blindness. Wherever a colour carries
# meaning, a marker, a line style or a word says the same.
BLUE, VERMILION, GREEN, ORANGE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#666666"

_STYLE: dict[str, Any] = {
    "font.size": 11,  # points in a figure 9 inches wide: the size of a notebook's text, and 16 points on a slide
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "lines.linewidth": 2,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,  # inches
    "figure.constrained_layout.w_pad": 0.1,
    "svg.hashsalt": "minixception",  # the same figure gives the same file
}
_LOOK = ("default", _STYLE)  # from the defaults on: settings of the caller must not change a figure


class VectorFigure(Figure):
    """A matplotlib Figure that keeps its look wherever it is drawn, and shows itself as SVG in a notebook."""

    def draw(self, renderer: Any) -> None:
        with matplotlib.style.context(_LOOK):
            super().draw(renderer)

    def _repr_svg_(self) -> str:
        file = io.StringIO()
        self.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()


@contextmanager
def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> Iterator[tuple[VectorFigure, np.ndarray]]:
    """A new figure of width x height inches and its axes (rows, columns), to draw on inside of the block."""
    with matplotlib.style.context(_LOOK):
        figure = VectorFigure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **grid)
