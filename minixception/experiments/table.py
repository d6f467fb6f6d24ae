"""The experiments: what the paper says, what is trained for it, and what is compared with what.

Widths that stand here as numbers were found by ``widths.solve``; a test holds that the costs agree within 1 %.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..training import RECIPES
from . import classify, tag
from .designs import Design

SEGMENTS = (1, 2, 4, 8, 16, 32)
DEPTHS = (2, 4, 8)


class Task(NamedTuple):
    """What networks are trained for.

    outputs: of a network; train: (design, data, folder) -> a record for each epoch, which goes on from the folder's
    checkpoint; score: the share in these records that is compared; called: its name.
    """

    outputs: int
    train: Callable[[Design, str, Path], list[dict[str, Any]]]
    score: str
    called: str


CLASSIFY = Task(classify.CLASSES, classify.train, "test_top1", "test top-1")
TAG = Task(tag.LABELS, tag.train, "test_map", "test MAP")


@dataclass(frozen=True)
class Experiment:
    """A question to the paper.

    claim: what the paper says, with its section; designs: what is trained, by name; pairs: (name, name of what it is
    compared with); seeds: runs of each design; task: what for.
    """

    claim: str
    designs: Mapping[str, Design]
    pairs: tuple[tuple[str, str], ...]
    seeds: int = 3
    task: Task = CLASSIFY


BASE = Design(**vars(replace(RECIPES["cifar10"], widths=(24, 48, 96), middle_blocks=2, stem=12)))


def _sized(stem: int, *widths: int, **others: Any) -> Design:
    return replace(BASE, stem=stem, widths=widths, **others)


def _regular(stem: int, *widths: int, **others: Any) -> Design:
    return _sized(stem, *widths, form="regular", **others)


def _inception(stem: int, *widths: int, **others: Any) -> Design:
    return _sized(stem, *widths, form="segments", segments=3, **others)


def _in_segments(segments: int, stem: int, *widths: int) -> Design:
    return _sized(stem, *widths, form="segments", segments=segments)


def _in_c_segments(stem: int, *widths: int, **others: Any) -> Design:
    return _sized(stem, *widths, form="pointwise first", **others)


# Forms --------------------------------------------------------------------------------------------------------------

_INCEPTION = _inception(8, 15, 30, 60)  # what the others are solved for: its widths have the largest steps
_FORMS = {
    "Inception-style": _INCEPTION,
    "separable, equal parameters": _sized(14, 28, 56, 115),
    "regular, equal parameters": _regular(10, 11, 22, 41),
    "separable, equal MACs": _sized(13, 30, 60, 119),
    "regular, equal MACs": _regular(5, 11, 22, 44),
    # As many epochs as take about as long as the 8 of the Inception-style network, on one core, with these kernels.
    "separable, equal time": _sized(14, 28, 56, 115, epochs=9),
    "regular, equal time": _regular(10, 11, 22, 41, epochs=9),
}

# The same with a million parameters: the recipe's own network, but for three channels
_FULL = Design(**vars(RECIPES["cifar10"]))
_FULL_SIZE = {
    "Inception-style": replace(_FULL, form="segments", segments=3, stem=16, widths=(33, 66, 132)),
    "separable": replace(_FULL, widths=(64, 128, 259)),
    "regular": replace(_FULL, form="regular", stem=12, widths=(22, 44, 90)),
}

# The spectrum: 1x1, then 3x3 in ever more segments ------------------------------------------------------------------

_EQUAL_WIDTH = {
    **{f"{g} segments": _in_segments(g, 16, 32, 64, 128) for g in SEGMENTS},
    "C segments": _in_c_segments(16, 32, 64, 128),
}
_EQUAL_PARAMETERS = {
    "1 segments": _in_segments(1, 10, 12, 24, 46),
    "2 segments": _in_segments(2, 9, 16, 32, 62),
    "4 segments": _in_segments(4, 20, 20, 44, 80),
    "8 segments": _in_segments(8, 20, 32, 64, 96),
    "16 segments": _in_segments(16, 28, 48, 64, 112),
    "32 segments": _in_segments(32, 16, 32, 64, 128),
    "C segments": _in_c_segments(9, 35, 70, 141),
}

# Order and depth ----------------------------------------------------------------------------------------------------

_DEPTH = {
    "separable, 2 middle blocks": _sized(28, 35, 70, 140),
    "separable, 4 middle blocks": _sized(12, 26, 53, 107, middle_blocks=4),
    "separable, 8 middle blocks": _sized(7, 20, 39, 78, middle_blocks=8),
    "pointwise first, 2 middle blocks": _EQUAL_PARAMETERS["C segments"],
    "pointwise first, 8 middle blocks": _in_c_segments(5, 19, 38, 78, middle_blocks=8),
    "regular, 2 middle blocks": _regular(12, 13, 26, 50),
    "regular, 4 middle blocks": _regular(10, 10, 19, 38, middle_blocks=4),
    "regular, 8 middle blocks": _regular(7, 7, 14, 28, middle_blocks=8),
}

# The parts of the recipe, and of the network that learns drawn pictures ----------------------------------------------


def _without(base: Design) -> dict[str, Design]:
    """The recipe without Polyak averages, and with a rate that hardly falls in place of one that rises and falls."""
    decay = replace(base, schedule="exponential", decay_rate=0.94, decay_epochs=2.0)
    return {"no averaging": replace(base, ema_decay=0.0), "the paper's decay": decay}


_DEEP = Design(epochs=4, widths=(16, 32), middle_blocks=6, stem=8, lr=0.05, ema_decay=0.98)
_DRAWN = {
    "baseline": _DEEP,
    "no residual connections": replace(_DEEP, residual=False),
    "ReLU in between": replace(_DEEP, between="relu"),
    "ELU in between": replace(_DEEP, between="elu"),
    **_without(_DEEP),
}

# Many labels: the recipe of section 4.2 for JFT, in small -------------------------------------------------------------

_TAGGING: dict[str, Any] = {
    "data": "mosaics",
    "optimizer": "rmsprop",
    "lr": 0.002,
    "weight_decay": 0.0,
    "schedule": "exponential",
    "decay_rate": 0.9,
    "decay_epochs": 0.5,
    "ema_decay": 0.99,
    "augment": False,
}
_JFT_SEPARABLE = replace(_FORMS["separable, equal parameters"], **_TAGGING)
_JFT_INCEPTION = replace(_INCEPTION, **_TAGGING)


EXPERIMENTS = {
    "forms": Experiment(
        'Xception is better than Inception by "a more efficient use of model parameters", of which it has as many '
        "(abstract)",
        _FORMS,
        tuple(
            (f"separable, equal {cost}", other)
            for cost in ("parameters", "MACs", "time")
            for other in ("Inception-style", f"regular, equal {cost}")
        ),
    ),
    "full_size": Experiment(
        "The same claim (abstract), with eight times as many parameters and twice as many middle blocks",
        _FULL_SIZE,
        (("separable", "Inception-style"), ("separable", "regular")),
    ),
    "equal_parameters": Experiment(
        "Between regular and depthwise convolution there is a discrete spectrum, by the number of segments, whose "
        'properties "appear not to have been explored yet" (section 1.2); here with equally many parameters',
        _EQUAL_PARAMETERS,
        tuple(("C segments", f"{g} segments") for g in SEGMENTS),
    ),
    "equal_width": Experiment(
        "The same spectrum (section 1.2) at equal widths: with more segments there are fewer parameters",
        _EQUAL_WIDTH,
        tuple(("C segments", f"{g} segments") for g in SEGMENTS),
    ),
    "shortcuts": Experiment(
        'Residual connections are "clearly essential in helping with convergence", in speed and in final performance '
        "(section 4.6)",
        {"residual": BASE, "no residual connections": replace(BASE, residual=False)},
        (("residual", "no residual connections"),),
        seeds=5,
    ),
    "between": Experiment(
        'The absence of any non-linearity between depthwise and pointwise "leads to both faster convergence and better '
        'final performance" (section 4.7)',
        {"nothing": BASE, "ReLU": replace(BASE, between="relu"), "ELU": replace(BASE, between="elu")},
        (("nothing", "ReLU"), ("nothing", "ELU")),
        seeds=5,
    ),
    "recipe": Experiment(
        "All networks are evaluated with Polyak averages of their weights, and the learning rate falls by 6 % every "
        "second epoch (section 4.2)",
        {"baseline": BASE, **_without(BASE)},
        (("baseline", "no averaging"), ("baseline", "the paper's decay")),
    ),
    "drawn": Experiment(
        "Residual connections (section 4.6), activations in between (4.7) and the recipe (4.2) once more, with a deep "
        "and narrow network on pictures that the package draws",
        _DRAWN,
        tuple(("baseline", other) for other in _DRAWN if other != "baseline"),
    ),
    "depth": Experiment(
        "Whether the depthwise or the pointwise half comes first is unimportant, as they are stacked (section 3); "
        "Xception is a deep stack of separable convolutions; here with equally many parameters",
        _DEPTH,
        (
            *((f"{form}, 8 middle blocks", f"{form}, 2 middle blocks") for form in ("separable", "regular")),
            *((f"separable, {n} middle blocks", f"regular, {n} middle blocks") for n in DEPTHS),
            *((f"separable, {n} middle blocks", f"pointwise first, {n} middle blocks") for n in (2, 8)),
        ),
    ),
    "many_labels": Experiment(
        "On JFT, by MAP@100, Xception is ahead of Inception V3, without fully connected layers (6.70 and 6.36) and "
        "with them (6.78 and 6.50), and both are better with them (table 2)",
        {
            "separable": _JFT_SEPARABLE,
            "Inception-style": _JFT_INCEPTION,
            "separable, fully connected layers": replace(_JFT_SEPARABLE, fc_units=(128, 128)),
            "Inception-style, fully connected layers": replace(_JFT_INCEPTION, fc_units=(128, 128)),
        },
        (
            ("separable", "Inception-style"),
            ("separable, fully connected layers", "Inception-style, fully connected layers"),
            ("separable, fully connected layers", "separable"),
            ("Inception-style, fully connected layers", "Inception-style"),
        ),
        task=TAG,
    ),
}
