"""Whole networks: Xception's forward pass, eager and compiled, and training steps, beside other libraries.

The bound counts the multiply-accumulates of convolutions and matrix products: once for a forward pass, three times for
a training step (forward, and one product for each of two gradients). Bytes: parameters, input and output, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compiler import compile
from ..engine.random import seed
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..gpu.device import to_cpu
from ..graph import cost
from ..models import Xception, mini_xception
from ..nn import Module
from ..timing import Clock, interleaved, wall_clock
from .measurement import OURS, Bound, Measurement, distance, require_equal, require_near, summary
from .peers import Peer, Step
from .threads import numba_threads
from .training import our_training, random_batch

if TYPE_CHECKING:
    from tqdm import tqdm

_LR = 0.01


@dataclass(frozen=True)
class Workload:
    """A network, its batch, and whether it is trained or only run."""

    name: str
    model: Callable[[], Module]
    batch: int
    training: bool


WORKLOADS = (
    Workload("Xception 299", Xception, 1, training=False),
    Workload("Xception 299", Xception, 8, training=False),
    Workload("Xception 299", Xception, 4, training=True),
    Workload("mini_xception 32", mini_xception, 64, training=True),
)


def measure(
    workload: Workload,
    limits: Bound,
    repeats: int,
    peers: Mapping[str, Peer],
    bar: tqdm[Any],
    device: str = "cpu",
    clock: Clock = wall_clock,
) -> Measurement:
    """The network on ``limits.threads`` threads beside ``peers`` of its kind; ``repeats`` steps of the bar. ``device``
    is ours: the peers know their own.

    Raises ArithmeticError if logits differ by more than 1e-5 (relative L2), or our gradients are more than twice as far
    from a peer's in float64 as the peer's own in float32: nothing is timed then.
    """
    seed(0)
    model = workload.model()
    x, labels = random_batch(model, workload.batch)
    assert model.input_shape is not None  # random_batch has asked for it
    macs = workload.batch * cost.table(model, model.input_shape).macs
    nbytes = 4 * model.num_parameters() + x.nbytes
    with numba_threads(limits.threads):
        build = partial(_training, labels=labels) if workload.training else _inference
        functions, differences = build(model, x, limits.threads, peers, bar.set_postfix_str, device)
        bar.set_postfix_str("")
        times = interleaved(functions, repeats, bar.update, clock)
    kind, flop = ("training step", 6 * macs) if workload.training else ("forward", 2 * macs)
    name = f"{workload.name}, batch {workload.batch}"
    return summary(name, kind, limits, flop, nbytes, times, differences)


Job = tuple[dict[str, Callable[[], Any]], dict[str, float]]  # functions to time, differences of their results


def _inference(
    model: Module, x: np.ndarray, threads: int, peers: Mapping[str, Peer], say: Callable[[str], Any], device: str
) -> Job:
    model.eval()
    others: dict[str, Callable[[], Any]] = {}
    for name, peer in peers.items():  # before our own weights move
        say(f"building {name}")
        others[name] = peer.build(model, x, threads)
    image = Tensor(x).to(device)
    fast = compile(model.to(device))

    def eager() -> Tensor:
        with no_grad():
            return model(image)

    runs = {f"{OURS} compiled": lambda: fast(image), f"{OURS} eager": eager, **others}
    logits = _numpy(fast(image))
    rest = list(runs)[1:]
    return runs, {name: require_equal(f"logits, {name}", logits, _numpy(runs[name]())) for name in rest}


def _numpy(logits: Any) -> np.ndarray:
    """Ours or a peer's as an array, from wherever they are."""
    if isinstance(logits, Tensor):
        return logits.numpy()
    return logits.cpu().numpy() if hasattr(logits, "cpu") else to_cpu(logits)


def _training(
    model: Module,
    x: np.ndarray,
    threads: int,
    peers: Mapping[str, Peer],
    say: Callable[[str], Any],
    device: str,
    labels: np.ndarray,
) -> Job:
    """Many layers on, rounding has grown to a thousandth or more of a gradient: float64 says how much is due to it."""
    theirs, exact = {}, {}
    for name, peer in peers.items():  # before our own weights move and our first step changes them
        say(f"building {name}")
        exact[name] = _gradients(peer.build(model, x.astype(np.float64), labels, threads, _LR))
        theirs[name] = peer.build(model, x, labels, threads, _LR)
    step, gradients = our_training(model, x, labels, threads, _LR, device)
    ours = _gradients((step, gradients))
    differences = {}
    for name, built in theirs.items():
        differences[name] = distance(_gradients(built), exact[name])
        off = distance(ours, exact[name])
        differences[OURS] = require_near(f"gradients, {name}", off, 2 * differences[name])
    return {OURS: step} | {name: their_step for name, (their_step, _) in theirs.items()}, differences


def _gradients(job: Step) -> np.ndarray:
    """All gradients of one step, in a row."""
    step, gradients = job
    step()
    return np.concatenate([gradient.ravel() for gradient in gradients()])
