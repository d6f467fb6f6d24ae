"""A data set in memory, and the batches of one epoch as a pure function of (seed, epoch, step).

Nothing here keeps a hidden random state. The order of an epoch depends on (seed, epoch) alone and the
augmentation of a batch on (seed, epoch, step) alone, so a run that resumes in the middle of an epoch sees the
very batches it would have seen without the interruption.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import ArgumentError, DataError, DTypeError, LabelError, ShapeError
from .augment import augment as augmented


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled colour images held in memory.

    Attributes:
        images: uint8, shape (N, H, W, 3), red-green-blue, 0 .. 255.
        labels: int64, shape (N,), each in 0 .. len(class_names) - 1.
        class_names: one readable name for each class.

    Raises:
        DataError: there is not a single image, or no class.
        ShapeError: images are not (N, H, W, 3), or there are not as many labels as images.
        DTypeError: images are not uint8.
        LabelError: labels are not int64, or one lies outside of the classes.

    >>> Dataset(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]), ("cat", "dog")).num_classes
    2
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.shape[3] != 3:
            raise ShapeError(f"expected images of shape (N, H, W, 3), got {images.shape}")
        if images.dtype != np.uint8:
            raise DTypeError(f"expected images of dtype uint8, got {images.dtype}")
        if images.size == 0:
            raise DataError(f"expected at least one image with at least one pixel, got shape {images.shape}")
        if labels.shape != images.shape[:1]:
            raise ShapeError(f"expected one label per image, shape {images.shape[:1]}, got {labels.shape}")
        if labels.dtype != np.int64:
            raise LabelError(f"expected labels of dtype int64, got {labels.dtype}")
        if not self.class_names:
            raise DataError("expected at least one class name, got none")
        wrong = np.flatnonzero((labels < 0) | (labels >= self.num_classes))
        if wrong.size:
            first = wrong[0]
            raise LabelError(f"expected labels in 0 .. {self.num_classes - 1}, got {labels[first]} at image {first}")

    @property
    def num_classes(self) -> int:
        """The number of classes, whether or not each of them has an image."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> dict[str, str]:
        """A digest of all "images" and one of all "labels", their number and shape included.

        Time: about a second for a gigabyte.

        >>> pictures = Dataset(np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1]), ("cat", "dog"))
        >>> others = Dataset(pictures.images, pictures.labels[::-1], pictures.class_names)
        >>> [pictures.fingerprint()[part] == others.fingerprint()[part] for part in ("images", "labels")]
        [True, False]
        """
        return {"images": _digest(self.images), "labels": _digest(self.labels)}


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def preprocess(images: np.ndarray, dtype: type | np.dtype = np.float32) -> np.ndarray:
    """Pixels 0 .. 255 to the network's input x / 127.5 - 1, in -1 .. 1, as a new array.

    Args:
        images: shape (..., H, W, 3), of any integer or floating-point dtype, values in 0 .. 255.
        dtype: float32 or float64, the dtype of the result.

    Raises:
        ShapeError: the last axis is not the three colours.
        DTypeError: dtype is neither float32 nor float64.
        DataError: a value lies outside of 0 .. 255 or is not a number.

    >>> preprocess(np.array([[[0, 51, 255]]], np.uint8)).tolist()
    [[[-1.0, -0.6000000238418579, 1.0]]]
    """
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise DTypeError(f"expected float32 or float64, got {np.dtype(dtype)}")
    if images.ndim < 3 or images.shape[-1] != 3:
        raise ShapeError(f"expected images of shape (..., H, W, 3), got {images.shape}")
    if images.dtype != np.uint8 and images.size and not (images.min() >= 0 and images.max() <= 255):
        raise DataError(f"expected pixel values in 0 .. 255, got {images.min()} .. {images.max()}")
    x = images.astype(dtype)  # (..., H, W, 3)
    x /= 127.5
    x -= 1
    return x


def steps_per_epoch(num_images: int, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches an epoch has; ``drop_last`` leaves out a last batch that is not full.

    >>> steps_per_epoch(10, 4), steps_per_epoch(10, 4, drop_last=True)
    (3, 2)
    """
    return num_images // batch_size if drop_last else -(-num_images // batch_size)


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    augment: bool = False,
    drop_last: bool = False,
    start: int = 0,
    part: slice = slice(None),
    dtype: type | np.dtype = np.float32,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The batches of one epoch as (step, x, labels), from step ``start`` on.

    Args:
        dataset: the images and their labels.
        batch_size: images in a batch, from 1 to the size of the data set.
        seed, epoch: choose the order (with ``shuffle``) and, together with the step, the augmentation.
        shuffle: draw a new order for each epoch; otherwise the data set's own.
        augment: flip and crop at random, see :func:`minixception.data.augment.augment`.
        drop_last: leave out a last batch that is not full.
        start: the first step to yield, for a run resumed in the middle of an epoch.
        part: of each batch, for one of several processes that share it.
        dtype: float32 or float64, the dtype of x.

    Yields:
        The step, x of shape (batch, H, W, 3) in -1 .. 1, and labels of shape (batch,), int64, or this part of them.

    Raises:
        ArgumentError: at the call, before the first batch, for an argument outside of its range.

    >>> pictures = Dataset(np.zeros((5, 8, 8, 3), np.uint8), np.arange(5), tuple("abcde"))
    >>> [(step, x.shape, labels.tolist()) for step, x, labels in batches(pictures, 2, start=1)]
    [(1, (2, 8, 8, 3), [2, 3]), (2, (1, 8, 8, 3), [4])]
    """
    if not 1 <= batch_size <= len(dataset):
        raise ArgumentError(f"expected a batch size from 1 to {len(dataset)} (the data set's size), got {batch_size}")
    if seed < 0 or epoch < 0:
        raise ArgumentError(f"expected a seed and an epoch of at least 0, got seed {seed} and epoch {epoch}")
    steps = steps_per_epoch(len(dataset), batch_size, drop_last=drop_last)
    if not 0 <= start <= steps:
        raise ArgumentError(f"expected a start from 0 to {steps} (the steps of an epoch), got {start}")

    def generate() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        order = _generator(seed, epoch, 0).permutation(len(dataset)) if shuffle else np.arange(len(dataset))
        for step in range(start, steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]  # (batch,)
            if augment:
                images = augmented(dataset.images[chosen], _generator(seed, epoch, step + 1), part)
            else:
                images = dataset.images[chosen[part]]  # (batch, H, W, 3)
            yield step, preprocess(images, dtype), dataset.labels[chosen[part]]

    return generate()


def _generator(seed: int, epoch: int, stream: int) -> np.random.Generator:
    """Stream 0 orders the epoch and stream step + 1 augments a batch: no two of them are the same."""
    return np.random.Generator(np.random.PCG64([seed, epoch, stream]))
