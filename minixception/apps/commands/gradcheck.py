"""minixception gradcheck: every gradient beside finite differences."""

from __future__ import annotations

import argparse

from ...engine.backend import LADDER, use_backend
from ...engine.gradcheck import gradcheck
from ...engine.op import RandomDraw
from ...engine.tensor import Tensor
from ...errors import GradientError
from ...gpu.kernel import is_available
from ...ops import OPERATORS
from ...tables import Table
from .common import Add, add_json, positive, show


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("gradcheck", run, "compare every operator's gradient with finite differences")
    parser.add_argument("operator", nargs="?", choices=OPERATORS, metavar="OPERATOR", help="default: all")
    parser.add_argument("--cases", type=positive, default=3, help="random cases per rung; default: %(default)s")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Check, and say which operator and rung is wrong."""
    import numpy as np

    runnable = [name for name in LADDER if name != "cuda" or is_available()]
    rows, failed = [], False
    for name in [options.operator] if options.operator else OPERATORS:
        op = OPERATORS[name]
        for backend in filter(op.rungs.__contains__, runnable):
            problem = ""
            for seed in range(options.cases):
                case = op.sample(RandomDraw(seed))
                y, saved = op.rungs["numpy"].forward(*case.arrays, **case.params)
                gradients = op.rungs["numpy"].backward(np.ones_like(y), saved)
                inputs = [Tensor(a, g is not None) for a, g in zip(case.arrays, gradients, strict=True)]
                try:
                    with use_backend(backend):
                        gradcheck(lambda *xs, op=op, case=case: op(*xs, **case.params), inputs, seed=seed)
                except GradientError as error:
                    problem, failed = str(error), True
                    break
            rows.append((name, backend, options.cases, problem or "agrees with finite differences"))
    fields = ("operator", "rung", "cases", "result")
    show(options, [dict(zip(fields, row, strict=True)) for row in rows], Table(fields, rows))
    return int(failed)
