"""The embedded data set: drawn patterns whose class takes space and colour together to tell.

A class is a pair (pattern, order of the colours):

- The pattern is a field of phases over the image: tilted stripes, chevrons (stripes folded at vertical
  lines), a checkerboard (stripes that jump by half a period at vertical lines), or rings. A phase grows
  downwards, in rings outwards.
- Each channel is the cosine of that phase, a quarter of a period apart from the next one: over one period the
  crests come as red, green, blue ("RGB") or as blue, green, red ("BGR").

The two orders are each other's mirror image in phase, and the phase of every image is drawn uniformly. So
*every* weighted sum of the channels has the same distribution in both orders: a gray picture, whatever its
weights, shows the pattern and not the order. All patterns are cosines of a phase, so single pixels have the
same colours in all eight classes: a histogram, or the image with its pixels shuffled, shows neither. A
mirror image from left to right keeps the class, so that the usual augmentation is allowed; one upside down
would not.

Tilt, wavelength, place, contrast, a colour cast, a gradient of light and noise vary from image to image.
"""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError
from .dataset import Dataset

PATTERNS = ("stripes", "chevrons", "checker", "rings")
ORDERS = ("RGB", "BGR")
DEFAULT_SIZE = {"train": 4000, "test": 1000}
_CHUNK = 1000  # images drawn at once: bounds the memory of the intermediates


def shapes(split: str = "train", size: int | None = None, seed: int = 0, image_size: int = 32) -> Dataset:
    """Draw the embedded data set: eight classes in equal shares, the same images for the same arguments.

    Args:
        split: "train" or "test", two independent draws.
        size: the number of images; None means 4000 for "train" and 1000 for "test".
        seed: at least 0.
        image_size: height and width in pixels, at least 16; the patterns grow with it.

    Raises:
        ArgumentError: an argument outside of its range.

    >>> data = shapes("test", size=16)
    >>> data.images.shape, data.class_names[:3]
    ((16, 32, 32, 3), ('stripes RGB', 'stripes BGR', 'chevrons RGB'))
    """
    if split not in DEFAULT_SIZE:
        raise ArgumentError(f"expected split 'train' or 'test', got {split!r}")
    size = DEFAULT_SIZE[split] if size is None else size
    if size < 1 or seed < 0 or image_size < 16:
        raise ArgumentError(
            f"expected size >= 1, seed >= 0 and image_size >= 16, got size {size}, seed {seed}, image_size {image_size}"
        )
    rng = np.random.Generator(np.random.PCG64([seed, list(DEFAULT_SIZE).index(split)]))
    class_names = tuple(f"{pattern} {order}" for pattern in PATTERNS for order in ORDERS)
    labels = rng.permutation(np.arange(size, dtype=np.int64) % len(class_names))  # (N,)
    chunks = [_draw(labels[i : i + _CHUNK], rng, image_size) for i in range(0, size, _CHUNK)]
    return Dataset(np.concatenate(chunks), labels, class_names)


def _draw(labels: np.ndarray, rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Images (N, S, S, 3), uint8, of the given classes (N,)."""
    n, channels = len(labels), np.arange(3)
    sign = np.where(labels % 2 == 0, -1, 1)[:, None]  # (N, 1)
    shift = rng.uniform(0, 2 * np.pi, (n, 1)) + sign * np.pi / 2 * channels  # (N, 3)
    phase = _phase(labels // 2, rng, image_size)[..., None]  # (N, S, S, 1)
    wave = np.cos(phase + shift.astype(np.float32)[:, None, None])  # (N, S, S, 3)

    def vary(low: float, high: float, size: int = 1) -> np.ndarray:
        return rng.uniform(low, high, (n, 1, 1, size)).astype(np.float32)

    y, x = (axis[None, :, :, None] for axis in _grid(image_size))  # (1, S, S, 1) each
    light = vary(-25, 25) * x + vary(-25, 25) * y  # (N, S, S, 1)
    image: np.ndarray = vary(98, 158, 3) + light + vary(14, 48) * vary(0.6, 1, 3) * wave  # (N, S, S, 3)
    image += vary(8, 30) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _phase(pattern: np.ndarray, rng: np.random.Generator, image_size: int) -> np.ndarray:
    """The phase in radians (N, S, S) of patterns (N,), in a frame whose image spans -1 .. 1."""

    def vary(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, (len(pattern), 1, 1)).astype(np.float32)

    rows, columns = _grid(image_size)  # (S, S) each
    y, x = rows - vary(-0.4, 0.4), columns - vary(-0.4, 0.4)  # (N, S, S) each
    folds = x / vary(0.5, 0.9)  # (N, S, S), one unit from vertical line to vertical line
    triangle = 2 * np.abs(folds - np.rint(folds))  # (N, S, S), 0 .. 1
    paths = (
        y + vary(-0.35, 0.35) * x,  # stripes
        y + vary(0.35, 0.6) * triangle,  # chevrons
        y,  # checker
        np.hypot(x, y),  # rings
    )
    path = np.choose(pattern[:, None, None], paths)  # (N, S, S)
    jump = np.where(pattern[:, None, None] == 2, np.pi * np.rint(folds), 0)  # (N, S, S)
    return (2 * np.pi / vary(0.38, 0.7) * path + jump).astype(np.float32)


def _grid(image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns as coordinates from -1 to 1, shape (S, S) each."""
    axis = np.linspace(-1, 1, image_size, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x
