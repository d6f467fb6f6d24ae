"""The experiments: what the paper says, what is trained for it, and what is compared with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..training import RECIPES
from .designs import Design, cost
from .widths import solve

BASE = Design(**vars(replace(RECIPES["cifar10"], widths=(24, 48, 96), middle_blocks=2, stem=12)))
SEGMENTS = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Experiment:
    """A question to the paper.

    claim: what the paper says, with its section; designs: what is trained, by name; pairs: (name, name of what it is
    compared with); seeds: runs of each design.
    """

    claim: str
    designs: Callable[[], Mapping[str, Design]]
    pairs: tuple[tuple[str, str], ...]
    seeds: int = 3


def parameters(design: Design) -> int:
    """Trainable parameters."""
    return cost(design).parameters


def macs(design: Design) -> int:
    """Multiply-accumulates for one image."""
    return cost(design).macs


_REGULAR = replace(BASE, form="regular")
_INCEPTION = replace(BASE, form="segments", segments=3)


def _forms() -> dict[str, Design]:
    """Regular, Inception-style and separable, with as many parameters, and with as many multiply-accumulates."""
    return {
        "separable": BASE,
        "regular, equal parameters": solve(_REGULAR, parameters(BASE), parameters),
        "Inception-style, equal parameters": solve(_INCEPTION, parameters(BASE), parameters),
        "regular, equal MACs": solve(_REGULAR, macs(BASE), macs),
        "Inception-style, equal MACs": solve(_INCEPTION, macs(BASE), macs),
    }


def _spectrum() -> dict[str, Design]:
    """1x1, then 3x3 in ever more segments, with as many parameters."""
    extreme = replace(BASE, form="pointwise first")
    points = {f"{g} segments": replace(BASE, form="segments", segments=g) for g in SEGMENTS}
    return {name: solve(one, parameters(extreme), parameters) for name, one in points.items()} | {"C segments": extreme}


def _equal_width() -> dict[str, Design]:
    """The same at equal widths, which all the segments divide."""
    wide = replace(BASE, widths=(32, 64, 96), stem=16)
    points = {f"{g} segments": replace(wide, form="segments", segments=g) for g in SEGMENTS}
    return points | {"C segments": replace(wide, form="pointwise first")}


def _shortcuts() -> dict[str, Design]:
    return {"residual": BASE, "no residual connections": replace(BASE, residual=False)}


def _between() -> dict[str, Design]:
    return {"nothing": BASE, "ReLU": replace(BASE, between="relu"), "ELU": replace(BASE, between="elu")}


def _order_and_depth() -> dict[str, Design]:
    """Depthwise or pointwise first, and 1 to 4 middle blocks, with as many parameters as the base."""
    forms = {"depthwise first": BASE, "pointwise first": replace(BASE, form="pointwise first"), "regular": _REGULAR}
    return {
        f"{name}, {blocks} middle blocks": solve(replace(one, middle_blocks=blocks), parameters(BASE), parameters)
        for name, one in forms.items()
        for blocks in (1, 2, 4)
    }


EXPERIMENTS = {
    "forms": Experiment(
        'Xception is better than Inception by "a more efficient use of model parameters", of which it has as many '
        "(abstract)",
        _forms,
        (
            ("separable", "regular, equal parameters"),
            ("separable", "Inception-style, equal parameters"),
            ("separable", "regular, equal MACs"),
            ("separable", "Inception-style, equal MACs"),
        ),
    ),
    "spectrum": Experiment(
        "Between regular and depthwise convolution there is a discrete spectrum, by the number of segments, whose "
        'properties "appear not to have been explored yet" (section 1.2)',
        _spectrum,
        tuple(("C segments", f"{g} segments") for g in SEGMENTS),
    ),
    "equal_width": Experiment(
        "The same spectrum with the widths left as they are: fewer segments are more parameters (section 1.2)",
        _equal_width,
        tuple(("C segments", f"{g} segments") for g in SEGMENTS),
    ),
    "shortcuts": Experiment(
        'Residual connections are "clearly essential in helping with convergence", in speed and in final performance '
        "(section 4.6)",
        _shortcuts,
        (("residual", "no residual connections"),),
        seeds=5,
    ),
    "between": Experiment(
        'The absence of any non-linearity between depthwise and pointwise "leads to both faster convergence and better '
        'final performance" (section 4.7)',
        _between,
        (("nothing", "ReLU"), ("nothing", "ELU")),
        seeds=5,
    ),
    "order_and_depth": Experiment(
        "The order of the two operations is argued to be unimportant (section 1.2)",
        _order_and_depth,
        (
            *((f"depthwise first, {n} middle blocks", f"pointwise first, {n} middle blocks") for n in (1, 2, 4)),
            ("depthwise first, 4 middle blocks", "depthwise first, 1 middle blocks"),
            ("regular, 4 middle blocks", "regular, 1 middle blocks"),
        ),
    ),
}
