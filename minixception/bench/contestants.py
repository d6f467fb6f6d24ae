"""A network as one library runs or trains it: its results, and its times, in this process or in one of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numba
import numpy as np

from ..compiler import compile
from ..engine.random import seed
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..gpu.device import to_cpu
from ..nn import Module
from ..timing import Clock, second_call, wall_clock
from .measurement import OURS
from .peers import Peer, Run
from .training import our_training, random_batch

_LR = 0.01
_STEPS = 3  # the gradients of the second depend on the learning rate, those of the third on the momentum


@dataclass(frozen=True)
class Workload:
    """A network, its batch, and whether it is trained or only run; model: a function that can be pickled."""

    name: str
    model: Callable[[], Module]
    batch: int
    training: bool


class Contestant:
    """A network on always the same images, built in the process that this is made in.

    build: of a ``Peer``; dtype: of weights and images; clock: calls a function and tells its seconds.
    """

    def __init__(
        self, workload: Workload, build: Callable[..., Any], threads: int, dtype: Any, clock: Clock = wall_clock
    ) -> None:
        seed(0)
        model = workload.model().astype(dtype)
        x, labels = random_batch(model, workload.batch)
        x = x.astype(dtype)
        self._clock, self._gradients = clock, None
        if workload.training:
            self._run, self._gradients = build(model, x, labels, threads, _LR)
        else:
            self._run = build(model, x, threads)

    def results(self) -> list[np.ndarray]:
        """The logits; or all gradients in a row, of the first step and of the third. To be asked for first."""
        if self._gradients is None:
            return [_numpy(self._run())]
        found = []
        for _ in range(_STEPS):
            self._run()
            found.append(np.concatenate([gradient.ravel() for gradient in self._gradients()]))
        return [found[0], found[-1]]

    def seconds(self) -> float:
        """Of one call, after one that does not count."""
        return second_call(self._run, self._clock)


class Asked(Protocol):
    """Somebody who can be asked for ``results`` and ``seconds``, for the length of a ``with`` block."""

    def ask(self, method: str) -> Any:
        """What that method of a contestant returns."""

    def __enter__(self) -> Asked: ...

    def __exit__(self, *_: object) -> None: ...


class Here:
    """A contestant in this process: where a GPU's times are taken in the one stream that everybody works in."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._built = build()

    def ask(self, method: str) -> Any:
        """What that method of the contestant returns."""
        return getattr(self._built, method)()

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing ends."""


def _numpy(logits: Any) -> np.ndarray:
    """Ours or a peer's as an array, from wherever they are."""
    if isinstance(logits, Tensor):
        return logits.numpy()
    return logits.cpu().numpy() if hasattr(logits, "cpu") else to_cpu(logits)


# Our own --------------------------------------------------------------------------------------------------------------


def ours(training: bool, device: str = "cpu") -> dict[str, Peer]:
    """What we run or train a network with, the fastest first."""
    if training and device == "cuda":
        return {OURS: Peer((), partial(our_training, device=device), exact=partial(our_training, eager=True))}
    if training:
        eager = Peer((), partial(our_training, eager=True))
        return {f"{OURS} compiled": Peer((), our_training), f"{OURS} eager": eager}
    return {
        f"{OURS} compiled": Peer((), partial(_compiled, device=device)),
        f"{OURS} eager": Peer((), partial(_eager, device=device)),
    }


def _compiled(model: Module, x: np.ndarray, threads: int, device: str) -> Run:
    numba.set_num_threads(threads)
    image, fast = Tensor(x).to(device), compile(model.eval().to(device))
    return lambda: fast(image)


def _eager(model: Module, x: np.ndarray, threads: int, device: str) -> Run:
    numba.set_num_threads(threads)
    image = Tensor(x).to(device)
    model.eval().to(device)

    def run() -> Tensor:
        with no_grad():
            return model(image)

    return run
