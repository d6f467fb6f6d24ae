"""Image files as a person sees them, resized and cropped: every expectation is computed apart from Pillow."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minixception.errors import ArgumentError, DataError, DTypeError, ShapeError
from minixception.imagenet import center_crop, read_image, resize
from minixception.imagenet.images import MAX_PIXELS
from tests.helpers.processes import python

RNG = np.random.Generator(np.random.PCG64(4))
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
WIDE = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
INDEX = RNG.integers(0, 4, (5, 7), dtype=np.uint8)
PALETTE = np.array([[250, 10, 20], [30, 240, 50], [60, 70, 230], [0, 0, 0]], np.uint8)


def saved(image, format="PNG", **options):
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def from_bytes(mode, pixels):
    return Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())


def with_palette(mode="P"):
    image = from_bytes("P", INDEX)
    image.putpalette(PALETTE.tobytes())
    return image.convert(mode)


def three(gray):
    """Gray values as colours."""
    return np.repeat(np.asarray(gray)[..., None], 3, axis=-1)


def on_white(colour, alpha):
    share = np.asarray(alpha)[..., None] / 255
    return colour * share + 255 * (1 - share)


# Modes ----------------------------------------------------------------------------------------------------------------

CMYK = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
YCC = RNG.integers(80, 176, (5, 7, 3), dtype=np.uint8).astype(float)
YCC_AS_RGB = YCC[..., :1] + (YCC[..., 1:] - 128) @ np.array([[0, -0.344136, 1.772], [1.402, -0.714136, 0]])
LAB = np.array([[[255, 0, 0], [0, 0, 0], [137, 0, 0]]], np.uint8)  # L* 100, 0 and 53.7; a* and b* 0, in signed bytes
TRANSPARENT = np.array([255, 128, 0, 64], np.uint8)

MODES = {
    "RGB PNG": (saved(Image.fromarray(COLOUR)), COLOUR, 0),
    "RGB TIFF": (saved(Image.fromarray(COLOUR), "TIFF"), COLOUR, 0),
    "1": (saved(Image.fromarray(GRAY > 127)), three(np.where(GRAY > 127, 255, 0)), 0),
    "L": (saved(Image.fromarray(GRAY)), three(GRAY), 0),
    "P": (saved(with_palette()), PALETTE[INDEX], 0),
    "P, one colour transparent": (
        saved(with_palette(), transparency=2),
        np.where(INDEX[..., None] == 2, 255, PALETTE[INDEX]),
        0,
    ),
    "P, alpha in the palette": (
        saved(with_palette(), transparency=TRANSPARENT.tobytes()),
        on_white(PALETTE[INDEX], TRANSPARENT[INDEX]),
        1,
    ),
    "P, GIF": (
        saved(with_palette(), "GIF", transparency=2),
        np.where(INDEX[..., None] == 2, 255, PALETTE[INDEX]),
        0,
    ),
    "PA": (saved(with_palette("PA"), "TIFF"), PALETTE[INDEX], 0),
    "LA": (saved(from_bytes("LA", np.stack([GRAY, ALPHA], -1))), on_white(three(GRAY), ALPHA), 1),
    "RGBA": (saved(from_bytes("RGBA", np.dstack([COLOUR, ALPHA]))), on_white(COLOUR, ALPHA), 1),
    "L, one gray transparent": (
        saved(Image.fromarray(GRAY), transparency=int(GRAY[0, 0])),
        three(np.where(np.equal(GRAY, GRAY[0, 0]), 255, GRAY)),
        0,
    ),
    "RGB, one colour transparent": (
        saved(Image.fromarray(COLOUR), transparency=tuple(COLOUR[1, 1].tolist())),
        np.where(np.equal(COLOUR, COLOUR[1, 1]).all(axis=-1, keepdims=True), 255, COLOUR),
        0,
    ),
    "I;16 PNG": (saved(Image.fromarray(WIDE)), three(WIDE / 257), 0.5),
    "I;16 PNG, dark": (saved(Image.fromarray(WIDE // 300)), three(WIDE // 300 / 257), 0.5),
    "I;16 TIFF": (saved(Image.fromarray(WIDE), "TIFF"), three(WIDE / 257), 0.5),
    "I;16B TIFF": (saved(from_bytes("I;16B", WIDE.astype(">u2")), "TIFF"), three(WIDE / 257), 0.5),
    "16-bit PGM": (b"P5 7 5 65535\n" + WIDE.astype(">u2").tobytes(), three(WIDE / 257), 0.5),
    "16-bit PGM, dark": (b"P5 7 5 65535\n" + (WIDE // 300).astype(">u2").tobytes(), three(WIDE // 300 / 257), 0.5),
    "I, 8 bits": (saved(Image.fromarray(GRAY.astype(np.int32)), "TIFF"), three(GRAY), 0),
    "I, 16 bits": (saved(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), three(WIDE / 257), 0.5),
    "I, more": (
        saved(Image.fromarray(WIDE.astype(np.int32) * 1000 - 10_000_000), "TIFF"),
        three((WIDE - float(WIDE.min())) / (WIDE.max() - float(WIDE.min())) * 255),
        0.5,
    ),
    "F, up to 1": (saved(Image.fromarray((GRAY / 255).astype(np.float32)), "TIFF"), three(GRAY), 0),
    "F, up to 255": (saved(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), three(GRAY), 0),
    "F, below 0": (
        saved(Image.fromarray(GRAY.astype(np.float32) - 1000), "TIFF"),
        three((GRAY - float(GRAY.min())) / (GRAY.max() - float(GRAY.min())) * 255),
        0.5,
    ),
    "F, constant": (saved(Image.fromarray(np.full((5, 7), -2, np.float32)), "TIFF"), np.zeros((5, 7, 3)), 0),
    "CMYK": (
        saved(from_bytes("CMYK", CMYK), "TIFF"),
        (255.0 - CMYK[..., :3]) * (255.0 - CMYK[..., 3:]) / 255,
        1,
    ),
    "YCbCr": (saved(from_bytes("YCbCr", YCC.astype(np.uint8)), "TIFF"), YCC_AS_RGB, 1.5),
    "LAB": (saved(from_bytes("LAB", LAB), "TIFF"), np.array([[[255] * 3, [0] * 3, [128] * 3]]), 1),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_is_read_as_a_person_sees_it(name):
    file, expected, tolerance = MODES[name]
    image = read_image(file)
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    assert image.flags.writeable and image.flags.c_contiguous
    assert np.abs(image - expected.astype(float)).max() <= tolerance + 1e-6


def test_the_files_above_have_every_mode_that_files_have():
    modes = {Image.open(io.BytesIO(file)).mode for file, _, _ in MODES.values()}
    assert modes >= {"1", "L", "P", "PA", "LA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "I;16B", "F"}


def test_the_colours_of_lab():
    """CIE L*a*b* to XYZ to sRGB, both with the white D50 (CIE 15; Lindbloom's matrix)."""
    stored = RNG.integers([140, -15, -15], [200, 16, 16], (50, 3))  # muted colours: all of them are in sRGB
    pixels = stored.astype(np.uint8)[None]  # a TIFF file has signed a* and b*
    lab = stored / [2.55, 1, 1]
    y = (lab[:, 0] + 16) / 116
    xyz = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], -1) ** 3 * [0.96422, 1, 0.82521]
    from_xyz = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = xyz @ np.transpose(from_xyz)
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
    image = read_image(saved(from_bytes("LAB", pixels), "TIFF"))
    assert np.abs(image[0] - expected).max() <= 1.5


