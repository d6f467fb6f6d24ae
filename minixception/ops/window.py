"""Where a sliding window lies: output size and padding, shared by convolutions and pooling.

"same" is the TensorFlow rule: ceil(size / stride) outputs; of an odd number of padding pixels the extra one goes to the
end. "valid" pads nothing and drops what does not fill a window. A number p is PyTorch's rule: p pixels on each side,
floor((size + 2p - kernel) / stride) + 1 outputs; it is less than the kernel, so that every window meets the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError

Padding = str | int  # "same", "valid", or pixels on each side


def extent(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int]:
    """(number of outputs, padding before the first pixel) along one dimension.

    >>> extent(74, 3, 2, "same"), extent(7, 3, 2, "valid"), extent(74, 3, 2, 1)
    ((37, 0), (3, 0), (37, 1))
    """
    if padding == "same":
        outputs = -(-size // stride)
        return outputs, max((outputs - 1) * stride + kernel - size, 0) // 2
    before = 0 if padding == "valid" else int(padding)
    return (size + 2 * before - kernel) // stride + 1, before


def extents(
    image: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: Padding
) -> tuple[tuple[int, int], tuple[int, int]]:
    """``extent`` down and across, for an image (n, h, w, c) and a kernel (kh, kw, ...).

    >>> extents((1, 74, 75, 3), (3, 3), 2, "same")
    ((37, 0), (38, 1))
    """
    return extent(image[1], kernel[0], stride, padding), extent(image[2], kernel[1], stride, padding)


def pad_image(
    x: np.ndarray, kernel: tuple[int, int], stride: int, padding: Padding
) -> tuple[np.ndarray, tuple[int, int], tuple[slice, ...]]:
    """x (n, h, w, c) with a border of zeros that every window fits into, (ho, wo), and where x lies in the result.

    Without a border to add it is x itself, not a copy.
    """
    (ho, top), (wo, left) = extents(x.shape, kernel, stride, padding)
    sides = zip(x.shape[1:3], (ho, wo), (top, left), kernel, strict=True)
    borders = [(before, max((o - 1) * stride + k - size - before, 0)) for size, o, before, k in sides]
    inside = tuple(slice(before, before + size) for (before, _), size in zip(borders, x.shape[1:3], strict=True))
    if any(borders[0]) or any(borders[1]):
        x = np.pad(x, ((0, 0), *borders, (0, 0)))
    return x, (ho, wo), (slice(None), *inside)


def taps(
    kernel: tuple[int, int], stride: int, outputs: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """Each tap (a, b) of the kernel with the pixels of the padded image that it meets, one for each output.

    >>> [window for a, b, window in taps((1, 2), 2, (1, 3))][1][2]
    slice(1, 7, 2)
    """
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            rows, columns = (
                slice(a, a + stride * outputs[0], stride),
                slice(b, b + stride * outputs[1], stride),
            )
            yield a, b, (slice(None), rows, columns)


def check_window(name: str, kernel: tuple[int, int], stride: int, padding: Padding) -> None:
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


def window_shape(
    name: str, x: tuple[int, ...], kernel: tuple[int, int], stride: int, padding: Padding
) -> tuple[int, int]:
    """Height and width of the output; ShapeError where a window does not fit into x and its padding."""
    check_window(name, kernel, stride, padding)
    (ho, _), (wo, _) = extents(x, kernel, stride, padding)
    if ho < 1 or wo < 1:
        raise ShapeError(
            f"{name}: a {kernel[0]}x{kernel[1]} window does not fit into {x[1]}x{x[2]} pixels with padding {padding!r}"
        )
    return ho, wo


def sample_window(draw: Any) -> tuple[tuple[int, int], int, Padding, tuple[int, int]]:
    """A random kernel, stride, padding, and an image size it fits into."""
    kernel = (draw.choice((1, 2, 3, 5)), draw.choice((1, 3, 5)))
    stride, padding = draw.choice((1, 2)), draw.choice(("same", "valid", draw.integer(0, min(kernel) - 1)))
    added = {"same": max(kernel), "valid": 0}.get(padding, 2 * padding)  # pixels that the image may have less
    smallest = [max(1, k - added) for k in kernel]
    return kernel, stride, padding, (draw.integer(smallest[0], kernel[0] + 4), draw.integer(smallest[1], kernel[1] + 4))
