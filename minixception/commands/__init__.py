"""The commands of ``minixception``, one file each: ``register`` describes its options, ``run`` does it.

``COMMANDS`` holds them in the order in which the help lists them.
"""

from __future__ import annotations

from . import bench, cost, demo, doctor, evaluate, gradcheck, predict, reproduce, serve, train, warmup

COMMANDS = (demo, train, evaluate, predict, serve, cost, bench, reproduce, gradcheck, doctor, warmup)
