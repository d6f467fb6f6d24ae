"""Hub: the questions that ModelHub answered about a network, with the same JSON."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, BinaryIO

import numpy as np

from ... import imagenet
from ...compiler import compile
from ...download import cache_dir
from ...engine.tape import no_grad
from ...engine.tensor import Tensor
from ...errors import ArgumentError, DataError, NumericError, ShapeError
from ...files import atomic_path
from ...graph.trace import trace
from ...nn import Module
from ...ops import softmax
from .about import IMAGENET, LEGAL, MODELHUB_ID, PAPERS, UNPUBLISHED
from .samples import SAMPLES, sample

MEDIA_TYPES = ("image/png", "image/jpg", "image/jpeg", "image/webp")
MIN_SIZE = 32  # pixels, height and width, of ModelHub


class Hub:
    """A network as ModelHub showed it: ``get_config``, ``get_legal``, ``get_model_io``, ``get_samples``, ``predict``.

    model: a network that knows its ``input_shape`` (h, w, 3) and returns logits (n, classes); its weights are copied
    at the first prediction. name: default, the class's name in lower case. classes: the labels, one per output; without
    them they are the network's ``class_names``; a network of 1000 outputs that has none is taken for one of ImageNet,
    whose class names it gives with spaces ("great white shark"; ModelHub's labels listed all synonyms of a class), and
    others name classes by their index. A network with ``class_names``, which was trained here, sees pictures as
    ``minixception predict`` shows them to it and not as ModelHub did, and has no sample pictures. Two threads may ask
    at once: their pictures are read, and go through the network, one after the other, and one is in memory.

    Raises ShapeError for a network without such an input or output, and ArgumentError for one without
    ``preprocessing`` or with another number of outputs than classes.

    >>> import minixception as mx
    >>> hub = Hub(mx.models.mini_xception(2, (8,), 0, 8), "tiny", ("cat", "dog"))
    >>> [one["label"] for one in hub.predict(sample("orange.png"))["output"][0]["prediction"]]
    ['cat', 'dog']
    """

    def __init__(self, model: Module, name: str | None = None, classes: Sequence[str] | None = None) -> None:
        outputs = _outputs(model)
        assert model.input_shape is not None and model.preprocessing is not None  # _outputs has looked
        self.name = name or type(model).__name__.lower()
        self._trained_here = model.class_names is not None
        self.samples: tuple[str, ...] = () if self._trained_here else tuple(SAMPLES)
        self._rule, self._min_size = ("bilinear", 1) if self._trained_here else ("lanczos", MIN_SIZE)
        classes = model.class_names if classes is None else classes
        self._names_imagenet = classes is None and outputs == len(imagenet.CLASSES)
        if self._names_imagenet:
            classes = [name.replace("_", " ") for _, name in imagenet.CLASSES]
        self.classes = tuple(str(i) for i in range(outputs)) if classes is None else tuple(classes)
        if len(self.classes) != outputs:
            raise ArgumentError(f"expected one label for each of {outputs} outputs, got {len(self.classes)}")
        height, width, _ = model.input_shape
        self._size = height, width
        self._preprocessing = model.preprocessing
        self._dtype = _dtype(model)
        self._network = compile(model)
        self._lock = threading.Lock()  # a compiled network is not for two threads at once, nor is there memory

    def get_config(self) -> dict[str, Any]:
        """All that is known about the network: id, meta, publication, model (with its io) and display hints."""
        dataset = "ImageNet" if self._names_imagenet else ""
        count = len(self.classes)
        return {
            "id": self._id(),
            "meta": {
                "name": self.name,
                "application_area": dataset or "Pictures",
                "task": "Classification",
                "task_extended": f"{dataset or 'Picture'} classification",
                "data_type": "Image/Photo",
                "data_source": IMAGENET if dataset else "",
            },
            "publication": dict(PAPERS.get(self._key(), UNPUBLISHED)),
            "model": {
                "description": f"{self.name}, {count} classes, pictures resized to "
                f"{self._size[0]}x{self._size[1]} pixels without cropping.",
                "provenance": "minixception",
                "architecture": "Convolutional Neural Network (CNN)",
                "learning_type": "Supervised learning",
                "format": ".safetensors",
                "io": {
                    "input": {
                        "format": list(MEDIA_TYPES),
                        "dim_limits": [{"min": 1, "max": 4}, {"min": self._min_size}, {"min": self._min_size}],
                    },
                    "output": [
                        {
                            "name": "probabilities",
                            "type": "label_list",
                            "description": f"Probabilities of the {count} classes"
                            + (" in the ImageNet dataset." if dataset else "."),
                        }
                    ],
                },
            },
            "modelhub": {"top": 5, "sort": True},
        }

    def get_legal(self) -> dict[str, str]:
        """The licences of the view, the network and the sample pictures."""
        return dict(LEGAL)

    def get_model_io(self) -> dict[str, Any]:
        """What goes in and comes out: the part ``model.io`` of the config."""
        io: dict[str, Any] = self.get_config()["model"]["io"]
        return io

    def get_samples(self) -> dict[str, Any]:
        """Sample pictures to try: their "folder", in the user's cache, and their names, "files".

        They are drawn into the folder by this call.
        """
        folder = cache_dir() / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.samples:
            with atomic_path(folder / name) as temporary:
                temporary.write_bytes(sample(name))
        return {"folder": str(folder), "files": list(self.samples)}

    def predict(self, source: str | os.PathLike[str] | bytes | BinaryIO) -> dict[str, Any]:
        """The probability of every class for one picture, in the classes' order, unsorted as ModelHub gave them.

        source: a path, the bytes of an image file, or an open one. The picture is squeezed to the network's size: with
        LANCZOS as ModelHub did, or as it was in training if the network was trained here, without a crop. Reading
        differs on purpose where ModelHub went wrong: a palette picture shows its colours (there, the palette's indices
        were taken for gray), gray with transparency is read (there it failed), and transparency is laid over white
        instead of being dropped. Raises DataError for what is no picture or has fewer than ModelHub's 32 pixels a side,
        which a network that was trained here does not ask for, and NumericError when the output is not finite.
        """
        with self._lock:
            start = time.perf_counter()
            probabilities = self._probabilities(self._input(source))  # (classes,)
            seconds = time.perf_counter() - start
        described = self.get_model_io()["output"][0]
        prediction = [
            {"label": label, "probability": float(p)} for label, p in zip(self.classes, probabilities, strict=True)
        ]
        return {
            "output": [{"prediction": prediction, "shape": [len(self.classes)], **described}],
            "timestamp": datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f"),
            "processing_time": round(seconds, 3),
            "model": {"id": self._id(), "name": self.name},
        }

    def _input(self, source: str | os.PathLike[str] | bytes | BinaryIO) -> np.ndarray:
        """The picture as the network takes it, (1, h, w, 3)."""
        image = imagenet.read_image(source, self._size)  # (h, w, 3) uint8
        if min(image.shape[:2]) < self._min_size:
            raise DataError(
                f"expected a picture of at least {self._min_size}x{self._min_size} pixels, "
                f"got {image.shape[0]}x{image.shape[1]}"
            )
        resized = imagenet.resize(image, self._size, self._rule)[None]  # (1, h, w, 3)
        return imagenet.preprocess(resized, self._preprocessing).astype(self._dtype, copy=False)

    def _probabilities(self, x: np.ndarray) -> np.ndarray:
        """The softmax of the network's logits, (1, h, w, 3) -> (classes,)."""
        with no_grad():
            logits = self._network(x)  # (1, classes)
            if not np.isfinite(logits).all():
                raise NumericError("the network's output is not finite: are these the right weights?")
            return softmax(Tensor(logits)).numpy()[0]

    def _key(self) -> str:
        """Which published network it is; a run is none, whatever its folder is called."""
        return "" if self._trained_here else self.name.lower().replace("_", "")

    def _id(self) -> str:
        """ModelHub's own for its Xception, else one that depends on the name alone."""
        return MODELHUB_ID if self._key() == "xception" else str(uuid.uuid5(uuid.NAMESPACE_URL, self.name))


def _outputs(model: Module) -> int:
    """The number of logits, worked out from shapes alone; the errors are Hub's."""
    shape = model.input_shape
    if shape is None or len(shape) != 3 or shape[2] != 3:
        raise ShapeError(f"a hub's network must take images, input_shape (h, w, 3), got {shape}")
    if model.preprocessing is None:
        raise ArgumentError("a hub's network must say what range of values it takes: set its preprocessing")
    output = trace(model, (1, *shape), _dtype(model)).nodes[-1].output
    if len(output) != 2:
        raise ShapeError(f"a hub's network must return logits (n, classes), got an output of shape {output}")
    return output[1]


def _dtype(model: Module) -> np.dtype[Any]:
    return next(model.named_tensors())[1].dtype
