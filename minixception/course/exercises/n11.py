"""Exercises of notebook 11, your own kernel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...engine.op import Case, RandomDraw
from ...ops.depthwise.definition import backward_numpy, forward_numpy
from ...ops.window import extents
from ..checks import Function, Mistake, Number, WrongNumber
from .n04 import ROTATED, TRANSPOSED, shifted


def _image(draw: RandomDraw) -> np.ndarray:
    """x (n, h, w, c)."""
    return draw.normal(draw.integer(1, 3), draw.integer(4, 7), draw.integer(4, 7), draw.integer(1, 4))


def _window(x: np.ndarray, kernel: int, stride: int) -> dict[str, int]:
    """Stride, top and left of padding "same"."""
    (_, top), (_, left) = extents(x.shape, (kernel, kernel), stride, "same")
    return {"stride": stride, "top": top, "left": left}


_CORNERS = (  # n, h, w, c, k, stride: with stride 2, an even and an odd side have another padding in front
    (1, 4, 5, 17, 3, 2),
    (3, 5, 4, 33, 3, 2),
    (2, 6, 3, 1, 3, 3),
    (3, 1, 5, 2, 3, 1),
    (1, 2, 2, 8, 3, 1),
)
_OTHER_WINDOWS = ((2, 4, 5, 3, 1, 1), (1, 5, 4, 2, 1, 2), (1, 6, 5, 17, 5, 2), (1, 3, 4, 2, 2, 1))


# Forward ------------------------------------------------------------------------------------------------------


def _forward(x: np.ndarray, w: np.ndarray, stride: int, top: int, left: int) -> np.ndarray:
    return forward_numpy(x, w, stride=stride, padding="same")[0]


def _forward_case(draw: RandomDraw) -> Case:
    x, kernel = _image(draw), draw.choice((3, 3, 5))
    return Case((x, draw.normal(kernel, kernel, x.shape[3])), _window(x, kernel, draw.choice((1, 2, 2))))


def _forward_corners(draw: RandomDraw) -> Iterator[Case]:
    for n, h, w, c, k, stride in (*_CORNERS, *_OTHER_WINDOWS):
        x = draw.normal(n, h, w, c)
        yield Case((x, draw.normal(k, k, c)), _window(x, k, stride))


# The gradient of the weights ----------------------------------------------------------------------------------


def _weights(dy: np.ndarray, x: np.ndarray, stride: int, top: int, left: int) -> np.ndarray:
    w = np.zeros((3, 3, x.shape[3]), x.dtype)
    return backward_numpy(dy, (x, w, stride, "same"))[1]


def _weights_case(draw: RandomDraw) -> Case:
    return _of_weights(draw, _image(draw), draw.choice((1, 2)))


def _weights_corners(draw: RandomDraw) -> Iterator[Case]:
    for n, h, w, c, _, stride in _CORNERS:
        yield _of_weights(draw, draw.normal(n, h, w, c), stride)


def _of_weights(draw: RandomDraw, x: np.ndarray, stride: int) -> Case:
    n, h, w, c = x.shape
    return Case((draw.normal(n, -(-h // stride), -(-w // stride), c), x), _window(x, 3, stride))


def _weights_unpadded(dy: np.ndarray, x: np.ndarray, stride: int, top: int, left: int) -> np.ndarray:
    """All of the padding behind the image: more outputs fit then, and those have no gradient."""
    w = np.zeros((3, 3, x.shape[3]), x.dtype)
    framed = np.pad(x, ((0, 0), (0, 3), (0, 3), (0, 0)))
    outputs = [size // stride + 1 for size in x.shape[1:3]]
    framed_dy = np.zeros((len(x), *outputs, x.shape[3]), x.dtype)
    framed_dy[:, : dy.shape[1], : dy.shape[2]] = dy
    return backward_numpy(framed_dy, (framed, w, stride, "valid"))[1]


EXERCISES = (
    Function(
        name="own-forward",
        notebook=11,
        title="A depthwise kernel of your own",
        reference=_forward,
        draw=_forward_case,
        corners=_forward_corners,
        fills=True,
        mistakes=(
            Mistake(lambda x, w, stride, top, left: _forward(x, w.transpose(1, 0, 2), stride, top, left), TRANSPOSED),
            Mistake(lambda x, w, stride, top, left: _forward(x, w[::-1, ::-1], stride, top, left), ROTATED),
            Mistake(
                lambda x, w, stride, top, left: shifted(x, w, stride, 0, 0),
                "The padding is on the wrong side, all of it behind the image: use top and left.",
            ),
            Mistake(
                lambda x, w, stride, top, left: shifted(x, w, stride, w.shape[0] // 2, w.shape[1] // 2),
                "This centres windows, as PyTorch does. With stride 2 Keras may put more at the end: use top and left.",
            ),
        ),
    ),
    Number(
        name="amdahl",
        notebook=11,
        title="What a faster kernel does for the network",
        expected=lambda: 1 / (0.8 + 0.2 / 3),
        within=0.01,
        why="0.8 of the time stays, 0.2 becomes 0.2/3: together 0.867 of the time, and 1/0.867 is 1.15.",
        mistakes=(
            WrongNumber(3, "Only a fifth of the network's time gets 3 times as fast."),
            WrongNumber(1.25, "That is the limit, for a kernel that takes no time at all."),
            WrongNumber(0.8 + 0.2 / 3, "That is the time that is left. How many times as fast is it then?"),
            WrongNumber(1.6, "Add times, not speeds: what does each part take afterwards?"),
            WrongNumber(1.4, "Add times, not speeds: what does each part take afterwards?"),
        ),
    ),
    Function(
        name="own-weight-gradient",
        notebook=11,
        title="The gradient of the weights, in parallel",
        reference=_weights,
        draw=_weights_case,
        corners=_weights_corners,
        results=("dw",),
        fills=True,
        mistakes=(
            Mistake(
                lambda dy, x, stride, top, left: _weights(dy[:1], x[:1], stride, top, left),
                "This is the gradient of the first image. The weights are used by all: sum over the batch.",
            ),
            Mistake(
                lambda dy, x, stride, top, left: _weights(dy[-1:], x[-1:], stride, top, left),
                "This is the gradient of the last image: sum over the batch, do not write over what was there.",
            ),
            Mistake(
                lambda dy, x, stride, top, left: _weights(dy, x, stride, top, left).transpose(1, 0, 2).copy(),
                TRANSPOSED,
            ),
            Mistake(
                lambda dy, x, stride, top, left: _weights(dy, x, stride, top, left)[::-1, ::-1].copy(),
                "The kernel is rotated by 180 degrees: dx needs that, and dw does not.",
            ),
            Mistake(
                _weights_unpadded,
                "The padding is on the wrong side: dw[a, b] meets x where w[a, b] did, top and left included.",
            ),
        ),
    ),
)
