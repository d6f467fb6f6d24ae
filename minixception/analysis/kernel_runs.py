"""Whatever launches a CUDA kernel, once: from which ``machine_code`` learns the kernels and their arguments.

A run computes nothing: arrays and launches go to a fake device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np


def of_operators(dtype: str, samples: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Every CUDA rung of every operator: its name, and a run forward and backward."""
    from ..engine.op import RandomDraw
    from ..ops import OPERATORS

    for op in OPERATORS.values():
        for name, rung in op.rungs.items():
            if name.startswith("cuda"):
                for seed in range(samples):
                    case = op.sample(RandomDraw(seed, dtype))
                    yield f"{op.name} {name}", partial(_run, rung, case)


def _run(rung: Any, case: Any) -> None:
    """Forward and backward."""
    from ..gpu.device import to_gpu

    y, saved = rung.forward(*map(to_gpu, case.arrays), **case.params)
    rung.backward(to_gpu(np.ones(y.shape, y.dtype)), saved)


def others(dtype: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """What runs beside the rungs: gradients' sums, masks, running statistics, long products, optimisers, inference."""
    from .. import nn, ops, optim
    from ..compiler import compile
    from ..engine.accumulate import accumulate
    from ..engine.op import Case
    from ..engine.tensor import Tensor
    from ..gpu import peak
    from ..gpu.device import to_gpu
    from ..training.measure import measure

    def ones(*shape: int) -> Tensor:
        return Tensor(to_gpu(np.ones(shape, dtype)))

    def step(rule: Callable[..., Any], **options: float) -> None:
        weight = Tensor(ones(3).data, requires_grad=True)
        weight.grad = ones(3).data
        optimizer, averages = rule([weight], lr=0.1, **options), optim.EMA([weight], decay=0.9)
        optim.clip_grad_norm([weight], 0.1)  # the norm is 0 where nothing is computed, and nothing scaled
        optim.cuda.update(optim.cuda.scale, weight.grad, factor=0.1)
        optimizer.step()
        averages.update()

    def run(name: str, *shapes: tuple[int, ...], **params: Any) -> tuple[str, Callable[[], object]]:
        case = Case(tuple(np.ones(shape, dtype) for shape in shapes), params)
        return f"{name} cuda", partial(_run, ops.OPERATORS[name].rungs["cuda"], case)

    def infer() -> None:
        layers: list[nn.Module] = [nn.SeparableConv2d(3, 3)]
        for make in (partial(nn.Conv2d, kernel_size=3), nn.PointwiseConv2d):
            for after in ((nn.Activation(),), ()):  # with a ReLU behind the shift, and without
                for ci, co in ((3, 4), (4, 4), (4, 3)):
                    layers += make(ci, co), nn.BatchNorm2d(co), *after
        model = nn.Sequential(*layers).eval()
        for _, tensor in model.named_tensors():
            tensor.data = to_gpu(tensor.data.astype(dtype))
        compile(model)(np.zeros((1, 4, 4, 3), dtype))

    yield "compile cuda", infer
    yield "bench cuda", lambda: peak.copy(ones(512).data, ones(512).data)
    yield "bench cuda", lambda: peak.multiply_add(ones(512).data, 32)
    yield "accumulate cuda", lambda: accumulate(ones(3).data, ones(3).data)
    yield "dropout cuda", lambda: ops.dropout(ones(2, 3), 0.5, training=True)
    yield "measure cuda", lambda: measure(ones(1), ones(2, 3), np.zeros(2, np.int64))
    yield "batch_norm cuda", lambda: ops.batch_norm(ones(2, 3), ones(3), ones(3), ones(3), ones(3), training=True)
    yield run("pointwise_conv2d", (1, 64, 64, 2), (2, 2), stride=1)  # many pixels
    yield run("pointwise_conv2d", (1, 1, 1, 4), (4, 4), stride=1)  # from here on with vectors of four
    yield run("conv2d", (1, 1, 1, 4), (1, 1, 4, 4), stride=1, padding="same", groups=1)
    for stride in (1, 2):  # narrow segments
        yield run("conv2d", (1, 4, 4, 8), (3, 3, 2, 8), stride=stride, padding="same", groups=4)
    yield run("linear", (4, 4), (4, 4))
    yield run("linear", (4, 4), (4, 4), (4,))
    for momentum in (0.0, 0.9):
        yield "optim cuda", partial(step, optim.SGD, momentum=momentum)
        yield "optim cuda", partial(step, optim.RMSprop, momentum=momentum)
    yield "optim cuda", partial(step, optim.Adam)
