"""Loss and accuracy of a batch as Python floats: from the GPU in one small copy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..engine.tensor import Tensor
from ..gpu.device import to_cpu, to_gpu
from ..gpu.kernel import cuda, dtype, empty, kernel
from ..gpu.reduce import block_sum, row_threads
from .metrics import topk_hits


def measure(loss: Tensor, logits: Tensor, labels: np.ndarray, ks: Sequence[int] = (1,)) -> list[float]:
    """The loss, and the top-k accuracy of logits (n, classes) for labels (n,) for each k; NaN beside a loss not finite.

    Of tensors on the GPU n + 1 values are read back, in one copy, which waits for the GPU to finish its queue. Of equal
    logits the class with the lower index ranks higher. Labels must be classes: ``cross_entropy`` has seen to it.

    >>> import minixception as mx
    >>> logits, labels = mx.tensor([[0.0, 0.0], [0.0, 1000.0]]), np.array([0, 1])
    >>> measure(mx.cross_entropy(logits, labels), logits, labels)
    [0.3465735912322998, 1.0]
    """
    if logits.device == "cuda":
        return read(loss_and_ranks(loss, logits, to_gpu(labels)), ks)
    return _summary(loss.item(), partial(topk_hits, logits.numpy(), labels), ks)


def read(values: Any, ks: Sequence[int] = (1,)) -> list[float]:
    """What ``measure`` returns, of an array of ``loss_and_ranks``: waits for the GPU."""
    value, *ranks = to_cpu(values).tolist()
    return _summary(value, partial(np.less, ranks), ks)


def _summary(value: float, hits: Callable[[int], np.ndarray], ks: Sequence[int]) -> list[float]:
    finite = math.isfinite(value)  # if not, there may be logits of NaN, which have no order
    return [value, *(float(np.mean(hits(k))) if finite else math.nan for k in ks)]


@kernel
def _write_loss_and_ranks(logits: Any, labels: Any, loss: Any, out: Any) -> None:
    """out[0]: the loss; out[1 + row]: how many classes of this row rank before its own. A block for each row."""
    row = cuda.blockIdx.x
    label = labels[row]
    own = logits[row, label]
    before = dtype(0)  # a count; exact in float32, too, up to 16 million classes
    for j in range(cuda.threadIdx.x, logits.shape[1], cuda.blockDim.x):
        if logits[row, j] > own or (logits[row, j] == own and j < label):
            before += dtype(1)
    before = block_sum(before)
    if cuda.threadIdx.x == 0:
        out[1 + row] = before
        if row == 0:
            out[0] = loss[0]


def loss_and_ranks(loss: Tensor, logits: Tensor, labels: Any) -> Any:
    """On the GPU (1 + n,): the loss, and for each image how many classes rank before its label's."""
    n, classes = logits.shape
    out: Any = empty((1 + n,), logits.dtype)
    _write_loss_and_ranks[n, row_threads(classes)](logits.data, labels, loss.data.reshape(1), out)
    return out
