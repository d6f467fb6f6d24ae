"""What any figure must keep to be read on a projector, as far as matplotlib can tell: for tests."""

from __future__ import annotations

import itertools
from unittest import mock

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

SLIDE = (13.33, 7.5)  # inches
LEAST = 9  # points of the smallest text, when the figure fills the slide


def drawn_texts(figure):
    """(text, its rectangle in pixels) of all that is drawn, in a canvas of 100 pixels to the inch."""
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # constrained layout finds its places
    seen, draw = [], Text.draw

    def record(self, renderer):
        if self.get_text().strip() and self.get_visible():
            seen.append(self)
        draw(self, renderer)

    with mock.patch.object(Text, "draw", record):
        canvas.draw()
    return [(text, Text.get_window_extent(text, canvas.get_renderer())) for text in dict.fromkeys(seen)]


def problems(figure):
    """What is wrong with a figure's texts: cut off, over one another, over an axes that is not theirs, too small."""
    found = []
    texts = drawn_texts(figure)
    width, height = figure.get_size_inches()
    scale = min(SLIDE[0] / width, SLIDE[1] / height)
    for text, box in texts:
        name = text.get_text().replace("\n", " ")
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > 100 * width + 0.5 or box.y1 > 100 * height + 0.5:
            found.append(f"cut off: {name}")
        if text.get_size() * scale < LEAST:
            found.append(f"{text.get_size() * scale:.1f} points on a slide: {name}")
        for ax in figure.axes:
            if ax.axison and text.axes is not ax and overlap(box, ax.get_window_extent()):
                found.append(f"over another axes: {name}")
    for (one, box), (other, other_box) in itertools.combinations(texts, 2):
        if overlap(box, other_box):
            found.append(f"over each other: {one.get_text()} and {other.get_text()}")
    return found


def overlap(a, b, least=1.0):
    """Whether two rectangles share more than ``least`` pixels in both directions."""
    across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return across > least and down > least
