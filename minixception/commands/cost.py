"""minixception summary, minixception cost: a network's layers, and what they cost."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .. import cost
from .common import Add, add_json, positive, show


def register(add: Add) -> None:
    """Both commands and their options."""
    summary = add("summary", run_summary, "the layers of a network: shapes, parameters, MACs")
    costs = add("cost", run_cost, "the same, beside regular and Inception-style convolutions")
    for parser in (summary, costs):
        parser.add_argument("model", nargs="?", choices=("xception", "mini_xception"), default="xception")
        parser.add_argument("--size", type=positive, metavar="PIXELS", help="height and width of the input")
        add_json(parser)


def run_summary(options: argparse.Namespace) -> int:
    """Print the table of layers."""
    table = cost.table(*_model(options))
    show(options, table.to_json(), table)
    return 0


def run_cost(options: argparse.Namespace) -> int:
    """Print the table of layers, and the same network with other convolutions."""
    model, input_shape = _model(options)
    table, others = cost.table(model, input_shape), cost.alternatives(model, input_shape)
    text = f"{table}\n\nIts separable convolutions in other forms\n{cost.alternatives_table(others)}"
    show(options, table.to_json() | {"alternatives": [asdict(row) for row in others]}, text)
    return 0


def _model(options: argparse.Namespace) -> tuple[Any, tuple[int, int, int]]:
    from ..models import Xception, mini_xception

    size = options.size or {"xception": 299, "mini_xception": 32}[options.model]
    shape = (size, size, 3)
    return (Xception(input_shape=shape) if options.model == "xception" else mini_xception(input_shape=shape)), shape
