"""One look for every figure: readable from the last row, and without colour vision. Loads matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os import PathLike
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..files import atomic_path

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


_PAGE = 96  # pixels of a page to an inch, as in CSS; text of 11 points is as large as a notebook's
_DENSITY = 2  # pixels of a PNG to one of the page: sharp on the screens of phones and laptops
_MOST_PIXELS = 20_000  # of a side of a PNG
_COLOURS = 256  # of a PNG: nothing is seen to be missing, and a file is a third as large as with all of them


class VectorFigure(Figure):
    """A matplotlib Figure that keeps its look wherever it is drawn, and is saved as SVG.

    A notebook gets a PNG: where notebooks are browsed, scripts in SVG are feared, and what is cut out of it often
    leaves black boxes.
    """

    def save(self, path: str | PathLike[str]) -> None:
        """Write an SVG file, whole or not at all; the same figure gives the same bytes."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.svg(), encoding="utf-8")

    def draw(self, renderer: Any) -> None:
        with matplotlib.style.context(_LOOK):
            super().draw(renderer)

    def savefig(self, *arguments: Any, **options: Any) -> None:
        places = [(ax, ax.get_position(original=True), ax.get_in_layout()) for ax in self.axes]
        with matplotlib.style.context(_LOOK):  # for settings such as savefig.bbox, which are read before draw
            super().savefig(*arguments, **options)
        for ax, place, in_layout in places:  # the next layout begins where this one did, and so ends where it did
            ax.set_position(place)
            ax.set_in_layout(in_layout)  # set_position takes it out

    def svg(self) -> str:
        """The figure as SVG."""
        file = io.StringIO()
        self.savefig(file, format="svg", metadata={"Date": None})
        return file.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        width, height = (round(_PAGE * inches) for inches in self.get_size_inches())
        density = min(_DENSITY, _MOST_PIXELS / max(width, height))
        drawn, file = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=density * _PAGE)
        colours = Image.open(drawn).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
        colours.save(file, "png", optimize=True)
        return file.getvalue(), {"width": width, "height": height, "alt": self.words()}

    def words(self) -> str:
        """What the figure shows, for those who cannot see it: titles and scales, or what is written in a drawing.

        An axes that has neither may be given a label, which is not drawn.
        """
        said = [text.get_text() for text in self.texts]  # the title of the whole figure is one
        for ax in self.axes:
            said += [ax.get_title(place) for place in ("left", "center", "right")]
            said.append(str(ax.get_label()).replace("<colorbar>", ""))
            for scales in (ax, *ax.child_axes):  # a second scale on the other side is a child
                said.append(" over ".join(filter(None, (scales.get_ylabel(), scales.get_xlabel()))))
        written = [text.get_text() for ax in self.axes for text in ax.texts]
        return "; ".join(dict.fromkeys(filter(None, said if any(said) else written)))


@contextmanager
def canvas(
    width: float, height: float, rows: int = 1, columns: int = 1, **grid: Any
) -> Iterator[tuple[VectorFigure, np.ndarray]]:
    """A new figure of width x height inches and its axes (rows, columns), to draw on inside of the block.

    >>> with canvas(4, 3) as (figure, axes):
    ...     title = axes[0, 0].set_title("a parabola")
    ...     lines = axes[0, 0].plot([0, 1, 2], [0, 1, 4], color=BLUE, marker="o")
    >>> figure.words()
    'a parabola'
    """
    with matplotlib.style.context(_LOOK):
        figure = VectorFigure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, columns, squeeze=False, **grid)


@contextmanager
def page(width: float, height: float) -> Iterator[tuple[VectorFigure, Any]]:
    """A new figure without scales: one axes over all of it, whose unit is a point (1/72 inch), y growing downwards."""
    with matplotlib.style.context(_LOOK):
        figure = VectorFigure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        yield figure, axes


@cache
def text_width(text: str, size: float) -> float:
    """Points that a line of text of this font size is wide."""
    from matplotlib.textpath import TextPath

    plain = text.replace("$", r"\$")  # no formula
    return float(TextPath((0, 0), plain, size=size).get_extents().width) if text.strip() else 0.0
