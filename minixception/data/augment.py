"""Random changes of an image that leave its class alone: a mirror image, and a shift by a few pixels.

All work on uint8 before the scaling to floats: a quarter of the bytes, and the same bytes on every machine.
"""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError


def random_flip(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror each image left to right with probability one half. Shape (N, H, W, C) in and out.

    >>> row = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1)
    >>> random_flip(np.repeat(row, 4, axis=0), np.random.default_rng(0))[:, 0, :, 0].tolist()
    [[0, 1, 2], [2, 1, 0], [2, 1, 0], [2, 1, 0]]
    """
    return _flipped(images, _flips(images, rng))


def _flips(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.random(len(images)) < 0.5  # (N,)


def _flipped(images: np.ndarray, flip: np.ndarray) -> np.ndarray:
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(images: np.ndarray, rng: np.random.Generator, pad: int) -> np.ndarray:
    """Pad images by ``pad`` reflected pixels on all sides, and cut their own size out at a random place.

    Reflection rather than zeros, for a black border is a cue that no test image has. Shape (N, H, W, C) in
    and out.

    Raises:
        ArgumentError: pad is negative or not smaller than the image.

    >>> image = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    >>> random_crop(image, np.random.default_rng(2), pad=1)[0, :, :, 0].tolist()
    [[5, 4, 5, 6], [9, 8, 9, 10], [13, 12, 13, 14], [9, 8, 9, 10]]
    """
    if not 0 <= pad < min(images.shape[1:3]):
        raise ArgumentError(f"expected a padding from 0 to {min(images.shape[1:3]) - 1} pixels, got {pad}")
    return _cropped(images, _corners(images, rng, pad), pad)


def _corners(images: np.ndarray, rng: np.random.Generator, pad: int) -> np.ndarray:
    return rng.integers(0, 2 * pad + 1, (2, len(images)))  # top and left, (N,) each


def _cropped(images: np.ndarray, corners: np.ndarray, pad: int) -> np.ndarray:
    (n, height, width, _), (top, left) = images.shape, corners
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")  # (N, H+2p, W+2p, C)
    rows = top[:, None] + np.arange(height)  # (N, H)
    columns = left[:, None] + np.arange(width)  # (N, W)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)


def augment(images: np.ndarray, rng: np.random.Generator, part: slice = slice(None)) -> np.ndarray:
    """Flip, then crop with a padding of an eighth of the shorter side: the usual for small images.

    At 32x32 that is He et al.'s padding of 4 pixels (Deep Residual Learning, 2015, section 4.2). part: the images to
    return, as they are among all of them: whoever has only a part of a batch sees what others see of it.

    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    >>> whole, half = (augment(images, np.random.default_rng(1), part) for part in (slice(None), slice(2, 4)))
    >>> half.shape, (half == whole[2:]).all()
    ((2, 32, 32, 3), np.True_)
    """
    pad = min(images.shape[1:3]) // 8
    flips, corners = _flips(images, rng), _corners(images, rng, pad)
    return _cropped(_flipped(images[part], flips[part]), corners[:, part], pad)
