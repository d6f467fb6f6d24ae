"""Exercises of notebook 01, autograd by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...engine.op import Case, RandomDraw
from ...engine.tensor import tensor
from ...ops import relu
from ..checks import Choice, Function, Mistake, Number, WrongNumber

_STAGES = 12


def _forward(x: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, c = tensor(x), tensor(b)
    return (relu(a + c) * a).numpy()


def _backward(dy: np.ndarray, x: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, c = tensor(x, requires_grad=True), tensor(b, requires_grad=True)
    (relu(a + c) * a).backward(dy)
    assert a.grad is not None and c.grad is not None
    return a.grad, c.grad


def _case(draw: RandomDraw) -> Case:
    n, c = draw.integer(2, 6), draw.integer(1, 7)
    return Case((draw.normal(n, c), draw.normal(n, c), draw.normal(c)))


def _corners(draw: RandomDraw) -> Iterator[Case]:
    for n, c in ((1, 3), (3, 1), (2, 33)):
        yield Case((draw.normal(n, c), draw.normal(n, c), draw.normal(c)))


def _by_relu(dy: np.ndarray, x: np.ndarray, b: np.ndarray) -> np.ndarray:
    """What reaches x + b by way of the ReLU, shaped like x."""
    return dy * x * (x + b > 0)


EXERCISES = (
    Function(
        name="diamond-backward",
        notebook=1,
        title="The backward pass of relu(x + b) * x",
        reference=_backward,
        draw=_case,
        corners=_corners,
        results=("dx", "db"),
        forward=_forward,
        mistakes=(
            Mistake(
                lambda dy, x, b: (_by_relu(dy, x, b), _backward(dy, x, b)[1]),
                "x is used twice. This is what reaches it through the ReLU; add what reaches it as the second factor.",
            ),
            Mistake(
                lambda dy, x, b: (dy * _forward(np.ones_like(x), x + b - 1), _backward(dy, x, b)[1]),
                "x is used twice. This is what reaches it as the second factor; add what reaches it through the ReLU.",
            ),
            Mistake(
                lambda dy, x, b: (_backward(dy, x, b)[0], _by_relu(dy, x, b)),
                "All rows use the same b: its gradient is the sum over the rows, shaped like b.",
            ),
            Mistake(
                lambda dy, x, b: (_backward(dy, x, b)[0], _by_relu(dy, x, b).mean(axis=0)),
                "All rows use the same b, and contributions add up. Whether to average is the loss's decision, in dy.",
            ),
            Mistake(
                lambda dy, x, b: _backward(np.ones_like(dy), x, b),
                "Where is dy? Every gradient is what comes from below, dy, times the derivative of this operator.",
            ),
            Mistake(
                lambda dy, x, b: (dy * (x + np.maximum(x + b, 0)), (dy * x).sum(axis=0)),
                "The ReLU lets no gradient through where its input was negative.",
            ),
        ),
    ),
    Number(
        name="paths-of-cubes",
        notebook=1,
        title="Paths through a chain of 12 cubes",
        expected=lambda: 3**_STAGES,
        why="z is used three times in each stage, so each stage multiplies the paths by 3; the tape has 24 nodes.",
        mistakes=(
            WrongNumber(2**_STAGES, "Two products make a stage, but how many times does z itself enter it?"),
            WrongNumber(4**_STAGES, "Two products have four inputs, but one of them is the first product, not z."),
            WrongNumber(3 * _STAGES, "The next stage is walked once for each path through the one before."),
            WrongNumber(2 * _STAGES, "This is the number of nodes on the tape. Paths choose one input at each node."),
        ),
    ),
    Choice(
        name="step-too-small",
        notebook=1,
        title="Why finite differences fail for small steps",
        options={
            "A": "Taylor's remainder takes over.",
            "B": "The difference is mostly rounding error, and is divided by a small number.",
            "C": "The operator computes an approximation of the sigmoid, "
            "whose slope differs a little from the true one.",
            "D": "The step itself becomes 0.",
        },
        right="B",
        why="The rounding error of f is the same for any step; divided by 2h it grows as the step shrinks.",
        hints={
            "A": "The remainder shrinks with the step. Which error grows as the step shrinks?",
            "C": "Such an error of the slope is the same for any step: the curves would level off, not rise.",
            "D": "Where x + h rounds to x the slope comes out as 0/(2h) = 0: that is the level part of the float32 "
            "curve. But the error rises long before.",
        },
    ),
)
