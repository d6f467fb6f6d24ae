"""Where a sliding window lies: output size and padding, shared by convolutions and pooling.

"same" is the TensorFlow rule: ceil(size / stride) outputs; of an odd number of padding pixels the extra one goes to the
end. "valid" pads nothing and drops what does not fill a window. A number p is PyTorch's rule: p pixels on each side,
floor((size + 2p - kernel) / stride) + 1 outputs; it is less than the kernel, so that every window meets the image.

With dilation d the taps of a window are d pixels apart: it spans (kernel - 1) d + 1 pixels, and in all of these rules
that takes the place of the kernel. Stride, padding and dilation are numbers or pairs (down, across). The fast rungs
know one stride, one padding and no dilation, which is all that the networks here have; every operator with a window has
a general form beside it, which takes the dilation as one more parameter and is the definition alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from ..engine.op import Case, Draw, Op, Rung, plain
from ..errors import ArgumentError, ShapeError

T = TypeVar("T")
Pair = int | tuple[int, int]  # the same down and across, or (down, across)
Padding = str | int  # "same", "valid", or pixels on each side
Border = Padding | tuple[int, int]  # the same down and across, or pixels above and below, and to the left and right


def pair(value: T | tuple[T, T]) -> tuple[T, T]:
    """(down, across) of a pair, or of a number or a word that stands for both.

    >>> pair(2), pair((2, 1)), pair("same")
    ((2, 2), (2, 1), ('same', 'same'))
    """
    return value if isinstance(value, tuple) else (value, value)


def one_if_equal(value: Any) -> Any:
    """The number that a pair, or a list, of two equal ones stands for; any other value as it is.

    >>> one_if_equal((2, 2)), one_if_equal([2, 1]), one_if_equal("same")
    (2, (2, 1), 'same')
    """
    value = plain(tuple(value) if isinstance(value, list) else value)
    return value[0] if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1] else value


def window_arguments(stride: Pair, padding: Border, dilation: Pair = 1) -> dict[str, Any]:
    """The parameters of the operator with all rungs or, where these will not do, of its general form: with a dilation.

    >>> window_arguments((2, 2), "same"), window_arguments(1, "same", dilation=2)
    ({'stride': 2, 'padding': 'same'}, {'stride': 1, 'padding': 'same', 'dilation': 2})
    """
    stride, padding, dilation = one_if_equal(stride), one_if_equal(padding), one_if_equal(dilation)
    arguments = {"stride": stride, "padding": padding}
    if dilation != 1 or isinstance(stride, tuple) or isinstance(padding, tuple):
        arguments["dilation"] = dilation
    return arguments


def general_form(op: Op, sample: Callable[[Draw], Case]) -> Op:
    """An operator with a window for any stride, padding and dilation: its definition, which saves the dilation too."""
    definition = op.rungs["numpy"]

    def forward(*arrays: np.ndarray, dilation: Pair, **params: Any) -> tuple[np.ndarray, tuple[Any, Pair]]:
        y, saved = definition.forward(*arrays, **params, dilation=dilation)
        return y, (saved, dilation)

    def backward(dy: np.ndarray, saved: tuple[Any, Pair]) -> tuple[np.ndarray | None, ...]:
        return definition.backward(dy, saved[0], dilation=saved[1])

    return replace(op, name=f"general_{op.name}", rungs={"numpy": Rung(forward, backward)}, sample=sample)


def extent(size: int, kernel: int, stride: int, padding: Padding, dilation: int = 1) -> tuple[int, int]:
    """(number of outputs, padding before the first pixel) along one dimension.

    >>> extent(74, 3, 2, "same"), extent(7, 3, 2, "valid"), extent(74, 3, 2, 1), extent(7, 3, 1, "valid", dilation=2)
    ((37, 0), (3, 0), (37, 1), (3, 0))
    """
    span = (kernel - 1) * dilation + 1
    if padding == "same":
        outputs = -(-size // stride)
        return outputs, max((outputs - 1) * stride + span - size, 0) // 2
    before = 0 if padding == "valid" else int(padding)
    return (size + 2 * before - span) // stride + 1, before


def extents(
    image: tuple[int, ...], kernel: tuple[int, ...], stride: Pair, padding: Border, dilation: Pair = 1
) -> tuple[tuple[int, int], tuple[int, int]]:
    """``extent`` down and across, for an image (n, h, w, c) and a kernel (kh, kw, ...).

    >>> extents((1, 74, 75, 3), (3, 3), 2, "same"), extents((1, 74, 75, 3), (3, 3), (2, 1), "same")
    (((37, 0), (38, 1)), ((37, 0), (75, 1)))
    """
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    above, before = padding if isinstance(padding, tuple) else (padding, padding)
    return extent(image[1], kernel[0], sh, above, dh), extent(image[2], kernel[1], sw, before, dw)


def pad_image(
    x: np.ndarray, kernel: tuple[int, int], stride: Pair, padding: Border, dilation: Pair = 1
) -> tuple[np.ndarray, tuple[int, int], tuple[slice, ...]]:
    """x (n, h, w, c) with a border of zeros that every window fits into, (ho, wo), and where x lies in the result.

    Without a border to add it is x itself, not a copy.
    """
    (ho, top), (wo, left) = extents(x.shape, kernel, stride, padding, dilation)
    sides = zip(x.shape[1:3], (ho, wo), (top, left), pair(stride), spans(kernel, dilation), strict=True)
    borders = [(before, max((o - 1) * step + span - size - before, 0)) for size, o, before, step, span in sides]
    inside = tuple(slice(before, before + size) for (before, _), size in zip(borders, x.shape[1:3], strict=True))
    if any(borders[0]) or any(borders[1]):
        x = np.pad(x, ((0, 0), *borders, (0, 0)))
    return x, (ho, wo), (slice(None), *inside)


def spans(kernel: tuple[int, int], dilation: Pair) -> tuple[int, int]:
    """Pixels from a window's first tap to its last, both included, down and across.

    >>> spans((3, 1), 2)
    (5, 1)
    """
    (kh, kw), (down, across) = kernel, pair(dilation)
    return (kh - 1) * down + 1, (kw - 1) * across + 1


def taps(
    kernel: tuple[int, int], stride: Pair, outputs: tuple[int, int], dilation: Pair = 1
) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """Each tap (a, b) of the kernel with the pixels of the padded image that it meets, one for each output.

    >>> [window for a, b, window in taps((1, 2), 2, (1, 3))][1][2]
    slice(1, 7, 2)
    """
    (sh, sw), (dh, dw) = pair(stride), pair(dilation)
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            rows = slice(a * dh, a * dh + sh * outputs[0], sh)
            columns = slice(b * dw, b * dw + sw * outputs[1], sw)
            yield a, b, (slice(None), rows, columns)


def check_window(name: str, kernel: tuple[int, ...], stride: Any, padding: Any) -> None:
    """ArgumentError unless stride and kernel are positive integers and every window meets a pixel of the image."""
    if not isinstance(stride, int) or stride < 1:
        raise ArgumentError(f"{name}: stride must be a positive integer, got {stride!r}")
    if any(not isinstance(k, int) or k < 1 for k in kernel):
        raise ArgumentError(f"{name}: the window's sides must be positive integers, got {kernel}")
    if padding not in ("same", "valid") and not (isinstance(padding, int) and 0 <= padding < min(kernel)):
        raise ArgumentError(
            f"{name}: padding must be 'same', 'valid' or a number of pixels from 0 to {min(kernel) - 1}, less than the "
            f"window's sides, got {padding!r}"
        )


def check_image(name: str, x: tuple[int, ...], channels: int | None = None) -> None:
    """ShapeError unless x is (n, h, w, c), with ``channels`` channels if given."""
    if len(x) != 4:
        raise ShapeError(f"{name}: x must be (n, h, w, c), got {len(x)} dimensions: {x}")
    if channels is not None and x[3] != channels:
        hint = "; activations are NHWC: transpose(0, 2, 3, 1) an NCHW array" if x[1] == channels else ""
        raise ShapeError(f"{name}: the kernel is for {channels} input channels, x has {x[3]} in shape {x}{hint}")


def check_general_window(name: str, kernel: tuple[int, int], stride: Pair, padding: Border, dilation: Pair) -> None:
    """``check_window`` down and across: ArgumentError unless each number, of a pair or for both, is in its range."""
    for what, value in (("stride", stride), ("padding", padding), ("dilation", dilation)):
        if isinstance(value, tuple) and len(value) != 2:
            raise ArgumentError(f"{name}: {what} must be one value or a pair (down, across), got {value!r}")
    if any(not isinstance(d, int) or d < 1 for d in pair(dilation)):
        raise ArgumentError(f"{name}: dilation must be a positive integer or a pair of them, got {dilation!r}")
    for span, step, around in zip(spans(kernel, dilation), pair(stride), pair(padding), strict=True):
        check_window(name, (span,), step, around)


def window_shape(
    name: str, x: tuple[int, ...], kernel: tuple[int, int], stride: Pair, padding: Border, **dilation: Pair
) -> tuple[int, int]:
    """Height and width of the output; ShapeError where a window does not fit into x and its padding.

    Without a dilation, as for the operators with all rungs, stride and padding must be the same down and across.
    """
    if dilation:
        check_general_window(name, kernel, stride, padding, **dilation)
    else:
        check_window(name, kernel, stride, padding)
    (ho, _), (wo, _) = extents(x, kernel, stride, padding, **dilation)
    if ho < 1 or wo < 1:
        dilated = "".join(f" with dilation {d}" for d in dilation.values() if d != 1)
        raise ShapeError(
            f"{name}: a {kernel[0]}x{kernel[1]} window{dilated} does not fit into {x[1]}x{x[2]} pixels with padding "
            f"{padding!r}"
        )
    return ho, wo


def sample_window(draw: Draw) -> tuple[tuple[int, int], int, Padding, tuple[int, int]]:
    """A random kernel, stride, padding, and an image size it fits into."""
    kernel = (draw.choice((1, 2, 3, 5)), draw.choice((1, 3, 5)))
    stride, padding = draw.choice((1, 2)), draw.choice(("same", "valid", draw.integer(0, min(kernel) - 1)))
    added = {"same": max(kernel), "valid": 0}.get(padding, 2 * padding)  # pixels that the image may have less
    smallest = [max(1, k - added) for k in kernel]
    return kernel, stride, padding, (draw.integer(smallest[0], kernel[0] + 4), draw.integer(smallest[1], kernel[1] + 4))


def sample_general_window(
    draw: Draw, dilations: tuple[Pair, ...] = (1, 2, (1, 2), (2, 1), (3, 2))
) -> tuple[tuple[int, int], dict[str, Any], tuple[int, int]]:
    """A random kernel, stride, padding and dilation, most of them pairs, and an image size it fits into."""
    kernel = (draw.choice((1, 2, 3)), draw.choice((1, 3)))
    stride, dilation = draw.choice((1, 2, (1, 2), (2, 1), (3, 2))), draw.choice(dilations)
    h, w = spans(kernel, dilation)
    padding = draw.choice(("same", "valid", (draw.integer(0, h - 1), draw.integer(0, w - 1))))
    size = draw.integer(h, h + 3), draw.integer(w, w + 3)
    return kernel, {"stride": stride, "padding": padding, "dilation": dilation}, size
