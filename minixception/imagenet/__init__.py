"""Photos in, class names out: reading, resizing and scaling images as ImageNet networks expect them.

    read_image   a file, as a person sees it        -> uint8 (h, w, 3)
    center_crop  its central part
    resize       squeezed to the network's size     -> uint8 (h, w, 3)
    preprocess   scaled as the network was trained  -> float32 (n, h, w, 3)
    decode       probabilities                      -> names

``predict`` does all of it.
"""

from __future__ import annotations

from .classes import CLASSES, Prediction, decode
from .images import center_crop, read_image, resize
from .predict import predict, probabilities
from .preprocess import preprocess

__all__ = [
    "CLASSES",
    "Prediction",
    "center_crop",
    "decode",
    "predict",
    "preprocess",
    "probabilities",
    "read_image",
    "resize",
]
