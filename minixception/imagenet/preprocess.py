"""Pixels to a network's input, in the three ways that ImageNet networks were trained with."""

from __future__ import annotations

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError

# Mean and standard deviation of ImageNet's colours: red, green, blue.
_CAFFE_MEAN = np.array([123.68, 116.779, 103.939], np.float32)
_TORCH_MEAN, _TORCH_STD = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)

MODES = ("tf", "caffe", "torch")


def preprocess(images: np.ndarray, mode: str = "tf") -> np.ndarray:
    """Scale images (n, h, w, 3), red-green-blue from 0 to 255, for a network: float32 of the same shape, a new array.

        "tf"     x / 127.5 - 1                                       Xception, InceptionV3
        "caffe"  blue-green-red, each minus its mean, unscaled       VGG16, ResNet152
        "torch"  (x / 255 - mean) / standard deviation, by colour    NEXcepTion

    A network's ``preprocessing`` says which one it expects. Raises ShapeError; DTypeError unless the values are
    integers or floats; ArgumentError for another mode, values outside of 0 to 255, and floats that are scaled already
    (none above 1). Source: Keras 3 ``applications.imagenet_utils.preprocess_input``.

    >>> preprocess(np.array([[[[0, 51, 255]]]], np.uint8)).tolist()
    [[[[-1.0, -0.6000000238418579, 1.0]]]]
    """
    images = np.asarray(images)
    if mode not in MODES:
        raise ArgumentError(f"preprocess: mode must be one of {', '.join(MODES)}, got {mode!r}")
    _check_pixels(images)
    x = images.astype(np.float32)  # (n, h, w, 3)
    if mode == "tf":
        return x / 127.5 - 1
    if mode == "caffe":
        return np.ascontiguousarray((x - _CAFFE_MEAN)[..., ::-1])
    return (x / 255 - _TORCH_MEAN) / _TORCH_STD


def _check_pixels(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise ShapeError(f"preprocess: expected at least one image, shape (n, h, w, 3), got {images.shape}")
    if not np.issubdtype(images.dtype, np.integer) and not np.issubdtype(images.dtype, np.floating):
        raise DTypeError(f"preprocess: expected integers or floats, got {images.dtype}")
    low, high = images.min(), images.max()
    scaled = np.issubdtype(images.dtype, np.floating) and -1 <= low <= high <= 1 and (low < 0 or high > 0)
    if scaled or not 0 <= low <= high <= 255:  # NaN fails every comparison
        hint = ": they look scaled already" if scaled else ""
        raise ArgumentError(f"preprocess: expected pixel values from 0 to 255, got {low:g} to {high:g}{hint}")
