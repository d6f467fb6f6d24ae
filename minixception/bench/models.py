"""Whole networks: Xception's forward pass, eager and compiled, and training steps, beside other libraries.

The bound counts the multiply-accumulates of convolutions and matrix products: once for a forward pass, three times for
a training step (forward, and one product for each of two gradients). Bytes: parameters, input and output, once.

Results are compared before anything is timed. Logits must be equal to float32 rounding. Gradients cannot be: many
layers on, rounding has opened or closed a ReLU on one side only, and one such gate moves them a thousand times as far
as rounding alone. In float64 next to none is so close to zero. There all must agree, and through three steps, which
shows a learning rate or a momentum that differs too; and in float32 each must be near its own gradients in float64.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import cost
from ..models import Xception, mini_xception
from ..timing import in_turn
from .contestants import Asked, Contestant, Workload
from .measurement import Bound, Measurement, distance, require_equal, require_near, summary
from .peers import Peer
from .threads import numba_threads

if TYPE_CHECKING:
    from tqdm import tqdm

WORKLOADS = (
    Workload("Xception 299", Xception, 1, training=False),
    Workload("Xception 299", Xception, 8, training=False),
    Workload("Xception 299", Xception, 4, training=True),
    Workload("mini_xception 32", mini_xception, 64, training=True),
)

_SAME = 1e-9  # relative L2 distance of gradients in float64 that are the same
_FLIPPED = 5e-2  # of those in float32 from those in float64: seven times what rounding makes of Xception's

Start = Callable[[Callable[[], Contestant]], Asked]


def measure(
    workload: Workload,
    limits: Bound,
    repeats: int,
    contestants: Mapping[str, Peer],
    bar: tqdm[Any],
    start: Start,
) -> Measurement:
    """The network on ``limits.threads`` threads by all ``contestants``, our fastest first.

    start: ``Apart`` or ``Here``, where they are made; repeats: as many steps of the bar.

    A peer that cannot be built or run is left out with a line; ChildProcessError if it is ours, or if it ends while it
    is timed. ArithmeticError if results are not equal (see above): nothing is timed then.
    """
    model = workload.model()
    assert model.input_shape is not None
    macs = workload.batch * cost.table(model, model.input_shape).macs
    nbytes = 4 * (model.num_parameters() + workload.batch * int(np.prod(model.input_shape)))
    with (
        numba_threads(limits.threads),
        equal(workload, limits.threads, contestants, bar, start) as (running, differences),
    ):
        times = in_turn({who: partial(one.ask, "seconds") for who, one in running.items()}, repeats, bar.update)
    kind, flop = ("training step", 6 * macs) if workload.training else ("forward", 2 * macs)
    name = f"{workload.name}, batch {workload.batch}"
    return summary(name, kind, limits, flop, nbytes, times, differences)


@contextmanager
def equal(
    workload: Workload, threads: int, contestants: Mapping[str, Peer], bar: tqdm[Any], start: Start
) -> Iterator[tuple[dict[str, Asked], dict[str, float]]]:
    """The contestants, who live as long as the block, and how much their results differ; errors as of ``measure``."""
    running: dict[str, Asked] = {}
    differences: dict[str, float] = {}
    reference: list[np.ndarray] = []
    with ExitStack() as stack:
        for who, peer in contestants.items():
            bar.set_postfix_str(f"building {who}")
            exact = []
            try:
                if workload.training:
                    with start(partial(Contestant, workload, peer.exact or peer.build, threads, np.float64)) as one:
                        exact = one.ask("results")
                one = stack.enter_context(start(partial(Contestant, workload, peer.build, threads, np.float32)))
                results = one.ask("results")
            except ChildProcessError as error:
                if not peer.needs:
                    raise ChildProcessError(f"{who}: {error}") from None
                bar.write(f"{who} is left out: {error}", file=sys.stderr)
                continue
            running[who], reference = one, reference or exact or results
            if workload.training:
                differences[who] = _require_gradients(who, results, exact, reference)
            elif len(running) > 1:
                differences[who] = require_equal(f"logits, {who}", results[0], reference[0])
        bar.set_postfix_str("")
        yield running, differences


def _require_gradients(
    who: str, results: list[np.ndarray], exact: list[np.ndarray], reference: list[np.ndarray]
) -> float:
    """The distance of the first gradients from what they are in float64, if all are what they should be."""
    for step, mine, ours in zip(("first", "third"), exact, reference, strict=True):
        require_near(f"gradients of the {step} step in float64, {who}", distance(mine, ours), _SAME)
    return require_near(f"gradients in float32 and in float64, {who}", distance(results[0], exact[0]), _FLIPPED)
