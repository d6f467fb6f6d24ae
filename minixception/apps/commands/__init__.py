"""The commands of ``minixception``, one file each: ``register`` describes its options, ``run`` does it.

``COMMANDS`` holds them in the order in which the help lists them.
"""

from __future__ import annotations

from . import (
    bench,
    cost,
    course,
    demo,
    doctor,
    evaluate,
    figures,
    gradcheck,
    plan,
    predict,
    reproduce,
    serve,
    train,
    warmup,
)

COMMANDS = (
    demo, course, train, evaluate, predict, serve, cost, bench, plan, figures, reproduce, gradcheck, doctor, warmup,
)  # fmt: skip
