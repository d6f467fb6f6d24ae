"""The commands of ``minixception``, one file each: ``register`` describes its options, ``run`` does it.

``COMMANDS`` holds them in the order in which the help lists them.
"""

from __future__ import annotations

from . import bench, cost, course, demo, doctor, evaluate, figures, gradcheck, predict, reproduce, serve, train, warmup

COMMANDS = (demo, course, train, evaluate, predict, serve, cost, bench, figures, reproduce, gradcheck, doctor, warmup)
