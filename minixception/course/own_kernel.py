"""A student's own kernel: judged like any rung, and used by the whole network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from typing import Any

import numpy as np

from ..engine.op import Case, Op, RandomDraw, Rung
from ..errors import ArgumentError
from ..ops import OPERATORS
from ..ops.separable.definition import chain_backward, chain_forward
from .checks import Function, Verdict, judge, rungs

_SHORT = {"depthwise": "depthwise_conv2d", "pointwise": "pointwise_conv2d", "batchnorm": "batch_norm"}
_TIMED = ("depthwise_conv2d", "pointwise_conv2d")


def check_kernel(operator: str, forward: Callable[..., Any], time: bool = True) -> Verdict:
    """Is this forward pass right, and how fast is it beside our rungs and the machine's limit?

    operator: a name in ``mx.ops.OPERATORS``, or "depthwise", "pointwise", "batchnorm". forward: called like any rung's,
    ``forward(*arrays, **params)`` -> y, or (y, saved). Held to the definition on random cases in float64 and float32,
    in a process of its own. time: for depthwise and pointwise convolution, also on one thread at a shape of Xception's
    middle flow; takes seconds.
    Raises ArgumentError for an operator that does not exist, and where forward is not a function.

    >>> from minixception.ops.depthwise.definition import forward_numpy
    >>> bool(check_kernel("depthwise", forward_numpy, time=False))
    True
    """
    op = _operator(operator)
    if not callable(forward):
        raise ArgumentError(f"forward must be a function, got {type(forward).__name__}")

    @wraps(forward, updated=())
    def y(*arrays: np.ndarray, **params: Any) -> Any:
        result = forward(*arrays, **params)
        return result[0] if isinstance(result, tuple) else result

    return judge(_exercise(op), y, time)


def _exercise(op: Op) -> Function:
    """To write this operator's forward pass."""
    exercise = Function(
        name=op.name,
        notebook=11,
        title=f"A kernel of your own for {op.name}",
        reference=lambda *arrays, **params: np.asarray(op.rungs["numpy"].forward(*arrays, **params)[0]),
        draw=op.sample,
        allows=lambda name, params: name != op.name,  # it may be put together of others
    )
    if op.name not in _TIMED:
        return exercise
    from ..bench.limits import FOOTPRINTS, measure  # late: importing the package brings no measurement
    from ..bench.records.ladder import CASES

    layer = next(case for case in CASES if case.operator == op.name)  # of Xception's middle flow
    draw = RandomDraw(0, np.float32)
    return replace(
        exercise,
        peers=partial(rungs, op.name, names=("numpy", "loops", "cpu")),
        timed=lambda: Case(tuple(draw.normal(*shape) for shape in layer.shapes), layer.params),
        bound=lambda: measure(1, footprints=FOOTPRINTS[:1]).seconds(*layer.counts("forward")),
    )


@contextmanager
def use_kernel(
    operator: str, forward: Callable[..., Any], backward: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Inside of the block, networks on the default backend run this kernel in the place of ours.

    forward: as for ``check_kernel``. backward: (dy, saved) -> gradients, with what our rungs save; ours without it.
    Where forward returns y alone, our own forward pass finds what must be saved, once a backward pass asks for it.
    Separable convolution, which has a fused kernel of its own, is then put together of depthwise and pointwise. Raises
    ArgumentError for an operator that does not exist, and at the end of a block in which forward was never called: what
    was seen or timed there was ours.

    >>> import minixception as mx
    >>> from minixception.ops.depthwise.definition import forward_numpy
    >>> model = mx.models.mini_xception(10)
    >>> with use_kernel("depthwise", forward_numpy):
    ...     model(mx.tensor(np.zeros((1, 32, 32, 3), np.float32))).shape
    (1, 10)
    """
    op = _operator(operator)
    ours = op.rungs["cpu"]
    is_called = False

    def forward_and_saved(*arrays: np.ndarray, **params: Any) -> tuple[np.ndarray, Any]:
        nonlocal is_called
        is_called = True
        result = forward(*arrays, **params)
        return result if isinstance(result, tuple) else (result, partial(ours.forward, *arrays, **params))

    def backward_from_saved(dy: np.ndarray, saved: Any, **wanted: Any) -> Any:
        if isinstance(saved, partial):  # not computed before: predicting takes no time for it
            saved = saved()[1]
        return (backward or ours.backward)(dy, saved, **wanted)

    replaced = {op: Rung(forward_and_saved, backward_from_saved, ours.selective and backward is None)}
    if op.name in ("depthwise_conv2d", "pointwise_conv2d"):
        replaced |= _separable(op.name, replaced[op])
    before = {changed: changed.rungs["cpu"] for changed in replaced}
    try:
        for changed, rung in replaced.items():
            changed.rungs["cpu"] = rung
        yield
    finally:
        for changed, rung in before.items():
            changed.rungs["cpu"] = rung
    if not is_called:
        raise ArgumentError(
            f"the kernel for {op.name} was never called in this block. Compiled models and other backends than 'cpu' "
            "do not use it: call the model itself, in here"
        )


def _separable(name: str, rung: Rung) -> dict[Op, Rung]:
    """The separable convolutions, put together of this rung and our other one."""
    rungs = {part: OPERATORS[part].rungs["cpu"] for part in ("depthwise_conv2d", "pointwise_conv2d")} | {name: rung}
    depthwise, pointwise = rungs["depthwise_conv2d"], rungs["pointwise_conv2d"]
    forward = chain_forward(depthwise.forward, pointwise.forward)
    backward = chain_backward(depthwise.forward, depthwise.backward, pointwise.backward)
    return {
        OPERATORS["separable_conv2d"]: Rung(partial(forward, relu=False), backward),
        OPERATORS["relu_separable_conv2d"]: Rung(partial(forward, relu=True), backward),
    }


def _operator(name: str) -> Op:
    full = _SHORT.get(name, name)
    if full not in OPERATORS:
        raise ArgumentError(f"operator must be one of {', '.join((*_SHORT, *OPERATORS))}, got {name!r}")
    return OPERATORS[full]
