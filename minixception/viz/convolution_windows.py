"""Where a window lies: padding and stride as static strips, drawn from the same rule that the operators use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ShapeError
from ..ops.window import Padding, check_window, extent

if TYPE_CHECKING:
    from .style import VectorFigure


class Strip(NamedTuple):
    """A row of pixels and the windows on it, all counted from the first pixel: padding has places below 0 or
    from ``size`` on. dropped: places at the end, pixels or padding, that no window reaches.
    """

    size: int
    kernel: int
    stride: int
    padding: Padding
    before: int
    after: int
    starts: list[int]
    dropped: int


def strip(size: int, kernel: int, stride: int, padding: Padding) -> Strip:
    """Where the windows of one dimension lie, by ``ops.window.extent``.

    Raises ArgumentError for what a convolution refuses, ShapeError where no window fits.

    >>> strip(6, 3, 2, "same").starts, strip(6, 3, 2, "same").after
    ([0, 2, 4], 1)
    >>> strip(6, 3, 2, 1).starts, strip(6, 3, 2, 1).dropped  # the padding behind
    ([-1, 1, 3], 1)
    """
    check_window("strip", (kernel, kernel), stride, padding)
    outputs, before = extent(size, kernel, stride, padding)
    if size < 1 or outputs < 1:
        raise ShapeError(f"strip: a window of {kernel} does not fit into {size} pixels with padding {padding!r}")
    starts = [i * stride - before for i in range(outputs)]
    end = starts[-1] + kernel
    after = max(end - size, 0) if isinstance(padding, str) else padding
    return Strip(size, kernel, stride, padding, before, after, starts, max(size + after - end, 0))


def padding_strips(size: int, kernel: int, settings: Sequence[tuple[int, Padding]]) -> VectorFigure:
    """One row of ``size`` pixels for each (stride, padding): a line for each window, and the output it makes.

    Padding is dashed; what no window reaches is crossed out. "same" puts an extra pixel at the end; a number is
    PyTorch's padding, the same on both sides. Raises what ``strip`` raises.

    >>> [ax.get_title("left") for ax in padding_strips(6, 3, [(1, "same"), (2, "valid")]).axes]
    ['"same", stride 1: 6 → 6', '"valid", stride 2: 6 → 2']
    """
    strips = [strip(size, kernel, stride, padding) for stride, padding in settings]

    from .style import canvas

    columns = min(2, len(strips))
    rows = -(-len(strips) // columns)
    low, high = min(-s.before for s in strips), max(s.size + s.after for s in strips)
    heights = [max(len(s.starts) for s in strips[i : i + columns]) + 2.6 for i in range(0, len(strips), columns)]
    unit = min(0.36, 5.6 / (high - low + 4))  # inches of a pixel's side
    size_inches = columns * (unit * (high - low + 4) + 0.6), unit * sum(heights) + 0.7 * rows
    with canvas(*size_inches, rows, columns, height_ratios=heights) as (figure, axes):
        for ax in axes.flat[len(strips) :]:
            ax.remove()
        for ax, one, lines in zip(axes.flat, strips, [h for h in heights for _ in range(columns)], strict=False):
            _draw_strip(ax, one)
            ax.set(xlim=(low - 0.6, high + 3.6), ylim=(lines - 0.6, -0.6))
    return figure


def _draw_strip(ax: Any, one: Strip) -> None:
    """The pixels on top, below them a line for each window with an arrow to its output."""
    from .style import BLUE, GREEN

    ax.axis("off")
    ax.set_aspect("equal")
    name = f'"{one.padding}"' if isinstance(one.padding, str) else f"padding {one.padding} on each side"
    ax.set_title(f"{name}, stride {one.stride}: {one.size} → {len(one.starts)}")
    places = range(-one.before, one.size + one.after)
    for place in places:
        inside = 0 <= place < one.size
        _cell(ax, place, 0, "#D6E8F5" if inside else "white", str(place + 1) if inside else "0", dashed=not inside)
    for place in places[len(places) - one.dropped :]:
        ax.plot([place + 0.05, place + 0.95], [0.95, 0.05], color="#D55E00", lw=2, gid="dropped")
    for i, start in enumerate(one.starts):
        y = 1.6 + i
        for place in range(start, start + one.kernel):
            _cell(ax, place, y, "#D5EFE6" if 0 <= place < one.size else "white", "", not 0 <= place < one.size)
        ax.plot([start, start + one.kernel, start + one.kernel, start, start], [y, y, y + 1, y + 1, y], color=GREEN,
                lw=2, gid="window")  # fmt: skip
        end = one.size + one.after
        ax.annotate("", (end + 1.6, y + 0.5), (max(start + one.kernel, 0) + 0.15, y + 0.5),
                    arrowprops={"arrowstyle": "-|>", "color": "#999999", "lw": 1})  # fmt: skip
        _cell(ax, end + 1.7, y, "#FBEFD0", str(i + 1), False)
    words = f"padding: {one.before} before, {one.after} after"
    if one.dropped:
        words += f"; {one.dropped} dropped"
    ax.text(-one.before, 1.7 + len(one.starts) + 0.4, words, color=BLUE, va="center")


def _cell(ax: Any, x: float, y: float, fill: str, text: str, dashed: bool) -> None:
    from matplotlib.patches import Rectangle

    style = "--" if dashed else "-"
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=fill, edgecolor="#666666", lw=1, ls=style, gid="cell"))
    ax.text(x + 0.5, y + 0.5, text, ha="center", va="center_baseline", size=10)


def window_frames(image: tuple[int, int], kernel: int, stride: int, padding: Padding) -> VectorFigure:
    """A frame for each output of a small image: the window over the pixels that make it, the frames in its place.

    image: height and width. Padding is dashed. Raises what ``strip`` raises, and ShapeError for more than 25 outputs.

    >>> len(window_frames((5, 5), 3, 2, "same").axes)
    9
    """
    down, across = (strip(size, kernel, stride, padding) for size in image)
    rows, columns = len(down.starts), len(across.starts)
    if rows * columns > 25:
        raise ShapeError(f"window_frames: expected an image with at most 25 outputs, got {rows}x{columns}")

    from .style import canvas

    width, height = 1.9 * columns + 0.3, 1.9 * rows * (image[0] + 1) / (image[1] + 1) + 0.6
    with canvas(width, height, rows, columns) as (figure, axes):
        for i, top in enumerate(down.starts):
            for j, left in enumerate(across.starts):
                _draw_frame(axes[i, j], down, across, (top, left))
                axes[i, j].set_title(f"output ({i + 1}, {j + 1})", size=11)
        name = f'"{padding}"' if isinstance(padding, str) else f"padding {padding} on each side"
        title = f"{kernel}×{kernel}, stride {stride}, {name}: {image[0]}×{image[1]} → {rows}×{columns}"
        figure.suptitle(title, x=0.01, ha="left", size=12)
    return figure


def _draw_frame(ax: Any, down: Strip, across: Strip, corner: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle

    from .style import GREEN

    k = down.kernel
    ax.axis("off")
    ax.set_aspect("equal")
    for y in range(-down.before, down.size + down.after):
        for x in range(-across.before, across.size + across.after):
            inside = 0 <= y < down.size and 0 <= x < across.size
            seen = corner[0] <= y < corner[0] + k and corner[1] <= x < corner[1] + k
            fill = ("#7FCDB5" if seen else "#D6E8F5") if inside else "white"
            line = "-" if inside else ":"
            ax.add_patch(Rectangle((x, y), 1, 1, facecolor=fill, edgecolor="#888888", lw=0.8, ls=line, gid="cell"))
    ax.add_patch(Rectangle(corner[::-1], k, k, fill=False, edgecolor=GREEN, lw=2.5, gid="window"))
    ax.set(xlim=(-across.before - 0.2, across.size + across.after + 0.2))
    ax.set(ylim=(down.size + down.after + 0.2, -down.before - 0.2))
