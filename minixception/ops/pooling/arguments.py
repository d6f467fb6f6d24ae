"""What max_pool2d and avg_pool2d share: reading their arguments, the shape rule, the window, a random case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...engine.op import Draw, Shape, plain
from ...errors import ArgumentError
from ..window import (
    Border,
    Padding,
    Pair,
    check_image,
    extents,
    sample_window,
    window_arguments,
    window_shape,
)


def window_params(
    name: str, size: int | Sequence[int], stride: Pair | None, padding: Border, dilation: Pair = 1
) -> dict[str, Any]:
    """The operator's parameters: size as (h, w); stride None is the window's size: windows tile x.

    >>> window_params("max_pool2d", 2, None, "valid")
    {'size': (2, 2), 'stride': 2, 'padding': 'valid'}
    """
    size = plain(size)
    sides = (size, size) if isinstance(size, int) else plain(tuple(size)) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
        raise ArgumentError(f"{name}: size must be a positive integer or a pair (height, width), got {size!r}")
    return {"size": sides, **window_arguments(sides if stride is None else stride, padding, dilation)}


def pooled_shape(name: str, x: Shape, size: tuple[int, int], stride: Pair, padding: Border, **dilation: Pair) -> Shape:
    """(n, ho, wo, c); ShapeError or ArgumentError if the window and x do not go together."""
    check_image(name, x)
    return (x[0], *window_shape(name, x, size, stride, padding, **dilation), x[3])


def pool_window(
    x: Shape, size: tuple[int, int], stride: int, padding: Padding
) -> tuple[Shape, tuple[int, int, int, int, int]]:
    """The shape of y, and what kernels ask of the window: (kh, kw, stride, padding above x, padding to its left).

    >>> pool_window((1, 74, 74, 3), (3, 3), 2, "same")
    ((1, 37, 37, 3), (3, 3, 2, 0, 0))
    """
    (ho, top), (wo, left) = extents(x, size, stride, padding)
    return (x[0], ho, wo, x[3]), (*size, stride, top, left)


def sample_pool(draw: Draw) -> tuple[Shape, dict[str, Any]]:
    """The shape of x and the parameters of a random case."""
    kernel, stride, padding, size = sample_window(draw)
    shape = (draw.integer(1, 2), *size, draw.integer(1, 20))
    return shape, {"size": kernel, "stride": stride, "padding": padding}
