"""Sample pictures for a first try, drawn when they are asked for: no file is shipped and nobody's photo is copied.

Each shows an object that ImageNet has a class for. A drawing is not a photo: a network may well see something else in
it, which is worth a look too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING

from ...errors import ArgumentError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

SIZE = 400  # pixels, height and width
_FINE = 3  # drawn so many times larger and then shrunk, which smooths the edges


class Pen:
    """Draws on a square canvas of 100 x 100 units, (0, 0) at the top left."""

    def __init__(self, draw: ImageDraw, pixels: int) -> None:
        self._draw = draw
        self._unit = pixels / 100

    def _scaled(self, points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self._unit, y * self._unit) for x, y in points]

    def polygon(self, points: Iterable[tuple[float, float]], fill: str) -> None:
        """A filled polygon."""
        self._draw.polygon(self._scaled(points), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: str, round: float = 0) -> None:
        """A filled rectangle, its corners rounded."""
        self._draw.rounded_rectangle(self._scaled([(left, top), (right, bottom)]), round * self._unit, fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: str) -> None:
        """A filled circle."""
        self._draw.ellipse(self._scaled([(x - radius, y - radius), (x + radius, y + radius)]), fill=fill)

    def line(self, points: Iterable[tuple[float, float]], width: float, fill: str) -> None:
        """A line through the points."""
        self._draw.line(self._scaled(points), fill=fill, width=round(width * self._unit), joint="curve")


def _around(x: float, y: float, radius: float, turn: float) -> tuple[float, float]:
    """The point of a circle at ``turn`` (1 is once around, clockwise from the top)."""
    return x + radius * math.sin(2 * math.pi * turn), y - radius * math.cos(2 * math.pi * turn)


def _traffic_light(pen: Pen) -> None:
    pen.box(0, 0, 100, 100, "#a9cbe6")
    pen.box(47, 80, 53, 100, "#4a4d50")
    pen.box(31, 8, 69, 84, "#23262a", round=8)
    for y, dark, bright in ((23, "#5c1512", "#ff3b2f"), (46, "#5e4a0e", "#5e4a0e"), (69, "#123f1d", "#123f1d")):
        pen.disc(50, y, 11, "#0d0f11")
        pen.disc(50, y, 9.5, dark)
        pen.disc(50, y, 8, bright)


def _wall_clock(pen: Pen) -> None:
    pen.box(0, 0, 100, 100, "#e6dcc8")
    pen.disc(50, 50, 42, "#33281f")
    pen.disc(50, 50, 37, "#fdfdf8")
    for minute in range(60):
        long = minute % 5 == 0
        inner = _around(50, 50, 30 if long else 33, minute / 60)
        pen.line([inner, _around(50, 50, 35, minute / 60)], 1.6 if long else 0.6, "#222222")
    for radius, turn, width in ((18, 10.15 / 12, 3), (28, 9 / 60, 2)):
        pen.line([_around(50, 50, -4, turn), _around(50, 50, radius, turn)], width, "#111111")
    pen.disc(50, 50, 2.5, "#b3261e")


def _honeycomb(pen: Pen) -> None:
    pen.box(0, 0, 100, 100, "#8a4b08")
    for row in range(-1, 9):
        for column in range(-1, 8):
            x, y = 16 * column + 8 * (row % 2), 14 * row
            pen.polygon([_around(x, y, 8.2, k / 6) for k in range(6)], "#d98e14")
            pen.polygon([_around(x, y + 0.8, 6.6, k / 6) for k in range(6)], "#f6b93b")


def _crossword(pen: Pen) -> None:
    half = ("..#...#..", "....#....", "#.#...#.#", "...#.....", ".#..#..#.")
    rows = half + tuple(row[::-1] for row in half[-2::-1])  # the lower half is the upper one, turned
    pen.box(0, 0, 100, 100, "#f3efe6")
    pen.box(8, 8, 92, 92, "#151515")
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            left, top = 9 + 9.15 * j, 9 + 9.15 * i
            if cell == ".":
                pen.box(left, top, left + 8.6, top + 8.6, "#ffffff")


def _orange(pen: Pen) -> None:
    pen.box(0, 0, 100, 100, "#dfe7ea")
    pen.box(0, 72, 100, 100, "#b98d5e")
    pen.disc(52, 80, 30, "#96703f")
    for step in range(24):  # lighter towards the light
        shade = step / 24
        green = round(110 + 70 * shade)
        pen.disc(50 - 9 * shade, 52 - 11 * shade, 33 * (1 - shade) + 2, f"#f2{green:02x}{round(10 + 50 * shade):02x}")
    pen.polygon([(50, 20), (62, 9), (76, 12), (66, 21)], "#2f7d32")
    pen.line([(50, 22), (52, 14)], 2, "#5d4a1f")


def _envelope(pen: Pen) -> None:
    pen.box(0, 0, 100, 100, "#5b4636")
    pen.box(9, 23, 93, 81, "#3b2d22", round=1)
    pen.box(7, 21, 91, 79, "#f6f0df", round=1)
    pen.line([(7, 79), (41, 47), (57, 47), (91, 79)], 0.8, "#c9bfa5")
    pen.polygon([(7, 21), (91, 21), (49, 57)], "#ece3cb")
    pen.line([(7, 21), (49, 57), (91, 21)], 0.8, "#b7ab8c")
    pen.disc(49, 55, 6, "#a3211b")


def _airliner(pen: Pen) -> None:
    for band in range(20):  # the sky is lighter towards the horizon
        pen.box(0, 5 * band, 100, 5 * band + 6, f"#{90 + 5 * band:02x}{150 + 4 * band:02x}{225 + band:02x}")
    pen.polygon([(40, 46), (58, 46), (38, 18), (30, 18)], "#aab2bb")
    pen.polygon([(8, 24), (17, 24), (27, 45), (14, 45)], "#c23b32")
    pen.polygon([(10, 42), (24, 38), (84, 40), (93, 46), (96, 50), (90, 54), (24, 55), (12, 48)], "#eceff2")
    pen.polygon([(12, 48), (96, 50), (90, 54), (24, 55)], "#c3cad1")
    for window in range(14):
        pen.disc(31 + 3.6 * window, 45, 0.9, "#39424d")
    pen.polygon([(85, 44), (90, 44), (92, 47), (86, 47)], "#39424d")
    pen.polygon([(42, 51), (60, 51), (38, 82), (29, 82)], "#8d969f")
    pen.box(44, 58, 57, 64, "#5c656e", round=3)


def _liner(pen: Pen) -> None:
    pen.box(0, 0, 100, 64, "#a8c8e0")
    pen.box(0, 62, 100, 100, "#2c5a7d")
    pen.polygon([(6, 55), (95, 52), (84, 73), (15, 73)], "#23303f")
    pen.polygon([(12, 68), (88, 68), (84, 73), (15, 73)], "#a3352c")
    pen.box(20, 46, 80, 55, "#f4f4f0")
    pen.box(26, 38, 72, 47, "#e6e6e0")
    for x in (34, 48, 62):
        pen.polygon([(x, 38), (x + 1, 22), (x + 8, 22), (x + 8, 38)], "#c8452f")
        pen.box(x + 1, 22, x + 8, 25, "#1d1d1d")
    for y in (42, 50):
        for window in range(14):
            pen.disc(28 + 3.2 * window, y, 0.8, "#39424d")
    for y, shade in ((77, "#3a6d92"), (84, "#41769b"), (92, "#3a6d92")):
        pen.line([(x, y + (x // 10) % 2 * 1.5) for x in range(0, 101, 10)], 1, shade)


def _moving_van(pen: Pen) -> None:
    pen.box(0, 0, 100, 74, "#b9d3e3")
    pen.box(0, 70, 100, 100, "#6d6f70")
    pen.box(6, 24, 66, 72, "#f0ead6")
    pen.box(6, 40, 66, 48, "#c9472f")
    pen.polygon([(67, 36), (83, 36), (93, 53), (93, 73), (67, 73)], "#c9472f")
    pen.polygon([(71, 40), (81, 40), (88, 53), (71, 53)], "#25323c")
    pen.box(4, 70, 95, 76, "#2a2a2a")
    pen.box(89, 62, 94, 67, "#f6e58d")
    for x in (20, 34, 80):
        pen.disc(x, 78, 8, "#17181a")
        pen.disc(x, 78, 3.5, "#9aa0a5")


SAMPLES: dict[str, Callable[[Pen], None]] = {
    "traffic_light.png": _traffic_light,
    "wall_clock.png": _wall_clock,
    "honeycomb.png": _honeycomb,
    "crossword.png": _crossword,
    "orange.png": _orange,
    "envelope.png": _envelope,
    "airliner.png": _airliner,
    "liner.png": _liner,
    "moving_van.png": _moving_van,
}


@cache
def sample(name: str) -> bytes:
    """A sample picture as a PNG file; ArgumentError if no sample has this name.

    >>> sample("orange.png")[:4]
    b'\\x89PNG'
    """
    from PIL import Image, ImageDraw

    if name not in SAMPLES:
        raise ArgumentError(f"expected a sample out of {', '.join(SAMPLES)}, got {name!r}")
    fine = Image.new("RGB", (SIZE * _FINE, SIZE * _FINE))
    SAMPLES[name](Pen(ImageDraw.Draw(fine), fine.width))
    file = io.BytesIO()
    fine.reduce(_FINE).save(file, "PNG")
    return file.getvalue()
