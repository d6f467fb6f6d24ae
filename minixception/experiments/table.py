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


def _equal_width() -> dict[str, Design]:
    """1x1, then 3x3 in ever more segments, at equal widths, which all of them divide."""
    wide = replace(BASE, widths=(32, 64, 96), stem=16)
    points = {f"{g} segments": replace(wide, form="segments", segments=g) for g in SEGMENTS}
    return points | {"C segments": replace(wide, form="pointwise first")}


def _shortcuts() -> dict[str, Design]:
    return {"residual": BASE, "no residual connections": replace(BASE, residual=False)}


def _between() -> dict[str, Design]:
    return {"nothing": BASE, "ReLU": replace(BASE, between="relu"), "ELU": replace(BASE, between="elu")}


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
    "equal_width": Experiment(
        "Between regular and depthwise convolution there is a discrete spectrum, by the number of segments, whose "
        'properties "appear not to have been explored yet" (section 1.2); here at equal widths',
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
}
