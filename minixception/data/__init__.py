"""Data sets, their batches and their augmentation: see :func:`load` for where images can come from."""

from __future__ import annotations

from pathlib import Path

from ..download import cache_dir as cache_dir
from ..errors import ArgumentError
from .augment import augment as augment
from .cifar10 import download_cifar10 as download_cifar10
from .cifar10 import load_cifar10 as load_cifar10
from .dataset import Dataset as Dataset
from .dataset import batches as batches
from .dataset import preprocess as preprocess
from .dataset import steps_per_epoch as steps_per_epoch
from .folder import load_folder as load_folder
from .imagenet_folder import ImageNetFolder as ImageNetFolder
from .shapes import shapes as shapes

SOURCES = ("shapes", "cifar10", "cifar10:FOLDER", "folder:PATH")


def load(spec: str, split: str = "train", *, image_size: int = 32, seed: int = 0) -> Dataset:
    """Load one split of the data set that a short text names.

    Args:
        spec: "shapes" (drawn by the package), "cifar10" (in the cache folder, downloaded when it is not
            there),
            "cifar10:FOLDER" (a local copy, never downloaded) or "folder:PATH" (a folder of class folders).
        split: "train" or "test".
        image_size: height and width in pixels; CIFAR-10 has 32 and no other.
        seed: draws the images of "shapes" and the test split of "folder:PATH".

    Raises:
        ArgumentError: an unknown data set, split or image size.
        DataError: the data is missing or corrupt.

    >>> len(load("shapes", "test"))
    1000
    """
    kind, colon, place = spec.partition(":")
    if spec == "shapes":
        return shapes(split, seed=seed, image_size=image_size)
    if kind == "folder" and place:
        return load_folder(Path(place), split, image_size=image_size, seed=seed)
    if kind != "cifar10" or (colon and not place):
        raise ArgumentError(f"expected a data set out of {', '.join(SOURCES)}, got {spec!r}")
    if image_size != 32:
        raise ArgumentError(f"expected image_size 32 for CIFAR-10, got {image_size}")
    return load_cifar10(Path(place), split) if place else load_cifar10(None, split, download=True)
