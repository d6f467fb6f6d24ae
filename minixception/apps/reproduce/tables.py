"""Tables 1 to 3 of Chollet 2017, "Xception: Deep Learning with Depthwise Separable Convolutions"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numba
import numpy as np

from ...bench.training import random_batch, training_step
from ...data import ImageNetFolder
from ...engine.random import seed
from ...engine.tensor import Tensor
from ...errors import NumericError
from ...graph import cost
from ...models import MODELS, InceptionV3, Xception
from ...models.published import CHOLLET, PUBLISHED
from ...nn import Module
from ...optim import SGD
from ...timing import Timing, interleaved
from ...training.imagenet import Score, crop_for, evaluate_imagenet, imagenet_model
from .report import Figure, Report

TABLE1 = {name: published for name, published in PUBLISHED.items() if published.source == CHOLLET}
TABLE2 = {
    "Inception V3, no FC layers": (InceptionV3, (), 6.36),
    "Xception, no FC layers": (Xception, (), 6.70),
    "Inception V3 with FC layers": (InceptionV3, (4096, 4096), 6.50),
    "Xception with FC layers": (Xception, (4096, 4096), 6.78),
}
TABLE3: dict[str, tuple[Callable[..., Module], dict[str, Any], float, int, int]] = {
    # network: constructor, its options, weight decay; trainable parameters and steps per second as published
    "Inception V3": (InceptionV3, {"variant": "2016"}, 4e-5, 23_626_728, 31),
    "Xception": (Xception, {}, 1e-5, 22_855_952, 28),
}
JFT_CLASSES = 17_000
CENTER_CROP = 0.875  # the single crop of the Inception networks' evaluation
_RATIO = "Xception / Inception V3"


def table1(
    images: ImageNetFolder | None = None,
    weights: Mapping[str, str] | None = None,
    after_batch: Callable[[str, Score], Any] = lambda name, score: None,
) -> Report:
    """Accuracy on ImageNet: measured for the networks with weights (by their names in ``MODELS``) if there are images.

    after_batch takes the network's name and its score so far. Raises what ``evaluate_imagenet`` raises.
    """
    weights = weights or {}
    published: dict[str, dict[str, Figure]] = {}
    measured: dict[str, dict[str, Figure]] = {}
    missing = []
    for name, (title, _, top1, top5) in TABLE1.items():
        assert top5 is not None  # Chollet gives both
        published[title] = {"top-1": top1, "top-5": top5}
        measured[title] = _counts(MODELS[name]())
        if images is None or name not in weights:
            missing.append(title)
            continue
        model = imagenet_model(name, weights[name])
        crop = crop_for(model, center_crop=CENTER_CROP)
        score = evaluate_imagenet(model, images, crop, after_batch=partial(after_batch, name))
        measured[title] |= {"top-1": score.top1, "top-5": score.top5, "images": score.images}
    needs = [
        f"top-1 and top-5 of {', '.join(missing)}: they need the 50,000 ImageNet validation images and trained weights "
        "(--data imagenet:DIR --weights NAME=FILE)"
    ]
    return Report(
        "Table 1: ImageNet validation accuracy, single crop, single model",
        published,
        measured,
        needs if missing else [],
        [
            "Parameters include batchnorm's running statistics; multiply-accumulates (MACs) are for one image of the "
            f"network's own size. Accuracy, where measured, is for the middle {CENTER_CROP:.1%} of each photo, resized."
        ],
    )


def table2() -> Report:
    """MAP@100 on JFT, which nobody outside of Google has: the networks are counted, nothing is evaluated."""
    published: dict[str, dict[str, Figure]] = {name: {"MAP@100": figure} for name, (*_, figure) in TABLE2.items()}
    measured = {
        name: _counts(make(num_classes=JFT_CLASSES, fc_units=units)) for name, (make, units, _) in TABLE2.items()
    }
    return Report(
        "Table 2: JFT, FastEval14k MAP@100",
        published,
        measured,
        [
            "MAP@100: it needs JFT (more than 350 million images) to train, and FastEval14k with its class weights to "
            "evaluate, both internal to Google; the measure itself is metrics.mean_average_precision"
        ],
        [
            f"Counted for {JFT_CLASSES:,} classes and images of 299x299 pixels; parameters include batchnorm's running "
            "statistics. FC layers: two fully connected layers of 4,096 units before the logits."
        ],
    )


def table3(steps: int = 15, batch_size: int = 4, after_round: Callable[[], Any] = lambda: None) -> Report:
    """Size and training speed of both networks, timed in turn; ``steps`` steps of each count, and as many do not.

    after_round is called after each round of both. Raises NumericError if a loss is not finite at the end.
    """
    published: dict[str, dict[str, Figure]] = {}
    measured: dict[str, dict[str, Figure]] = {}
    functions = {}
    for name, (make, options, weight_decay, parameters, speed) in TABLE3.items():
        seed(0)
        model = make(dropout=0.5, **options)
        published[name] = {"trainable parameters": parameters, "steps/s": speed}
        measured[name] = {
            "trainable parameters": model.num_parameters(trainable=True),
            "MACs": cost.table(model, (299, 299, 3)).macs,
        }
        x, labels = random_batch(model, batch_size)
        optimizer = SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=weight_decay)
        functions[name] = training_step(model, Tensor(x), labels, optimizer)
    times = interleaved(functions, steps, after_round)
    for name, timing in times.items():
        measured[name] |= _steps_per_second(timing)
        if not np.isfinite(functions[name]().item()):
            raise NumericError(f"{name}: the loss is not finite after training, so the time of its steps means nothing")
    ratios = _ratios(measured)
    published[_RATIO], measured[_RATIO] = {**_ratios(published)}, {**ratios}
    return Report(
        "Table 3: size and training speed",
        published,
        measured,
        ["steps per second on 60 K80 GPUs, synchronous, at an unpublished batch size: only the ratio can be compared"],
        [
            f"Here: batches of {batch_size} images of 299x299 pixels on {numba.get_num_threads()} threads, SGD with "
            "momentum, dropout 0.5; a step of one network after a step of the other, median and quartiles of "
            f"{steps} steps each. The Inception V3 is that of the paper's author in October 2016, whose trainable "
            "parameters are exactly those of the table; Keras' today has 23,817,352. "
            f"If multiply-accumulates (MACs) alone decided, the ratio of the speeds would be {1 / ratios['MACs']:.3f}."
        ],
    )


def _counts(model: Module) -> dict[str, Figure]:
    assert model.input_shape is not None
    return {"parameters": model.num_parameters(), "MACs": cost.table(model, model.input_shape).macs}


def _steps_per_second(timing: Timing) -> dict[str, Figure]:
    return {"steps/s": 1 / timing.median, "quartiles": (1 / timing.high, 1 / timing.low)}


def _ratios(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    ours, theirs = figures["Xception"], figures["Inception V3"]
    return {name: ours[name] / theirs[name] for name in ours if name != "quartiles"}
