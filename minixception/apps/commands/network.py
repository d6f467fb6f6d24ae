"""Which network ``predict`` and ``serve`` use: that of one's own run, or one of ``MODELS`` with a file of weights."""

from __future__ import annotations

import argparse

from ...errors import ArgumentError
from ...imagenet import CLASSES
from ...models import MODELS
from ...nn import Module
from ...training import load
from .common import add_model, positive

_PUBLISHED = ("model", "weights", "classes", "size")


def add_network(parser: argparse.ArgumentParser) -> None:
    """The options of a published network; ``make_network`` reads them."""
    group = parser.add_argument_group("a published network", "RUN brings all of this with it.")
    add_model(group, help=f"{', '.join(MODELS)}; default: xception")
    group.add_argument("--weights", metavar="FILE", help="default: imagenet, the released weights")
    group.add_argument("--classes", type=positive, metavar="N", help=f"of the weights; default: {len(CLASSES)}")
    group.add_argument("--size", type=positive, metavar="PIXELS", help="height and width; default: the network's own")


def make_network(options: argparse.Namespace, run: str | None) -> tuple[str, Module, str | None]:
    """Its name, the network, and the weights that it still lacks: None for that of a run, which has its own.

    Raises ArgumentError where a run is given together with options of a published network.
    """
    given = [f"--{name}" for name in _PUBLISHED if getattr(options, name) is not None]
    if run is not None:
        if given:
            raise ArgumentError(f"{run} is a run, which brings its network with it: leave out {', '.join(given)}")
        return run, load(run), None
    name = options.model or "xception"
    size = {} if options.size is None else {"input_shape": (options.size, options.size, 3)}
    model = MODELS[name](num_classes=options.classes or len(CLASSES), **size)
    return name, model, options.weights or "imagenet"
