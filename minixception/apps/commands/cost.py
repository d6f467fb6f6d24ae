"""minixception summary, minixception cost: a network's layers, and what they cost."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from ...graph import cost
from ...models import MODELS
from ...nn import Module
from .common import Add, add_json, add_model, positive, show


def register(add: Add) -> None:
    """Both commands and their options."""
    summary = add("summary", run_summary, "the layers of a network: shapes, parameters, MACs")
    costs = add("cost", run_cost, "the same, beside regular and Inception-style convolutions")
    for parser in (summary, costs):
        add_model(parser, "model", nargs="?", default="xception", help=f"{', '.join(MODELS)}; default: %(default)s")
        parser.add_argument("--size", type=positive, metavar="PIXELS", help="height and width of the input")
        add_json(parser)


def run_summary(options: argparse.Namespace) -> int:
    """Print the table of layers."""
    table = _model(options).summary()
    show(options, table.to_json(), table)
    return 0


def run_cost(options: argparse.Namespace) -> int:
    """Print the table of layers, and the same network with other convolutions."""
    model = _model(options)
    assert model.input_shape is not None  # all of MODELS have one
    table, others = model.summary(), cost.alternatives(model, model.input_shape)
    text = str(table)
    if others:
        text += f"\n\nIts separable convolutions in other forms\n{cost.alternatives_table(others)}"
    show(options, table.to_json() | {"alternatives": [asdict(row) for row in others]}, text)
    return 0


def _model(options: argparse.Namespace) -> Module:
    shape = {} if options.size is None else {"input_shape": (options.size, options.size, 3)}
    return MODELS[options.model](**shape)