def test_a_cmyk_jpeg_has_its_colours():
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 1:3] = 255  # magenta and yellow: red
    assert np.abs(read_image(saved(from_bytes("CMYK", ink), "JPEG")) - [255.0, 0, 0]).max() <= 3


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(format):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    file = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(read_image(file), np.full((3, 4, 3), [255, 0, 0]))


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_turns_the_image_upright(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    expected = UPRIGHT[orientation](COLOUR)
    assert np.array_equal(read_image(saved(Image.fromarray(COLOUR), format, exif=exif, **options)), expected)
    if format != "WEBP":
        wide = read_image(saved(Image.fromarray(WIDE), format, exif=exif))
        assert np.array_equal(wide, UPRIGHT[orientation](three(np.rint(WIDE / 257))))


def test_a_jpeg_of_a_camera_held_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = np.zeros((32, 64, 3), np.uint8)
    lying[:, :32] = 255  # stored left, seen on top
    image = read_image(saved(Image.fromarray(lying), "JPEG", exif=exif))
    assert image.shape == (64, 32, 3)
    assert image[:24].min() > 250
    assert image[40:].max() < 5


def test_corrupt_exif_does_not_hide_a_whole_image():
    file = saved(Image.fromarray(COLOUR), exif=b"Exif\x00\x00MM\x00\x00\x00\x00\x00\x08\x00\x01")
    assert np.array_equal(read_image(file), COLOUR)


# Sources and errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODES)
def test_an_image_of_pillow_is_its_file_and_is_left_alone(name):
    file = MODES[name][0]
    with Image.open(io.BytesIO(file)) as image:
        assert np.array_equal(read_image(image), read_image(file))
        assert np.array_equal(read_image(image), read_image(file))  # nothing was consumed


def test_an_image_of_pillow_is_turned_upright_and_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(Image.fromarray(COLOUR), exif=exif)
    with Image.open(io.BytesIO(file)) as image:
        assert np.array_equal(read_image(image), UPRIGHT[6](COLOUR))
        assert image.size == COLOUR.shape[1::-1]
        assert image.getexif()[0x0112] == 6
    with Image.open(io.BytesIO(file[:-40])) as image, pytest.raises(DataError, match="expected a whole image"):
        read_image(image)


def test_an_image_comes_from_a_path_bytes_or_a_file(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(saved(Image.fromarray(COLOUR)))
    with path.open("rb") as file:
        for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file):
            assert np.array_equal(read_image(source), COLOUR)
        assert not file.closed


def claims(width, height):
    """A PNG file whose header claims this size; there are no pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


WHOLE = saved(Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)))
BAD_FILES = {
    "empty": (b"", "expected an image, got something else"),
    "text": (b"not an image", "expected an image, got something else"),
    "cut": (WHOLE[:-800], "truncated"),
    "cut jpeg": (saved(Image.fromarray(COLOUR), "JPEG")[:-20], "truncated"),
    "NaN": (saved(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "not all finite"),
    "over 64 megapixels": (claims(8001, 8000), f"at most {MAX_PIXELS:,} pixels"),
    "Pillow warns": (claims(10_000, 10_000), f"at most {MAX_PIXELS:,} pixels"),
    "Pillow refuses": (claims(60_000, 60_000), f"at most {MAX_PIXELS:,} pixels"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "something else"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_cannot_be_read_is_named(name, tmp_path):
    content, message = BAD_FILES[name]
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    for source, expected in ((path, str(path)), (content, "the bytes given"), (io.BytesIO(content), "the file given")):
        with pytest.raises(DataError) as caught:
            read_image(source)
        assert expected in str(caught.value)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_exactly_64_megapixels_are_not_too_many():
    with pytest.raises(DataError, match="expected a whole image"):  # it has no pixels, but its size is fine
        read_image(claims(8000, 8000))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"no image at .*photo\.png"):
        read_image(tmp_path / "photo.png")
    with pytest.raises(DataError, match="expected a whole image"):
        read_image(tmp_path)


def test_damaged_files_are_typed_errors_or_images():
    rng = np.random.Generator(np.random.PCG64(8))
    names = ("RGB PNG", "RGB TIFF", "P, GIF", "LAB", "F, up to 1", "16-bit PGM")
    errors = 0
    for file in [MODES[name][0] for name in names] + [saved(Image.fromarray(COLOUR), "JPEG")]:
        for _ in range(60):
            damaged = bytearray(file)
            for place in rng.integers(0, len(file), rng.integers(1, 5)):
                damaged[place] = rng.integers(256)
            try:
                image = read_image(bytes(damaged))
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            except DataError:
                errors += 1
    assert 100 < errors < 400


ONE_BAD_TIFF = """
from minixception.imagenet import read_image
try:
    read_image({content!r})
except OSError as error:
    print(error)
"""


def test_what_pillow_logs_is_not_shown():
    file = bytearray(saved(Image.fromarray(COLOUR), "TIFF"))
    entry = file.index(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel, a short, one of them
    file[entry + 8 : entry + 10] = struct.pack("<H", 9999)  # Pillow logs an error, and Python shows those by default
    done = python("-c", ONE_BAD_TIFF.format(content=bytes(file)))
    assert done.returncode == 0
    assert done.stdout.startswith("expected an image, got something else: the bytes given")
    assert done.stderr == ""


class Slow(io.BytesIO):
    """A file that says when it is being read, and waits."""

    def __init__(self, content):
        super().__init__(content)
        self.entered, self.leave = threading.Event(), threading.Event()

    def read(self, *size):
        self.entered.set()
        self.leave.wait(10)
        return super().read(*size)


def test_two_threads_do_not_mix_up_the_warning_filters():
    before = list(warnings.filters)
    files = [Slow(WHOLE), Slow(WHOLE)]
    threads = [threading.Thread(target=read_image, args=(file,)) for file in files]
    for thread, file in zip(threads, files, strict=True):
        thread.start()
        file.entered.wait(0.3)  # the second one must not get here before the first one is done
    for thread, file in zip(threads, files, strict=True):
        file.leave.set()
        thread.join()
    assert list(warnings.filters) == before


# Resizing -------------------------------------------------------------------------------------------------------------

KERNELS = {
    "bilinear": (1, lambda x: np.maximum(0, 1 - np.abs(x))),
    "lanczos": (3, lambda x: np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)),
}


def weights(rule, old, new):
    """(new, old): how much of each old pixel is in each new one; wider where the image shrinks."""
    if rule == "nearest":
        return np.eye(old)[((np.arange(new) + 0.5) * old / new).astype(int)]
    support, kernel = KERNELS[rule]
    scale = max(1, old / new)
    centers = (np.arange(new)[:, None] + 0.5) * old / new
    distance = np.arange(old) + 0.5 - centers
    matrix = np.where(np.abs(distance) < support * scale, kernel(distance / scale), 0)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rule", ["nearest", "bilinear", "lanczos"])
@pytest.mark.parametrize("size", [(5, 7), (3, 3), (9, 20), (4, 15)])
def test_resizing_is_the_weighted_sum_of_the_rule(rule, size):
    image = RNG.integers(60, 196, (11, 13, 3), dtype=np.uint8)
    rows, columns = weights(rule, 11, size[0]), weights(rule, 13, size[1])
    expected = np.clip(np.einsum("ih,jw,hwc->ijc", rows, columns, image), 0, 255)
    resized = resize(image, size, rule)
    assert resized.dtype == np.uint8
    assert np.abs(resized - expected).max() <= (0 if rule == "nearest" else 1.5)


def test_the_default_rule_is_bilinear_and_the_right_size_changes_nothing():
    image = RNG.integers(0, 256, (11, 13, 3), dtype=np.uint8)
    assert np.array_equal(resize(image, (6, 6)), resize(image, (6, 6), "bilinear"))
    for rule in ("nearest", "bilinear", "lanczos"):
        assert np.array_equal(resize(image, (11, 13), rule), image)
    assert np.array_equal(resize(image[::-1, ::2], (11, 7)), image[::-1, ::2])  # a view


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1))
def test_a_center_crop_is_in_the_middle_and_large_enough(height, width, fraction):
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)
    crop = center_crop(image, fraction)
    assert 0 <= crop.shape[0] - fraction * height < 2 + 1e-9
    assert 0 <= crop.shape[1] - fraction * width < 2 + 1e-9
    assert int(crop[0, 0, 0]) + int(crop[-1, 0, 0]) == height - 1
    assert int(crop[0, 0, 1]) + int(crop[0, -1, 1]) == width - 1


def test_the_papers_crop():
    assert center_crop(np.zeros((400, 320, 3), np.uint8), 0.875).shape == (350, 280, 3)
    assert np.array_equal(center_crop(COLOUR, 1), COLOUR)


@pytest.mark.parametrize("function", [lambda image: resize(image, (2, 2)), lambda image: center_crop(image, 0.5)])
def test_only_images_are_resized_and_cropped(function):
    for image in (GRAY, COLOUR[None], np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ShapeError, match=r"expected an image of shape \(h, w, 3\), got"):
            function(image)
    with pytest.raises(DTypeError, match="uint8, from 0 to 255, got float32"):
        function(COLOUR.astype(np.float32))


def test_wrong_arguments_of_resize_and_crop():
    with pytest.raises(ArgumentError, match="one of bilinear, nearest, lanczos, got 'cubic'"):
        resize(COLOUR, (2, 2), "cubic")
    with pytest.raises(ArgumentError, match="at least 1, got 0 and 2"):
        resize(COLOUR, (0, 2))
    for fraction in (0, -1, 1.01, float("nan")):
        with pytest.raises(ArgumentError, match="above 0 and up to 1"):
            center_crop(COLOUR, fraction)
