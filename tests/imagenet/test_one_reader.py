"""Whatever decodes a photo does it with one reader: the same formats, the same limits, and memory for one copy."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

import minixception as mx
from minixception.apps.commands import predict as predict_command
from minixception.apps.hub import Hub
from minixception.data.imagenet_folder import Crop
from minixception.errors import DataError
from minixception.imagenet import images, read_image, resize
from tests.helpers.processes import ROOT, python
from tests.imagenet.test_images import MODES, saved

ODD = ("RGB PNG", "P, alpha in the palette", "LA", "RGBA", "I;16 PNG", "I;16B TIFF", "I, more", "F, below 0", "CMYK")


def test_nobody_else_opens_image_files():
    texts = {
        path.relative_to(ROOT / "minixception").as_posix(): path.read_text("utf-8")
        for path in (ROOT / "minixception").rglob("*.py")
    }
    opening = {name for name, text in texts.items() if "Image.open(" in text}
    assert opening == {"imagenet/images.py", "viz/style.py"}  # style.py opens what it has just drawn


@pytest.mark.parametrize("name", ODD)
def test_a_training_image_is_the_photo_that_predict_sees(name, tmp_path):
    path = tmp_path / "a" / "photo.png"
    path.parent.mkdir()
    path.write_bytes(MODES[name][0])
    expected = resize(read_image(path), (4, 4))
    assert np.array_equal(mx.data.load_folder(tmp_path, image_size=4).images[0], expected)
    assert np.array_equal(Crop(4)([path])[0], mx.imagenet.preprocess(expected[None])[0])


def icon():
    """An icon of the claimed size 16 x 16 that holds a PNG of another size: Pillow decodes it before it says which."""
    png = saved(Image.new("L", (50, 40)))
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


NO_PHOTOS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "ICO": icon(),
    "SGI": saved(Image.new("RGB", (4, 4)), "SGI"),
}


@pytest.mark.parametrize("kind", NO_PHOTOS)
def test_formats_that_are_no_photos_are_refused_unread(kind, tmp_path):
    path = tmp_path / "a" / "photo.png"
    path.parent.mkdir()
    path.write_bytes(NO_PHOTOS[kind])
    model = mx.models.mini_xception(2, (8,), 0, 8)
    for read in (
        lambda: mx.data.load_folder(tmp_path),
        lambda: Crop(8)([path]),
        lambda: mx.imagenet.predict(model, [path]),
        lambda: Hub(model).predict(path),
    ):
        with pytest.raises(DataError, match=r"got something else: .*photo\.png \(what is read: .*JPEG"):
            read()


# Large images ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODES)
def test_an_image_read_a_few_rows_at_a_time_is_the_same(name, monkeypatch):
    whole = read_image(MODES[name][0])
    monkeypatch.setattr(images, "_SLAB", 2 * whole.shape[1])
    assert np.array_equal(read_image(MODES[name][0]), whole)


@pytest.mark.parametrize("row", [0, 3, 4])
def test_a_value_that_is_no_number_is_found_in_any_row(row, monkeypatch):
    gray = np.ones((5, 7), np.float32)
    gray[row, 2] = np.nan
    monkeypatch.setattr(images, "_SLAB", 14)
    with pytest.raises(DataError, match="not all finite"):
        read_image(saved(Image.fromarray(gray), "TIFF"))


def photo(**options):
    """A JPEG of 96 x 64 pixels, with colours that change slowly."""
    y, x = np.mgrid[:64, :96]
    colours = np.stack([2 * x, 3 * y, 255 - x - y], axis=-1).astype(np.uint8)
    return saved(Image.fromarray(colours), "JPEG", quality=95, **options)


@pytest.fixture
def few_are_exact(monkeypatch):
    """From 5,000 pixels on a JPEG may be decoded at half its size."""
    monkeypatch.setattr(images, "EXACT_PIXELS", 5000)


def test_from_which_size_on_is_what_the_documentation_says():
    assert images.EXACT_PIXELS == 32_000_000
    for text in (read_image.__doc__, (ROOT / "docs/conventions.md").read_text("utf-8")):
        assert "JPEG of more than 32 megapixels" in text


@pytest.mark.parametrize(("at_least", "halved"), [(None, False), ((32, 32), True), ((8, 20), True), ((8, 33), False)])
def test_a_large_jpeg_is_decoded_at_half_its_size(few_are_exact, at_least, halved):
    image = read_image(photo(), at_least)
    assert image.shape == ((32, 48, 3) if halved else (64, 96, 3))
    exact = resize(read_image(photo()), (8, 8)).astype(int)
    assert np.abs(resize(image, (8, 8)) - exact).max() <= 2


def test_a_large_jpeg_that_was_held_upright(few_are_exact):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole, half = read_image(photo(exif=exif)), read_image(photo(exif=exif), (8, 8))
    assert half.shape == (48, 32, 3)
    assert np.abs(resize(half, (9, 9)) - resize(whole, (9, 9)).astype(int)).max() <= 2


def test_smaller_ones_and_other_formats_are_exact(few_are_exact, monkeypatch):
    png = saved(Image.open(io.BytesIO(photo())))
    assert np.array_equal(read_image(png, (8, 8)), read_image(png))
    monkeypatch.setattr(images, "EXACT_PIXELS", 96 * 64)
    assert np.array_equal(read_image(photo(), (8, 8)), read_image(photo()))


@pytest.mark.slow
def test_who_needs_a_small_image_says_so(few_are_exact, tmp_path, monkeypatch):
    """All but the accuracy on ImageNet, which is compared with published figures."""
    path = tmp_path / "a" / "photo.jpg"
    path.parent.mkdir()
    path.write_bytes(photo())
    sizes = []
    original = Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda image, box: sizes.append(image.size) or original(image, box))
    model = mx.models.mini_xception(2, (8,), 0, 8, input_shape=(32, 32, 3))
    mx.data.load_folder(tmp_path, image_size=32)
    mx.imagenet.predict(model, [path])
    Hub(model).predict(path)
    options = type("Options", (), {"photos": [path], "resize": "bilinear", "figure": None})
    predict_command._read(options, (32, 32))
    assert sizes == 4 * [(48, 32)]
    Crop(32)([path])
    assert sizes[4:] == [(96, 64)]


PEAK = """
import re, sys
from pathlib import Path
from PIL import Image
from minixception.imagenet import read_image, resize
def most():
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) if status.exists() else 0
Image.init()
before = most()
resize(read_image(sys.argv[1], (299, 299)), (299, 299))
print((most() - before) >> 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "limit"), [("photo.jpg", 200), ("photo.png", 500)])  # MiB; it was 1100
def test_the_memory_of_64_megapixels(name, limit, tmp_path):
    """On Linux, which tells how much a process ever had: other systems count its parent's, or do not tell."""
    Image.new("RGB", (8000, 8000), (10, 200, 30)).save(tmp_path / name, compress_level=1)
    done = python("-c", PEAK, tmp_path / name)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < limit
