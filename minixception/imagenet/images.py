"""Image files as a person sees them: upright, in colour, on white where they are transparent."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np

from ..errors import ArgumentError, DataError, DTypeError, ShapeError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 64_000_000
RULES = ("bilinear", "nearest", "lanczos")

_DRAWINGS = ("EPS", "WMF", "EMF")  # no pixels: Pillow would have another program run them
logging.getLogger("PIL").addHandler(logging.NullHandler())  # its messages are in our errors; loggers still get them
_LOCK = threading.Lock()  # warning filters belong to the whole process: two threads would mix them up

# Reading --------------------------------------------------------------------------------------------------------------


def read_image(source: str | os.PathLike[str] | bytes | IO[bytes]) -> np.ndarray:
    """Read an image of any format that Pillow knows, as uint8 (h, w, 3), red-green-blue.

    source: a path, the bytes of a file, or a file opened in binary mode. The image is turned as its EXIF orientation
    says; of an animation it is the first frame; what is transparent shows white. Gray of 16 bits is scaled to 8; gray
    of 32 bits is scaled from 0..1 (floats only), 0..255 or 0..65535, the first that holds all values, or else from the
    smallest to the largest. Colour profiles are ignored. Raises DataError, naming the source, if the image is missing,
    truncated, unreadable or larger than 64 megapixels.

    >>> read_image(b"P6 1 1 255 " + bytes([0, 51, 255])).tolist()
    [[[0, 51, 255]]]
    """
    with _opened(source) as file:
        ranges = _gray_ranges(file)
        return _colour(_upright(file)) if ranges is None else _scaled_gray(np.asarray(_upright(file)), ranges)


@contextlib.contextmanager
def _opened(source: str | os.PathLike[str] | bytes | IO[bytes]) -> Iterator[ImageFile]:
    """Open an image for the block; whatever goes wrong there is a DataError, and no warning leaves it."""
    from PIL import Image, UnidentifiedImageError

    name = _name(source)
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
                if file.format in _DRAWINGS:
                    raise DataError(f"expected an image of pixels, got a drawing ({file.format}): {name}")
                if file.width * file.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield file
        except DataError:
            raise
        except FileNotFoundError:
            raise DataError(f"no image at {name}") from None
        except UnidentifiedImageError:
            raise DataError(f"expected an image, got something else: {name}") from None
        except Image.DecompressionBombError:
            raise DataError(f"expected an image of at most {MAX_PIXELS:,} pixels, got more: {name}") from None
        except Exception as error:  # a decoder raises whatever corrupt bytes make it stumble over
            raise DataError(f"expected a whole image, got {name}: {error}") from error


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return "the bytes given" if isinstance(source, bytes) else str(getattr(source, "name", "the file given"))


def _upright(file: ImageFile) -> Image:
    from PIL import ImageOps

    file.load()
    with contextlib.suppress(Exception):  # the pixels are whole: corrupt EXIF data only leaves them as they are stored
        return ImageOps.exif_transpose(file)
    return file


def _gray_ranges(image: ImageFile) -> tuple[int, ...] | None:
    """White's value in an image of more than 8 bits of gray, or the values it could have; None for any other image."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return (65535,)
    return {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode)


def _scaled_gray(values: np.ndarray, ranges: tuple[int, ...]) -> np.ndarray:
    """Gray values (h, w) from 0 to the first fitting end of ``ranges`` as uint8 (h, w, 3)."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("its values are not all finite")
    white = next((end for end in ranges if low >= 0 and high <= end), None)
    start, span = (0.0, white) if white is not None else (low, high - low)
    gray = np.rint((values.astype(np.float64) - start) * (255 / (span or 1)))  # (h, w)
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def _colour(image: Image) -> np.ndarray:
    """An image of 8 bits in any mode as uint8 (h, w, 3)."""
    from PIL import Image, ImageCms

    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    return np.array(image.convert("RGB"))  # a copy that can be written to


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
