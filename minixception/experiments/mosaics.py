"""Pictures with several labels each, in the proportions of a large collection: few labels are common, most are rare.

A mosaic is four patches of 16x16 pixels, side by side. A patch is a drawn pattern of ``data.shapes`` in one of three
scales, and its label is both: 8 x 3 = 24 labels. The patches of a mosaic are drawn independently, label number r with a
probability in proportion to 1 / r, so that a mosaic has one to four labels, 3.4 in the mean, and the most common one
is on most of them and the rarest on every twentieth. Nothing says which patch a label belongs to.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..data import shapes
from ..errors import ArgumentError

SCALES = {"fine": 16, "medium": 24, "coarse": 32}  # pixels of the picture that a patch is the middle of
PATCH, PATCHES = 16, 4
SIZES = {"train": 8000, "test": 2000}


class Mosaics(NamedTuple):
    """images: uint8 (n, 32, 32, 3); targets: bool (n, labels), what each of them shows; names: of the labels."""

    images: np.ndarray
    targets: np.ndarray
    names: tuple[str, ...]


def mosaics(split: str = "train", size: int | None = None, seed: int = 0) -> Mosaics:
    """Draw ``size`` mosaics, by default 8000 for "train" and 2000 for "test": the same ones for the same arguments.

    Raises ArgumentError for another split or size.

    >>> drawn = mosaics("test", size=50)
    >>> drawn.images.shape, drawn.targets.shape, drawn.names[:3]
    ((50, 32, 32, 3), (50, 24), ('stripes RGB, fine', 'stripes RGB, medium', 'stripes RGB, coarse'))
    """
    if split not in SIZES:
        raise ArgumentError(f"expected split 'train' or 'test', got {split!r}")
    size = SIZES[split] if size is None else size
    if size < 1:
        raise ArgumentError(f"expected a size of at least 1, got {size}")
    pool = {scale: shapes(split, 2 * size, seed, pixels) for scale, pixels in SCALES.items()}
    patterns = next(iter(pool.values())).class_names
    names = tuple(f"{pattern}, {scale}" for pattern in patterns for scale in SCALES)
    rng = np.random.default_rng([seed, list(SIZES).index(split)])
    popularity = 1 / np.arange(1, len(names) + 1)
    labels = rng.choice(len(names), (size, PATCHES), p=popularity / popularity.sum())
    targets = np.zeros((size, len(names)), bool)
    np.put_along_axis(targets, labels, True, axis=1)
    patches = np.empty((size, PATCHES, PATCH, PATCH, 3), np.uint8)
    for label, name in enumerate(names):
        scale = name.rpartition(", ")[2]
        drawn, at = pool[scale], (SCALES[scale] - PATCH) // 2
        wanted = labels == label
        chosen = rng.choice(np.flatnonzero(drawn.labels == label // len(SCALES)), wanted.sum())
        patches[wanted] = drawn.images[chosen, at : at + PATCH, at : at + PATCH]
    grid = patches.reshape(size, 2, 2, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return Mosaics(np.ascontiguousarray(grid).reshape(size, 2 * PATCH, 2 * PATCH, 3), targets, names)
