"""Whole networks: Xception's forward pass, eager and compiled, and training steps, beside other libraries.

The bound counts the multiply-accumulates of convolutions and matrix products: once for a forward pass, three times for
a training step (forward, and one product for each of two gradients). Bytes: parameters, input and output, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cost
from ..infer import compile
from ..models import Xception, mini_xception
from ..nn import Module
from ..ops import cross_entropy
from ..optim import SGD
from ..random import seed
from ..tensor import Tensor, no_grad
from .limits import Limits
from .measurement import EQUAL, OURS, Measurement, require_equal, summary
from .peers import Peer
from .threads import numba_threads
from .timing import interleaved

if TYPE_CHECKING:
    from tqdm import tqdm

_LR = 0.01
_EQUAL_GRADIENTS = 1e-3  # a batchnorm of few values magnifies what rounding left at the layer before


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


def measure(workload: Workload, limits: Limits, repeats: int, peers: Mapping[str, Peer], bar: tqdm[Any]) -> Measurement:
    """The network on ``limits.threads`` threads beside ``peers`` of its kind; ``repeats`` steps of the bar.

    Raises ArithmeticError if logits differ by more than 1e-5, or gradients by 1e-3 (relative L2): nothing is timed
    then.
    """
    seed(0)
    model, rng = workload.model(), np.random.default_rng(0)
    assert model.input_shape is not None
    x = rng.uniform(-1, 1, (workload.batch, *model.input_shape)).astype(np.float32)
    macs = workload.batch * cost.table(model, model.input_shape).macs
    nbytes = 4 * model.num_parameters() + x.nbytes
    with numba_threads(limits.threads):
        build = _training if workload.training else _inference
        functions, differences = build(model, x, limits.threads, peers, bar.set_postfix_str)
        bar.set_postfix_str("")
        times = interleaved(functions, repeats, bar.update)
    kind, flop = ("training step", 6 * macs) if workload.training else ("forward", 2 * macs)
    name = f"{workload.name}, batch {workload.batch}"
    return summary(name, kind, limits, flop, nbytes, times, differences)


Job = tuple[dict[str, Callable[[], Any]], dict[str, float]]  # functions to time, differences of their results


def _inference(model: Module, x: np.ndarray, threads: int, peers: Mapping[str, Peer], say: Callable[[str], Any]) -> Job:
    model.eval()
    fast = compile(model)

    def eager() -> np.ndarray:
        with no_grad():
            return model(Tensor(x)).numpy()

    runs: dict[str, Callable[[], np.ndarray]] = {OURS: lambda: fast(x), f"{OURS} eager": eager}
    for name, peer in peers.items():
        say(f"building {name}")
        runs[name] = peer.build(model, x, threads)
    logits = runs[OURS]()
    others = [name for name in runs if name != OURS]
    return dict(runs), {name: require_equal(f"logits, {name}", logits, runs[name](), EQUAL) for name in others}


def _training(model: Module, x: np.ndarray, threads: int, peers: Mapping[str, Peer], say: Callable[[str], Any]) -> Job:
    model.train()
    labels = np.random.default_rng(1).integers(0, 10, len(x))
    sgd = SGD(model.parameters(), lr=_LR, momentum=0.9)
    theirs = {}
    for name, peer in peers.items():
        say(f"building {name}")
        theirs[name] = peer.build(model, x, labels, threads, _LR)  # before our first step changes the weights

    def step() -> None:
        sgd.zero_grad()
        cross_entropy(model(Tensor(x)), labels).backward()
        sgd.step()

    step()
    ours = np.concatenate([p.grad.ravel() for p in model.parameters() if p.grad is not None])
    differences = {}
    for name, (their_step, gradients) in theirs.items():
        their_step()
        expected = np.concatenate([gradient.ravel() for gradient in gradients()])
        differences[name] = require_equal(f"gradients, {name}", ours, expected, _EQUAL_GRADIENTS)
    return {OURS: step} | {name: their_step for name, (their_step, _) in theirs.items()}, differences
