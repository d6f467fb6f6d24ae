"""What a network sees on photos."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, TYPE_CHECKING

import numpy as np

from ..compiler import compile
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..nn import Module
from ..ops import softmax
from .classes import CLASSES, Prediction, decode
from .images import read_image, resize
from .preprocess import preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

    Photo = str | os.PathLike[str] | bytes | IO[bytes] | Image | np.ndarray


def predict(
    model: Module,
    sources: Iterable[Photo],
    top: int = 5,
    rule: str = "bilinear",
    batch_size: int = 32,
    classes: Sequence[tuple[str, str]] | Sequence[str] | None = None,
) -> list[list[Prediction]]:
    """The ``top`` most likely classes of each photo, the likeliest first.

    sources: what ``read_image`` reads (paths, images of Pillow, and so on), or images as uint8 arrays (h, w, 3); an
    array (n, h, w, 3) is n of them. They are resized to the network's input by ``rule`` (see ``resize``), scaled as it
    was trained, and go through the compiled network ``batch_size`` at a time. classes: (wnid, name) of each class, or
    names alone; without them, the network's ``class_names``; a network of 1000 classes that has none is taken for one
    of ImageNet, and others name classes by their index. Raises ArgumentError for a network that lacks ``input_shape``
    or ``preprocessing`` and for no photos, DataError for one that cannot be read.

    >>> import minixception as mx
    >>> model = mx.models.mini_xception(2, (8,), 0, 8)
    >>> photo = np.zeros((20, 30, 3), np.uint8)
    >>> len(predict(model, [photo, photo], classes=("cat", "dog")))
    2
    """
    shares = probabilities(model, sources, rule, batch_size)  # (n, number of classes)
    classes = model.class_names if classes is None else classes
    if classes is None:
        count = shares.shape[1]
        classes = CLASSES if count == len(CLASSES) else [str(i) for i in range(count)]
    return decode(shares, top, classes)


def probabilities(model: Module, sources: Iterable[Photo], rule: str = "bilinear", batch_size: int = 32) -> np.ndarray:
    """What ``predict`` decodes: softmax of the network's logits, (n, number of classes), in the weights' dtype.

    >>> import minixception as mx
    >>> model = mx.models.mini_xception(2, (8,), 0, 8)
    >>> probabilities(model, np.zeros((4, 20, 30, 3), np.uint8)).shape
    (4, 2)
    """
    shape, mode = model.input_shape, model.preprocessing
    if shape is None or mode is None:
        raise ArgumentError(
            f"{type(model).__name__} does not say what its input is: set input_shape, (h, w, 3), and preprocessing, "
            "'tf', 'caffe' or 'torch'"
        )
    if not isinstance(sources, Iterable) or isinstance(sources, str | bytes):
        raise ArgumentError(f"expected a list of photos, got a single one, {sources!r:.80}")
    if batch_size < 1:
        raise ArgumentError(f"expected a batch size of at least 1, got {batch_size}")
    fast = compile(model)
    dtype = next(model.named_tensors())[1].dtype
    parts = []
    for images in _batches(sources, shape[:2], rule, batch_size):
        logits = fast(preprocess(images, mode).astype(dtype, copy=False))
        if logits.ndim != 2:
            raise ShapeError(f"expected a network with logits of shape (n, classes), it gave {logits.shape}")
        with no_grad():
            parts.append(softmax(Tensor(logits)).numpy())
    if not parts:
        raise ArgumentError("expected at least one photo, got none")
    return np.concatenate(parts)


def _batches(sources: Iterable[Photo], size: tuple[int, ...], rule: str, batch_size: int) -> Iterator[np.ndarray]:
    """The photos at the network's size, uint8 (n, h, w, 3), read when they are needed."""
    height, width = size
    images = (
        resize(source if isinstance(source, np.ndarray) else read_image(source, (height, width)), (height, width), rule)
        for source in sources
    )
    while batch := list(islice(images, batch_size)):
        yield np.stack(batch)
