"""The weights of Keras' Xception, trained on ImageNet, as their author released them in 2016."""

from __future__ import annotations

from pathlib import Path

from ..download import cache_dir, download
from ..errors import ArgumentError
from ..nn import Module

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
# Parameters of the model -> file, md5
FILES = {
    22_910_480: ("xception_weights_tf_dim_ordering_tf_kernels.h5", "0a58e3b7378bc2990ea3b43d5981f1f6"),
    20_861_480: ("xception_weights_tf_dim_ordering_tf_kernels_notop.h5", "b0042744bf5b25fce3cb969f33bebb97"),
}


def imagenet_file(model: Module) -> Path:
    """The released file for this model, from the cache, or downloaded into it.

    Raises ArgumentError unless the model is Xception, with 1000 classes or without its top; DataError, one line naming
    file and folder, where the download fails.
    """
    count = model.num_parameters()
    if count not in FILES:
        raise ArgumentError(
            "weights='imagenet' are those of Xception with 1000 classes, or with include_top=False: expected "
            f"{' or '.join(f'{n:,}' for n in FILES)} parameters, this {type(model).__name__} has {count:,}"
        )
    name, md5 = FILES[count]
    return download(ADDRESS + name, cache_dir() / "weights" / name, md5=md5)
