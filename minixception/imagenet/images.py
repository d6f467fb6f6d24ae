"""Image files as a person sees them: upright, in colour, on white where they are transparent."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

import numpy as np

from ..errors import ArgumentError, DataError, DTypeError, ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 64_000_000
EXACT_PIXELS = 32_000_000  # more than the cameras of most phones and any of ImageNet's validation images have
# The formats of photos. Some of the others run programs (EPS), or decode before their size can be checked (ICO).
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
RULES = ("bilinear", "nearest", "lanczos")

_SLAB = 1 << 20  # pixels that are converted at a time: no second copy of a large image
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its messages are in our errors; loggers still get them
_LOCK = threading.Lock()  # warning filters belong to the whole process: two threads would mix them up

# Reading --------------------------------------------------------------------------------------------------------------


def read_image(
    source: str | os.PathLike[str] | bytes | IO[bytes] | Image, at_least: tuple[int, int] | None = None
) -> np.ndarray:
    """Read a photo (AVIF if Pillow has it, BMP, GIF, JPEG, PNG, PPM, TIFF, WebP), as uint8 (h, w, 3), red-green-blue.

    source: a path, the bytes of a file, a file opened in binary mode, or an image of Pillow, which is left as it is.
    The image is turned as its EXIF orientation says; of an animation it is the first frame; what is transparent shows
    white. Gray of 16 bits is scaled to 8; gray of 32 bits is scaled from 0..1 (floats only), 0..255 or 0..65535, the
    first that holds all values, or else from the smallest to the largest. Colour profiles are ignored.

    at_least: the size (h, w) that it will be resized to. A JPEG of more than 32 megapixels is then decoded at half its
    height and width, in a quarter of the memory, unless that would be smaller than ``at_least``; resized, its values
    differ a little from those of the whole image. All others, and all without ``at_least``, are read exactly.

    Raises DataError, naming the source, if the image is missing, truncated, unreadable, of another format or larger
    than 64 megapixels. Memory: 8 bytes per pixel at most, besides what the decoder of the format needs.

    >>> read_image(b"P6 1 1 255 " + bytes([0, 51, 255])).tolist()
    [[[0, 51, 255]]]
    """
    with opened(source) as file:
        half = file.width // 2, file.height // 2
        if at_least and file.width * file.height > EXACT_PIXELS and min(half) >= max(at_least):
            file.draft(None, half)  # does nothing but for JPEG, whose blocks of 8 x 8 can be decoded to 4 x 4 pixels
        ranges = _gray_ranges(file)
        _turn_upright(file)
        return _colour(file) if ranges is None else _scaled_gray(file, ranges)


@contextlib.contextmanager
def opened(
    source: str | os.PathLike[str] | bytes | IO[bytes] | Image, formats: Sequence[str] = FORMATS
) -> Iterator[Image]:
    """Open an image for the block; whatever goes wrong there is a DataError, and no warning leaves it.

    Nothing but its header has been read then: its format is one of ``formats``, and it is not too large. An image of
    Pillow is copied, whatever its format.
    """
    from PIL import Image, UnidentifiedImageError

    name = _name(source)
    Image.init()
    known = [name for name in formats if name in Image.OPEN]  # AVIF is there from Pillow 11.3 on
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with _image(source, known) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield file
        except FileNotFoundError:
            raise DataError(f"no image at {name}") from None
        except UnidentifiedImageError:
            kinds = ", ".join(known)
            raise DataError(f"expected an image, got something else: {name} (what is read: {kinds})") from None
        except Image.DecompressionBombError:
            raise DataError(f"expected an image of at most {MAX_PIXELS:,} pixels, got more: {name}") from None
        except Exception as error:  # a decoder raises whatever corrupt bytes make it stumble over
            raise DataError(f"expected a whole image, got {name}: {error}") from error


def _image(source: str | os.PathLike[str] | bytes | IO[bytes] | Image, formats: list[str]) -> Image:
    from PIL import Image

    if isinstance(source, Image.Image):
        copy = source.copy()
        copy.format = source.format  # which copy() forgets, and which says what its gray means
        return copy
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "the bytes given" if isinstance(source, bytes) else str(getattr(source, "name", "the file given"))


def _turn_upright(file: Image) -> None:
    from PIL import ImageOps

    file.load()
    with contextlib.suppress(Exception):  # the pixels are whole: corrupt EXIF data only leaves them as they are stored
        ImageOps.exif_transpose(file, in_place=True)


def _gray_ranges(image: Image) -> tuple[int, ...] | None:
    """White's value in an image of more than 8 bits of gray, or the values it could have; None for any other image."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return (65535,)
    return {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode)


