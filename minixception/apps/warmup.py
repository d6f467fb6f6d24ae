"""Compile the kernels before they are needed, naming each one: first use then starts at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from ..engine.op import RandomDraw
from ..ops import OPERATORS


def warmup(
    dtypes: Sequence[str] = ("float32",), backends: Sequence[str] = ("cpu",)
) -> list[tuple[str, str, str, float]]:
    """Run every operator once, forward and backward; returns (operator, rung, dtype, seconds) of each.

    Compiled code stays in Numba's cache on disk, so the second call takes a moment. Shows a progress bar.
    """
    from tqdm import tqdm

    jobs = [
        (name, backend, dtype)
        for dtype in dtypes
        for name, op in OPERATORS.items()
        for backend in backends
        if backend in op.rungs
    ]
    done = []
    with tqdm(jobs, unit="kernel") as bar:
        for name, backend, dtype in bar:
            bar.set_description(f"compiling {name} ({backend}, {dtype})")
            started = time.perf_counter()
            case = OPERATORS[name].sample(RandomDraw(0, dtype))
            rung = OPERATORS[name].rungs[backend]
            y, saved = rung.forward(*case.arrays, **case.params)
            rung.backward(np.ones_like(y), saved)
            done.append((name, backend, dtype, time.perf_counter() - started))
        bar.set_description("kernels are compiled")
    return done
