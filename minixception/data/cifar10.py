"""CIFAR-10: 60,000 colour photographs of 32x32 pixels in ten classes, in their published binary layout.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009), and
https://www.cs.toronto.edu/~kriz/cifar.html. A file is a sequence of records of 3,073 bytes: one byte of
label, then 1,024 bytes of red, 1,024 of green and 1,024 of blue, each row by row.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from ..download import cache_dir, download
from ..errors import ArgumentError, DataError
from .dataset import Dataset

FOLDER = "cifar-10-batches-bin"
NAMES_FILE = "batches.meta.txt"
SPLITS = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_FILES = (NAMES_FILE, *SPLITS["train"], *SPLITS["test"])
_RECORD = 1 + 3 * 32 * 32


def load_cifar10(folder: Path | None = None, split: str = "train", *, download: bool = False) -> Dataset:
    """Read one split of CIFAR-10: 50,000 images for "train", 10,000 for "test".

    Args:
        folder: the folder cifar-10-batches-bin or the one that holds it; None means the package's cache
            folder.
        split: "train" or "test".
        download: fetch the data into ``folder`` (or the cache folder) when it is not there.

    Returns:
        images (N, 32, 32, 3), uint8, and labels (N,) in 0 .. 9.

    Raises:
        ArgumentError: an unknown split.
        DataError: a missing, truncated or corrupt file, or a failed download: says which file and what is
            wrong.
    """
    if split not in SPLITS:
        raise ArgumentError(f"expected split 'train' or 'test', got {split!r}")
    parent = cache_dir() if folder is None else Path(folder)
    place = _find(parent)
    if place is None and download:
        place = download_cifar10(parent)
    if place is None:
        raise DataError(
            f"expected CIFAR-10 ({NAMES_FILE} and *.bin files) in {parent} or {parent / FOLDER}, "
            f"found neither; get it from {URL} and unpack it there"
        )
    class_names = _read_names(place / NAMES_FILE)
    parts = [_read_records(place / name, len(class_names)) for name in SPLITS[split]]
    labels = np.concatenate([labels for labels, _ in parts])
    return Dataset(np.concatenate([images for _, images in parts]), labels, class_names)


def download_cifar10(folder: Path) -> Path:
    """Fetch the published archive (170 MB) and unpack it. Returns the new folder/cifar-10-batches-bin.

    Raises:
        DataError: the download failed (run it again to resume), or the archive lacks a file.
    """
    archive = download(URL, folder / URL.rpartition("/")[2], md5=MD5)
    place = folder / FOLDER
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _unpack(archive, Path(scratch))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(Path(scratch) / FOLDER, place)
    archive.unlink()
    return place


def _unpack(archive: Path, target: Path) -> None:
    """Unpack the expected files of the archive and nothing else."""
    try:
        with tarfile.open(archive) as tar:
            for name in _FILES:
                tar.extract(f"{FOLDER}/{name}", target, filter="data")
    except (KeyError, EOFError, tarfile.TarError) as error:
        raise DataError(f"expected the CIFAR-10 binary archive in {archive}: {error}") from error
    except OSError as error:  # such as a full disk
        raise DataError(f"could not unpack {archive} into {target.parent}: {error}") from error


def _find(folder: Path) -> Path | None:
    """The folder itself or its child, whichever holds any file of CIFAR-10: a missing one is then named."""
    for place in (folder, folder / FOLDER):
        if any((place / name).is_file() for name in _FILES):
            return place
    return None


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected the ten class names of CIFAR-10 in {path}: {error}") from error
    if len(names) != 10:
        raise DataError(f"expected ten class names in {path}, got {len(names)}")
    return names


def _read_records(path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels (N,) and images (N, 32, 32, 3) of one file."""
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"expected a CIFAR-10 batch in {path}: {error}") from error
    if raw.size == 0 or raw.size % _RECORD:
        raise DataError(f"expected a whole number of records of {_RECORD:,} bytes in {path}, got {raw.size:,} bytes")
    records = raw.reshape(-1, _RECORD)  # (N, 3073)
    labels = records[:, 0].astype(np.int64)  # (N,)
    wrong = np.flatnonzero(labels >= num_classes)
    if wrong.size:
        first = wrong[0]
        raise DataError(f"expected labels 0 .. {num_classes - 1} in {path}, got {labels[first]} in record {first}")
    planes = records[:, 1:].reshape(-1, 3, 32, 32)  # (N, C, H, W)
    return labels, np.ascontiguousarray(planes.transpose(0, 2, 3, 1))  # (N, H, W, C)
