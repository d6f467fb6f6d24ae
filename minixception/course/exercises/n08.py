"""Exercises of notebook 08, Xception layer by layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...engine.op import Case, RandomDraw
from ..checks import Choice, Function, Mistake, Number, WrongNumber


def _class_map(features: np.ndarray, weights: np.ndarray, label: int) -> np.ndarray:
    return features @ weights[:, label]  # (h, w)


def _features(draw: RandomDraw) -> Case:
    h, w, c, classes = draw.integer(2, 5), draw.integer(2, 5), draw.integer(3, 6), draw.integer(3, 7)
    return Case((draw.normal(h, w, c), draw.normal(c, classes)), {"label": draw.integer(1, classes - 1)})


def _corners(draw: RandomDraw) -> Iterator[Case]:
    for h, w, c, classes, label in ((1, 4, 3, 5, 0), (3, 1, 1, 2, 1), (2, 3, 33, 17, 16)):
        yield Case((draw.normal(h, w, c), draw.normal(c, classes)), {"label": label})


EXERCISES = (
    Number(
        name="xception-trainable",
        notebook=8,
        title="How many parameters of Xception does training change?",
        expected=lambda: 22_855_952,
        why="The paper's number: all 22,910,480 but the running statistics of batchnorm.",
        mistakes=(
            WrongNumber(22_910_480, "These are all of them. Training does not change batchnorm's running statistics."),
            WrongNumber(
                22_910_480 - 27_264,
                "A channel of batchnorm has a running mean and a running variance: two values that training leaves.",
            ),
            WrongNumber(
                22_910_480 - 4 * 27_264, "Two of batchnorm's four values a channel, gamma and beta, are trained."
            ),
        ),
    ),
    Choice(
        name="few-parameters-many-macs",
        notebook=8,
        title="Why block1 has few parameters and many MACs",
        options={
            "A": "A regular convolution needs two MACs for each of its parameters, a separable one needs one.",
            "B": "A parameter is used once for each pixel of the output, and block1's output has the most pixels.",
            "C": "block1 works on colours, which have more digits than features.",
            "D": "The convolutions of block1 have no residual connection that would save them work.",
        },
        right="B",
        why="147×147 = 21,609 times a parameter of block1.conv2 is used, and 100 times one of block14.",
        hints={
            "A": "Both use each parameter once for an output pixel. How many pixels are there?",
            "C": "All values are float32. What else is large in the first layers?",
            "D": "A residual connection adds work. Compare the output shapes of the two ends of the network.",
        },
    ),
    Number(
        name="receptive-field",
        notebook=8,
        title="How many pixels an output of block2 sees",
        expected=lambda: 19,
        why="3, then 7 behind block1; 11 and 15 behind the separable convolutions at a jump of 2; 19 behind the pool.",
        mistakes=(
            WrongNumber(11, "This counts all five windows at a jump of 1. Behind the first stride it is 2."),
            WrongNumber(15, "The max pool has a window too."),
            WrongNumber(25, "A layer's own stride counts for the layers behind it, not for its own window."),
            WrongNumber(23, "The pool's own stride counts for what comes behind it, not for its own window."),
            WrongNumber(19 * 19, "That is the area. The question is for one side."),
        ),
    ),
    Function(
        name="class-map",
        notebook=8,
        title="Where in the picture a class is seen",
        reference=_class_map,
        draw=_features,
        corners=_corners,
        results=("map",),
        mistakes=(
            Mistake(
                lambda features, weights, label: features.mean(axis=(0, 1)) @ weights,
                "These are the logits, without the bias. Leave out the mean over the pixels, and keep one class.",
            ),
            Mistake(
                lambda features, weights, label: features @ weights,
                "This is a map for each class. Which column of the weights belongs to the class asked for?",
            ),
            Mistake(
                lambda features, weights, label: np.maximum(_class_map(features, weights, label), 0),
                "What speaks against a class is negative and belongs into the map, or its mean is not the logit.",
            ),
            Mistake(
                lambda features, weights, label: _class_map(features, weights, label) / features[..., 0].size,
                "The map's mean, not its sum, is to be the logit: it is divided by the number of pixels once.",
            ),
            Mistake(
                lambda features, weights, label: features * weights[:, label],
                "The products are there, one for each feature. What remains is their sum.",
            ),
            Mistake(
                lambda features, weights, label: _class_map(features, weights, label - 1),
                "This is the map of the class before: classes count from 0.",
            ),
        ),
    ),
)
