"""The ImageNet validation images on disk, one folder for each synset; read batch by batch, for all would fill 50 GB.

DIR/n01440764/ILSVRC2012_val_00000293.JPEG        class 0, the first synset of the 1000
DIR/n01443537/ILSVRC2012_val_00000236.JPEG        class 1
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import imagenet
from ..errors import DataError
from .folder import SUFFIXES, class_names, files_by_class


@dataclass(frozen=True)
class Crop:
    """How a photo becomes the network's input: cut out the middle, resize, scale the values. One crop per photo.

    size: height and width in pixels. center_crop: the share of height and width that is kept; 0.875 is the single crop
    that the Inception networks are evaluated with. resize, preprocessing: see the functions of ``imagenet``.
    """

    size: int
    center_crop: float = 1.0
    resize: str = "bilinear"
    preprocessing: str = "tf"

    def __call__(self, paths: Sequence[Path]) -> np.ndarray:
        """Photos as the network's input (n, size, size, 3), float32; DataError names one that cannot be read."""
        square = self.size, self.size
        photos = (imagenet.center_crop(imagenet.read_image(path), self.center_crop) for path in paths)
        images = np.stack([imagenet.resize(photo, square, self.resize) for photo in photos])  # (n, size, size, 3)
        return imagenet.preprocess(images, self.preprocessing)


@dataclass(frozen=True)
class ImageNetFolder:
    """The images of a folder of synset folders and their classes, in an order mixed once and for all.

    Mixed, because sorted by class the accuracy over the first images would say nothing about the rest. Synsets may be
    missing: the others keep their class indices, the places in ``imagenet.CLASSES``.

    Attributes:
        files: paths relative to ``path``, with the synset's folder.
        labels: int64, shape (N,), each in 0 .. 999.

    Raises:
        DataError: no such folder, no synset folder, a folder that is none of the 1000 synsets, or no image.
    """

    path: Path
    files: tuple[str, ...] = field(init=False)
    labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        index = {wnid: i for i, (wnid, _) in enumerate(imagenet.CLASSES)}
        names = class_names(self.path)
        if unknown := [name for name in names if name not in index]:
            raise DataError(
                f"expected folders named after the 1000 synsets of ImageNet (n01440764) in {self.path}, "
                f"got {', '.join(map(repr, unknown[:5]))}"
            )
        per_class = zip(names, files_by_class(self.path, names), strict=True)
        found = [(f"{name}/{file.name}", index[name]) for name, files in per_class for file in files]
        if not found:
            raise DataError(f"expected images ({' '.join(SUFFIXES)}) in the synset folders of {self.path}, found none")
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(found))
        object.__setattr__(self, "files", tuple(found[i][0] for i in order))
        object.__setattr__(self, "labels", np.array([found[i][1] for i in order], np.int64))

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """A digest of the names: equal for equal files in equal synsets, wherever the folder lies."""
        return hashlib.sha256("\n".join(self.files).encode()).hexdigest()

    def batches(
        self, crop: Crop, batch_size: int, start: int = 0, every: int = 1
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(x, labels) from image ``start`` on: (n, size, size, 3) and (n,), with n of at most batch_size.

        every: 2 for each second batch, and so on, where others take those in between. Holds one batch at a time. Raises
        DataError for an image that cannot be read, named by its path.
        """
        for first in range(start, len(self), batch_size * every):
            chosen = slice(first, first + batch_size)
            yield crop([self.path / file for file in self.files[chosen]]), self.labels[chosen]
