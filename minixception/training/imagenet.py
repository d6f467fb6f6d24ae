"""Accuracy on the ImageNet validation images: the paper's table 1. It takes hours, so it can be stopped and resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.ranks import ALONE, Ranks
from ..compiler import compile
from ..data.imagenet_folder import Crop, ImageNetFolder
from ..errors import ArgumentError, CheckpointError
from ..files import atomic_path
from ..models import MODELS
from ..nn import Module
from .metrics import topk_hits
from .plain_data import is_count, is_number

SECONDS_BETWEEN_SAVES = 30.0


@dataclass(frozen=True)
class Score:
    """How many images were seen, for how many the class is the first guess or among the first five, and the time.

    >>> Score(images=8, top1_hits=6, top5_hits=7, seconds=0.5).to_json()
    {'images': 8, 'top1': 0.75, 'top5': 0.875, 'images_per_second': 16.0}
    """

    images: int = 0
    top1_hits: int = 0
    top5_hits: int = 0
    seconds: float = 0.0  # over all sittings, reading the images included

    @property
    def top1(self) -> float:
        """Top-1 accuracy so far."""
        return self.top1_hits / self.images

    @property
    def top5(self) -> float:
        """Top-5 accuracy so far."""
        return self.top5_hits / self.images

    @property
    def images_per_second(self) -> float:
        """Throughput so far, from files to classes."""
        return self.images / self.seconds

    def to_json(self) -> dict[str, Any]:
        """The measures as plain data."""
        measures = {"top1": self.top1, "top5": self.top5, "images_per_second": round(self.images_per_second, 2)}
        return {"images": self.images, **measures}


def imagenet_model(name: str, weights: str, size: int | None = None) -> Module:
    """The network of this name for the 1000 classes and images of ``size`` pixels (its own, if None), with weights.

    Raises WeightsError if the file does not fit, ShapeError if the network does not take images of this size.
    """
    options = {} if size is None else {"input_shape": (size, size, 3)}
    model = MODELS[name](num_classes=1000, **options)
    model.load_weights(weights)
    return model


def crop_for(model: Module, **options: Any) -> Crop:
    """A crop of the network's own size and range of values; options: center_crop and resize of ``Crop``."""
    assert model.input_shape is not None and model.preprocessing is not None  # every network of MODELS has both
    return Crop(model.input_shape[0], preprocessing=model.preprocessing, **options)


def evaluate_imagenet(
    model: Module,
    images: ImageNetFolder,
    crop: Crop,
    batch_size: int = 32,
    score: Score | None = None,
    after_batch: Callable[[Score], Any] = lambda score: None,
    ranks: Ranks = ALONE,
) -> Score:
    """Top-1 and top-5 accuracy of the compiled model, one crop per image.

    Goes on from ``score``. after_batch takes the score so far, which counts whole batches only. Memory: one batch.
    ranks: the processes that share the images; all begin with the same score, and it remains everybody's.

    Raises:
        ArgumentError: the model does not tell 1000 classes apart.
        DataError: an image cannot be read.
        NumericError: a logit is not a number.
    """
    score = score or Score()
    fast = compile(model)
    before, started = score.seconds, time.monotonic()
    feed = images.batches(crop, batch_size, score.images + ranks.rank * batch_size, ranks.size)
    while score.images < len(images):
        batch = next(feed, None)
        counts = (0, 0, 0) if batch is None else _hits(fast, *batch)  # at the end there may be none for this rank
        seen, top1, top5 = map(sum, zip(*ranks.everybodys(counts, "the classes of a batch"), strict=True))
        score = Score(
            images=score.images + seen,
            top1_hits=score.top1_hits + top1,
            top5_hits=score.top5_hits + top5,
            seconds=before + time.monotonic() - started,
        )
        after_batch(score)
    return score


def _hits(fast: Callable[[np.ndarray], np.ndarray], x: np.ndarray, labels: np.ndarray) -> tuple[int, int, int]:
    """Images, and for how many the class is the first guess, and among the first five."""
    logits = fast(x)  # (n, 1000)
    if logits.shape != (len(x), 1000):
        raise ArgumentError(f"expected logits of 1000 classes, the model gives {logits.shape} for {len(x)} images")
    return len(x), int(topk_hits(logits, labels, 1).sum()), int(topk_hits(logits, labels, 5).sum())


class SavedScore:
    """A score in a small JSON file, with all that decides about it: another network or other images do not go on.

    As a context, it writes the file when the block ends early, by Ctrl-C or an image that cannot be read, and removes
    it when there is nothing left to resume. Without resume, an unfinished evaluation at ``path`` is an ArgumentError;
    with it, CheckpointError if there is none, a damaged one, or one of other settings (named). The batch size may
    change, and the number of ranks, of which rank 0 reads and writes; ClusterError if they have other settings.
    """

    def __init__(
        self,
        path: Path,
        model: Module,
        images: ImageNetFolder,
        crop: Crop,
        resume: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.path, self._first = path, ranks.rank == 0
        self.settings = asdict(crop) | {"weights": _digest(model), "images": images.fingerprint()}
        ranks.agree(**self.settings)
        self._saved = time.monotonic()
        score = self._read(len(images)) if resume and self._first else Score()
        self.score = ranks.from_first(score, "the score so far")
        if self._first and not resume and path.exists():
            raise ArgumentError(f"{path} holds an unfinished evaluation: go on with --resume, or name another file")

    def __enter__(self) -> SavedScore:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if not self._first:
            return
        if kind is None:
            self.path.unlink(missing_ok=True)
        elif self.score.images:
            self.write()

    def update(self, score: Score) -> None:
        """Take the score over, and write it from time to time."""
        self.score = score
        if self._first and time.monotonic() - self._saved >= SECONDS_BETWEEN_SAVES:
            self.write()

    def write(self) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps({"settings": self.settings, "score": asdict(self.score)}, indent=2) + "\n")
        self._saved = time.monotonic()

    def _read(self, most: int) -> Score:
        try:
            saved = json.loads(self.path.read_text())
            settings, score = dict(saved["settings"]), Score(**saved["score"])
            counts = score.top1_hits, score.top5_hits, score.images, most
            if not (all(map(is_count, counts)) and list(counts) == sorted(counts)):
                raise ValueError(f"impossible counts: {score!r:.200}")
            if not (is_number(score.seconds) and score.seconds > 0):
                raise ValueError(f"impossible time: {score.seconds!r:.80}")
        except FileNotFoundError:
            raise CheckpointError(f"no unfinished evaluation at {self.path}: start one without --resume") from None
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{self.path} is not a saved evaluation, or it is damaged ({error!r})") from None
        if changed := [name for name in self.settings if settings.get(name) != self.settings[name]]:
            raise CheckpointError(f"{self.path} belongs to another evaluation: it differs in {', '.join(changed)}")
        return score


def _digest(model: Module) -> str:
    """A digest of the network: its tensors' names and values."""
    digest = hashlib.sha256()
    for name, array in model.state_dict().items():
        digest.update(name.encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