def _scaled_gray(image: Image, ranges: tuple[int, ...]) -> np.ndarray:
    """Gray values from 0 to the first fitting end of ``ranges`` as uint8 (h, w, 3)."""
    ends = [(values.min(), values.max()) for _, slab in _slabs(image) for values in [np.asarray(slab)]]
    low, high = float(np.min(ends)), float(np.max(ends))  # NaN if there is one, unlike Python's min
    if not np.isfinite([low, high]).all():
        raise ValueError("its values are not all finite")
    white = next((end for end in ranges if low >= 0 and high <= end), None)
    start, span = (0.0, white) if white is not None else (low, high - low)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows, slab in _slabs(image):
        gray = np.rint((np.asarray(slab, np.float64) - start) * (255 / (span or 1)))  # (rows, w)
        pixels[rows] = gray[..., None]
    return pixels


def _colour(image: Image) -> np.ndarray:
    """An image of 8 bits in any mode as uint8 (h, w, 3)."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for rows, slab in _slabs(image):
        pixels[rows] = np.asarray(_rgb(slab))
    return pixels


def _rgb(image: Image) -> Image:
    from PIL import Image, ImageCms

    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    return image.convert("RGB")


def _slabs(image: Image) -> Iterator[tuple[slice, Image]]:
    """The image in parts of whole rows, with the rows of each."""
    step = max(1, _SLAB // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


# Resizing -------------------------------------------------------------------------------------------------------------


def resize(image: np.ndarray, size: tuple[int, int], rule: str = "bilinear") -> np.ndarray:
    """Resize an image, uint8 (h, w, 3), to ``size`` = (h, w); the aspect ratio is not kept and nothing is cut off.

    "bilinear" and "lanczos" weigh all pixels that fall into one of the result; "nearest" picks one of them. The default
    is "bilinear", because a network should see all of a large photo. "nearest" and "bilinear" give what Keras'
    ``load_img`` gives with that interpolation ("nearest" is its default), "lanczos" is ModelHub's rule. Raises
    ShapeError, DTypeError, and ArgumentError for another rule or a size below 1.

    >>> resize(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8), (1, 4), "nearest")[0, :, 0].tolist()
    [0, 0, 255, 255]
    """
    from PIL import Image

    _check_image("resize", image)
    if rule not in RULES:
        raise ArgumentError(f"resize: the rule must be one of {', '.join(RULES)}, got {rule!r}")
    height, width = size
    if height < 1 or width < 1:
        raise ArgumentError(f"resize: height and width must be at least 1, got {height} and {width}")
    resampling = Image.Resampling[rule.upper()]
    return np.array(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), resampling))


def center_crop(image: np.ndarray, fraction: float) -> np.ndarray:
    """The central part of an image, uint8 (h, w, 3): ``fraction`` of its height and of its width, at least that much.

    With 0.875 before resizing it is the single crop that Inception networks and Xception are evaluated with. As much is
    cut off on the left as on the right. Returns a view. Raises ShapeError, DTypeError, and ArgumentError unless
    0 < fraction <= 1. Source: TensorFlow ``tf.image.central_crop``.

    >>> center_crop(np.zeros((300, 400, 3), np.uint8), 0.875).shape
    (264, 350, 3)
    """
    _check_image("center_crop", image)
    if not 0 < fraction <= 1:
        raise ArgumentError(f"center_crop: expected a fraction above 0 and up to 1, got {fraction}")
    height, width = image.shape[:2]
    top, left = int(height * (1 - fraction) / 2), int(width * (1 - fraction) / 2)
    return image[top : height - top, left : width - left]


def _check_image(what: str, image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ShapeError(f"{what}: expected an image of shape (h, w, 3), got {image.shape}")
    if image.dtype != np.uint8:
        raise DTypeError(f"{what}: expected an image of dtype uint8, from 0 to 255, got {image.dtype}")
