"""Data sets, batches, augmentation, and what each loader says about bad input."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minixception import data
from minixception.data.augment import augment, random_crop, random_flip
from minixception.data.cifar10 import _unpack
from minixception.errors import ArgumentError, DataError, DTypeError, LabelError, ShapeError


def pictures(n: int, size: int = 8) -> data.Dataset:
    """n images whose first pixel is their number."""
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    return data.Dataset(images, np.arange(n) % 3, ("a", "b", "c"))


# Dataset and preprocess


@pytest.mark.parametrize(
    ("images", "labels", "names", "error", "words"),
    [
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64), ("a",), ShapeError, r"\(2, 8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros(2, np.int64), ("a",), ShapeError, r"\(2, 3, 8, 8\)"),
        (np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, np.int64), ("a",), DTypeError, "float32"),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64), ("a",), DataError, "at least one image"),
        (np.zeros((2, 0, 8, 3), np.uint8), np.zeros(2, np.int64), ("a",), DataError, "one pixel"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3, np.int64), ("a",), ShapeError, r"\(3,\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.float64), ("a",), LabelError, "float64"),
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            np.array([0, 2]),
            ("a", "b"),
            LabelError,
            "0 .. 1, got 2 at image 1",
        ),
        (np.zeros((2, 8, 8, 3), np.uint8), np.array([-1, 0]), ("a", "b"), LabelError, "got -1 at image 0"),
        (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64), (), DataError, "class name"),
    ],
)
def test_dataset_rejects(images, labels, names, error, words):
    with pytest.raises(error, match=words):
        data.Dataset(images, labels, names)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_preprocess_is_the_keras_formula(dtype):
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    x = data.preprocess(image, dtype)
    assert x.dtype == dtype
    np.testing.assert_allclose(x, image / 127.5 - 1, rtol=0, atol=np.finfo(dtype).eps)


def test_preprocess_leaves_a_float_input_alone():
    image = np.full((1, 1, 3), 51.0, np.float32)
    assert data.preprocess(image)[0, 0, 0] == pytest.approx(-0.6)
    assert image[0, 0, 0] == 51


@pytest.mark.parametrize("value", [-1.0, 255.5, np.nan])
def test_preprocess_rejects_values(value):
    with pytest.raises(DataError, match=r"0 \.\. 255"):
        data.preprocess(np.full((1, 2, 2, 3), value))


def test_preprocess_rejects_shapes_and_dtypes():
    with pytest.raises(ShapeError, match=r"\(3, 8, 8\)"):
        data.preprocess(np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(DTypeError, match="float16"):
        data.preprocess(np.zeros((8, 8, 3), np.uint8), np.float16)


# Batches


def collect(*args, **options):
    return [(step, x.copy(), labels.copy()) for step, x, labels in data.batches(*args, **options)]


@given(
    n=st.integers(1, 20),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
    shuffle=st.booleans(),
    augment=st.booleans(),
    drop_last=st.booleans(),
    draw=st.data(),
)
def test_a_resumed_epoch_sees_the_same_batches(n, batch_size, draw, drop_last, **options):
    batch_size = min(n, batch_size)
    everything = collect(pictures(n), batch_size, drop_last=drop_last, **options)
    assert len(everything) == data.steps_per_epoch(n, batch_size, drop_last=drop_last)
    start = draw.draw(st.integers(0, len(everything)))
    rest = collect(pictures(n), batch_size, drop_last=drop_last, start=start, **options)
    assert [step for step, _, _ in rest] == list(range(start, len(everything)))
    for (_, x, labels), (_, x_again, labels_again) in zip(everything[start:], rest, strict=True):
        assert np.array_equal(x, x_again) and np.array_equal(labels, labels_again)


@given(n=st.integers(1, 30), batch_size=st.integers(1, 30), drop_last=st.booleans())
def test_an_epoch_holds_every_image_once_with_its_own_label(n, batch_size, drop_last):
    batch_size = min(n, batch_size)
    dataset = pictures(n)
    seen = []
    for _, x, labels in data.batches(dataset, batch_size, seed=1, shuffle=True, drop_last=drop_last):
        numbers = np.rint((x[:, 0, 0, 0] + 1) * 127.5).astype(int)
        assert np.array_equal(labels, dataset.labels[numbers])
        assert len(labels) == batch_size or not drop_last
        seen += numbers.tolist()
    assert len(set(seen)) == len(seen) == (n // batch_size * batch_size if drop_last else n)


def test_without_shuffle_and_augment_the_images_come_as_they_are():
    dataset = pictures(5)
    x = np.concatenate([x for _, x, _ in data.batches(dataset, 2, dtype=np.float64)])
    assert np.array_equal(x, dataset.images / 127.5 - 1)


def test_order_and_augmentation_depend_on_seed_and_epoch():
    def first(**options):
        return next(data.batches(pictures(64, 32), 64, **options))[1]

    for kind in ({"shuffle": True}, {"augment": True}):
        here = first(seed=1, epoch=1, **kind)
        assert not np.array_equal(here, first(seed=2, epoch=1, **kind))
        assert not np.array_equal(here, first(seed=1, epoch=2, **kind))


def test_each_batch_has_its_own_augmentation():
    same = data.Dataset(np.repeat(pictures(1, 32).images, 32, axis=0), np.zeros(32, np.int64), ("a",))
    (_, x0, _), (_, x1, _) = data.batches(same, 16, augment=True)
    assert not np.array_equal(x0, x1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "batch size from 1 to 5"),
        ({"batch_size": 6}, "got 6"),
        ({"batch_size": 2, "start": 4}, "start from 0 to 3"),
        ({"batch_size": 2, "start": -1}, "got -1"),
        ({"batch_size": 2, "seed": -1}, "seed -1"),
        ({"batch_size": 2, "epoch": -1}, "epoch -1"),
    ],
)
def test_batches_rejects_at_the_call(options, words):
    with pytest.raises(ArgumentError, match=words):
        data.batches(pictures(5), **options)


# Augmentation


def test_flip_mirrors_about_half_of_the_images():
    images = pictures(200).images
    flipped = random_flip(images, np.random.default_rng(0))
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(flipped, images, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(flipped, images, strict=True)]
    assert np.logical_xor(mirrored, kept).all()
    assert 70 < sum(mirrored) < 130


def test_crop_cuts_windows_of_the_reflected_image():
    images, pad = pictures(100).images, 2
    cropped = random_crop(images, np.random.default_rng(0), pad)
    places = []
    for image, result in zip(images, cropped, strict=True):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
        windows = {(i, j): padded[i : i + 8, j : j + 8] for i in range(5) for j in range(5)}
        places += [place for place, window in windows.items() if np.array_equal(window, result)]
    assert len(places) == 100
    assert len(set(places)) == 25


def test_augment_keeps_shape_dtype_and_input():
    images = pictures(9, 16).images
    before = images.copy()
    result = augment(images, np.random.default_rng(0))
    assert (result.shape, result.dtype) == (images.shape, np.uint8)
    assert np.array_equal(images, before)


def test_crop_rejects_a_padding_as_large_as_the_image():
    with pytest.raises(ArgumentError, match="from 0 to 7"):
        random_crop(pictures(1).images, np.random.default_rng(0), 8)


# CIFAR-10


def write_cifar10(folder: Path, n: int = 4) -> np.ndarray:
    """A small data set in the published layout; returns the records of the test batch."""
    folder.mkdir(parents=True)
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
        records[:, 0] = rng.integers(0, 10, n)
        records.tofile(folder / f"{name}.bin")
    return records


def test_cifar10_reads_the_planes(tmp_path):
    records = write_cifar10(tmp_path / "cifar-10-batches-bin")
    for folder in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        test = data.load_cifar10(folder, "test")
        assert test.class_names == tuple("abcdefghij")
        assert np.array_equal(test.labels, records[:, 0])
        for row, column, channel in [(0, 0, 0), (3, 7, 1), (31, 30, 2)]:
            at = 1 + 1024 * channel + 32 * row + column
            assert np.array_equal(test.images[:, row, column, channel], records[:, at])
    assert len(data.load_cifar10(tmp_path, "train")) == 20
    assert len(data.load(f"cifar10:{tmp_path}", "train")) == 20


def test_cifar10_names_a_missing_folder_and_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"found neither; get it from https://") as error:
        data.load_cifar10(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def plant(path: Path, contents: bytes | None) -> None:
    path.unlink()
    if contents is not None:
        path.write_bytes(contents)


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("data_batch_3.bin", None, r"data_batch_3\.bin"),
        (
            "data_batch_3.bin",
            bytes(3073 * 2 - 1),
            r"records of 3,073 bytes in .*data_batch_3\.bin, got 6,145 bytes",
        ),
        ("data_batch_3.bin", b"", "got 0 bytes"),
        ("data_batch_5.bin", bytes(3073) + b"\x0a" + bytes(3072), r"labels 0 \.\. 9 in .*got 10 in record 1"),
        ("batches.meta.txt", None, r"batches\.meta\.txt"),
        ("batches.meta.txt", b"one\ntwo\n", "ten class names in .*got 2"),
        ("batches.meta.txt", b"\xff\xfe", "ten class names"),
    ],
)
def test_cifar10_names_the_bad_file(tmp_path, name, contents, words):
    write_cifar10(tmp_path / "c")
    plant(tmp_path / "c" / name, contents)
    with pytest.raises(DataError, match=words):
        data.load_cifar10(tmp_path / "c", "train")


def test_cifar10_names_what_it_has_no_room_to_unpack(tmp_path, monkeypatch):
    def extract(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as the system does: without a name

    archive = tmp_path / "cifar.tar.gz"
    with tarfile.open(archive, "w:gz"):
        pass
    monkeypatch.setattr(tarfile.TarFile, "extract", extract)
    with pytest.raises(DataError, match=r"could not unpack .*cifar\.tar\.gz into .*: \[Errno 28\] No space left"):
        _unpack(archive, tmp_path / "scratch")


def test_cifar10_rejects_a_split_and_an_image_size(tmp_path):
    with pytest.raises(ArgumentError, match="'valid'"):
        data.load_cifar10(tmp_path, "valid")
    with pytest.raises(ArgumentError, match="image_size 32"):
        data.load(f"cifar10:{tmp_path}", image_size=64)


# A folder of class folders


def write_image(path: Path, colour: tuple[int, ...], size=(12, 10), mode="RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)


def write_folder(path: Path, n: int = 10) -> None:
    for i in range(n):
        write_image(path / "red" / f"{i:02}.png", (200, i, 0))
        write_image(path / "blue" / f"{i:02}.png", (0, i, 200))


def test_folder_splits_each_class_by_seed(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    train, test = (data.load(f"folder:{tmp_path}", split, image_size=8, seed=3) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("blue", "red")
    assert train.images.shape == (16, 8, 8, 3) and test.images.shape == (4, 8, 8, 3)
    assert np.bincount(train.labels).tolist() == [8, 8]
    for label, channel in ((0, 2), (1, 0)):
        numbers = [d.images[d.labels == label][:, 0, 0, 1].tolist() for d in (train, test)]
        assert sorted(numbers[0] + numbers[1]) == list(range(10))
        assert (train.images[train.labels == label][..., channel] == 200).all()
    other = data.load_folder(tmp_path, "test", image_size=8, seed=4)
    assert not np.array_equal(other.images, test.images)
    again = data.load_folder(tmp_path, "test", image_size=8, seed=3)
    assert np.array_equal(again.images, test.images)


@pytest.mark.parametrize("name", ["test", "val"])
def test_folder_takes_split_folders(tmp_path, name):
    write_folder(tmp_path / "train", 3)
    write_image(tmp_path / name / "red" / "0.jpg", (255, 0, 0))
    assert len(data.load_folder(tmp_path, "train")) == 6
    test = data.load_folder(tmp_path, "test")
    assert test.class_names == ("blue", "red") and test.labels.tolist() == [1]


def test_folder_turns_images_upright_and_makes_them_rgb(tmp_path):
    image = Image.new("RGB", (20, 10), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 10, 10))  # stored: left half blue
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: then the top half is blue
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.png", exif=exif)
    write_image(tmp_path / "a" / "1.png", (77,), mode="L")
    write_image(tmp_path / "a" / "2.png", (10, 20, 30, 255), mode="RGBA")
    Image.new("RGB", (4, 4), (1, 2, 3)).quantize(2).save(tmp_path / "a" / "3.png")
    pixels = data.load_folder(tmp_path, "train", image_size=10).images
    assert pixels.shape == (3, 10, 10, 3)  # one of the four is the test split
    everything = np.concatenate([pixels, data.load_folder(tmp_path, "test", image_size=10).images])
    corners = {tuple(map(tuple, image[[0, 9], 0].tolist())) for image in everything}
    assert corners == {
        ((0, 0, 255), (255, 0, 0)),
        ((77, 77, 77), (77, 77, 77)),
        ((10, 20, 30), (10, 20, 30)),
        ((1, 2, 3), (1, 2, 3)),
    }


def test_folder_names_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        data.load_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="one folder for each class"):
        data.load_folder(tmp_path)
    (tmp_path / "red").mkdir()
    with pytest.raises(DataError, match=r"expected images \(.*\.png.*found none"):
        data.load_folder(tmp_path)
    write_image(tmp_path / "red" / "0.png", (1, 2, 3))
    with pytest.raises(DataError, match="split 'test', found none"):
        data.load_folder(tmp_path, "test")
    with pytest.raises(ArgumentError, match="image_size 0"):
        data.load_folder(tmp_path, image_size=0)
    with pytest.raises(ArgumentError, match="'valid'"):
        data.load_folder(tmp_path, "valid")


def test_folder_rejects_a_class_that_has_no_training_images(tmp_path):
    write_folder(tmp_path / "train", 1)
    write_image(tmp_path / "test" / "green" / "0.png", (0, 255, 0))
    with pytest.raises(DataError, match="got also green"):
        data.load_folder(tmp_path, "test")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
@pytest.mark.parametrize("keep", [0, 20, 0.6])
def test_folder_names_a_corrupt_image(tmp_path, suffix, keep):
    path = tmp_path / "a" / f"broken.{suffix}"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    contents = path.read_bytes()
    path.write_bytes(contents[: keep if isinstance(keep, int) else int(keep * len(contents))])
    with pytest.raises(DataError, match=rf"expected an? (whole )?image, got .*broken\.{suffix}"):
        data.load_folder(tmp_path)


# load and import


@pytest.mark.parametrize("spec", ["", "mnist", "cifar10:", "folder", "folder:", "shapes:3", "cifar100"])
def test_load_lists_what_exists(spec):
    with pytest.raises(ArgumentError, match=r"shapes, cifar10, cifar10:FOLDER, folder:PATH, got"):
        data.load(spec)


def test_import_leaves_slow_packages_alone():
    code = "import sys, minixception.data; print({'PIL', 'tqdm', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
