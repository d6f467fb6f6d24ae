"""A folder of photographs as a data set: one folder for each class, named after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import ArgumentError, DataError
from ..imagenet.images import read_image, resize
from .dataset import Dataset

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_FRACTION = 0.2


def load_folder(path: Path, split: str = "train", *, image_size: int = 32, seed: int = 0) -> Dataset:
    """Read one split of a folder of class folders.

    With the folders train/ and test/ (or val/) inside of ``path``, these are the splits. Otherwise a fifth of
    each class, drawn by ``seed``, is the test split, and the rest the training split.

    Args:
        path: the folder.
        split: "train" or "test".
        image_size: height and width in pixels; images are resized to this square, whatever their own aspect
            ratio.
        seed: draws the test split; at least 0.

    Returns:
        The images in the order of their names, read as ``imagenet.read_image`` does, and the classes in the order of
        theirs.

    Raises:
        ArgumentError: an argument outside of its range.
        DataError: no such folder, no class folder, no image, or an image that cannot be read: named by its
            path.
    """
    if split not in ("train", "test"):
        raise ArgumentError(f"expected split 'train' or 'test', got {split!r}")
    if image_size < 1 or seed < 0:
        raise ArgumentError(f"expected image_size >= 1 and seed >= 0, got image_size {image_size}, seed {seed}")
    path = Path(path)
    if (path / "train").is_dir() and (test := next(filter(Path.is_dir, (path / "test", path / "val")), None)):
        names = class_names(path / "train")
        chosen = files_by_class(path / "train" if split == "train" else test, names)
    else:
        names = class_names(path)
        chosen = _draw(files_by_class(path, names), split, seed)
    pairs = [(label, file) for label, files in enumerate(chosen) for file in files]
    if not pairs:
        kinds = " ".join(SUFFIXES)
        raise DataError(f"expected images ({kinds}) in the class folders of {path} for split {split!r}, found none")
    size = image_size, image_size
    images = np.stack([resize(read_image(file, size), size) for _, file in pairs])  # (N, S, S, 3)
    return Dataset(images, np.array([label for label, _ in pairs], np.int64), names)


def class_names(path: Path) -> tuple[str, ...]:
    """The names of the folders in ``path``, sorted; DataError if there are none."""
    if not path.is_dir():
        raise DataError(f"expected a folder of class folders at {path}, found no such folder")
    names = tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and _is_visible(entry)))
    if not names:
        raise DataError(f"expected one folder for each class in {path}, found none")
    return names


def files_by_class(path: Path, names: tuple[str, ...]) -> list[list[Path]]:
    """The image files of each class, sorted by name; a class folder that is not in ``names`` is an error."""
    if unknown := set(class_names(path)) - set(names):
        raise DataError(f"expected the classes {', '.join(names)} in {path}, got also {', '.join(sorted(unknown))}")
    return [sorted(_images(path / name)) for name in names]


def _images(folder: Path) -> Iterator[Path]:
    return (file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES and _is_visible(file))


def _is_visible(entry: Path) -> bool:
    return not entry.name.startswith(".")


def _draw(classes: list[list[Path]], split: str, seed: int) -> list[list[Path]]:
    """The part of each class that belongs to the split; a class is drawn alike whatever the others hold."""
    chosen = []
    for files in classes:
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(files))
        num_test = round(TEST_FRACTION * len(files))
        chosen.append([files[i] for i in sorted(order[:num_test] if split == "test" else order[num_test:])])
    return chosen
