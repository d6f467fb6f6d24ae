"""Compile the kernels before they are needed, naming each one: first use then starts at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from ..compiler import compile
from ..engine.op import RandomDraw
from ..engine.tensor import tensor
from ..models import Xception, mini_xception
from ..ops import OPERATORS, cross_entropy
from ..optim import SGD


def warmup(
    dtypes: Sequence[str] = ("float32",), backends: Sequence[str] = ("cpu",)
) -> list[tuple[str, str, str, float]]:
    """Run every operator once, forward and backward; returns (what, rung, dtype, seconds) of each.

    An operator's sample does not need every kernel of a model: the "cpu" rung also runs an inference of a compiled
    Xception and a training step. Compiled code stays in Numba's cache on disk, so the second call takes a moment.
    Shows a progress bar, or a line for each where there is no terminal.
    """
    from tqdm import tqdm

    jobs = []
    for dtype in dtypes:
        for name, op in OPERATORS.items():
            jobs += [(name, rung, dtype, partial(_sample, name, rung, dtype)) for rung in backends if rung in op.rungs]
        if "cpu" in backends:
            jobs += [(name, "cpu", dtype, partial(run, dtype)) for name, run in MODELS.items()]
    done = []
    with tqdm(jobs, unit="kernel", disable=None) as bar:
        for name, rung, dtype, run in bar:
            text = f"compiling {name} ({rung}, {dtype})"
            bar.set_description(text)
            if bar.disable:  # no terminal
                print(text, file=sys.stderr)
            started = time.perf_counter()
            run()
            done.append((name, rung, dtype, time.perf_counter() - started))
        bar.set_description("kernels are compiled")
    return done


def _sample(name: str, backend: str, dtype: str) -> None:
    case = OPERATORS[name].sample(RandomDraw(0, dtype))
    rung = OPERATORS[name].rungs[backend]
    y, saved = rung.forward(*case.arrays, **case.params)
    rung.backward(np.ones_like(y), saved)


def _inference(dtype: str) -> None:
    model = Xception(input_shape=(71, 71, 3)).astype(dtype).eval()
    compile(model)(np.zeros((1, 71, 71, 3), dtype))


def _training_step(dtype: str) -> None:
    model = mini_xception().astype(dtype).train()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = tensor(np.zeros((2, 32, 32, 3), dtype))
    cross_entropy(model(images), np.zeros(2, np.int64)).backward()
    optimizer.step()


MODELS = {"inference of a compiled Xception": _inference, "training step of mini_xception": _training_step}
