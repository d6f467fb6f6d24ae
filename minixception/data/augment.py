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
    flip = rng.random(len(images)) < 0.5  # (N,)
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
    n, height, width, _ = images.shape
    if not 0 <= pad < min(height, width):
        raise ArgumentError(f"expected a padding from 0 to {min(height, width) - 1} pixels, got {pad}")
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")  # (N, H+2p, W+2p, C)
    top, left = rng.integers(0, 2 * pad + 1, (2, n))  # (N,) each
    rows = top[:, None] + np.arange(height)  # (N, H)
    columns = left[:, None] + np.arange(width)  # (N, W)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]  # (N, H, W, C)


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip, then crop with a padding of an eighth of the shorter side: the usual for small images.

    At 32x32 that is He et al.'s padding of 4 pixels (Deep Residual Learning, 2015, section 4.2).

    >>> augment(np.zeros((2, 32, 32, 3), np.uint8), np.random.default_rng(0)).shape
    (2, 32, 32, 3)
    """
    return random_crop(random_flip(images, rng), rng, min(images.shape[1:3]) // 8)
