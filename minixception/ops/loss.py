"""Losses: cross entropy for one class of k, binary cross entropy for each class independently.

    cross entropy         L = -1/n sum_ij q_ij log p_ij,                p = softmax(logits)
                          q = (1 - s) onehot(labels) + s/k
    binary cross entropy  L = -1/(n k) sum_ij (t_ij log p_ij + (1 - t_ij) log(1 - p_ij)),  p = sigmoid(logits)

Shapes: logits (n, k), labels (n,) of integers 0 .. k-1, targets like logits; L is a scalar. s is the label
smoothing.
Backward: cross entropy         dlogits = (p - q) / n
          binary cross entropy  dlogits = (p - t) / (n k),   dtargets = -logits / (n k)        each times dL
Neither forms log p from p: a logit of -1e4 has p = 0, but log p = -1e4.
Cost: no MACs; one or two exponentials per logit.
Source: label smoothing is Szegedy et al. 2015, "Rethinking the Inception Architecture", section 7. Binary
cross entropy is for images with several labels each, as in the JFT data set of Chollet 2017, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.extending import register_jitable

from ..cpu import memory
from ..cpu.jit import loops, parallel, prange
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor, tensor
from ..errors import ArgumentError, LabelError, ShapeError
from ..gpu.kernel import THREADS, blocks, cuda, dtype, elementwise, empty, flat, kernel
from ..gpu.reduce import block_sum, sums
from .softmax import LOG_SOFTMAX, launch_rows

# 1. Definition ----------------------------------------------------------------------------------------------


def _cross_entropy_forward_numpy(
    logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float
) -> tuple[np.ndarray, tuple[Any, ...]]:
    n = len(labels)
    z = logits - logits.max(axis=1, keepdims=True)  # (n, k), at most 0
    e = np.exp(z)  # (n, k)
    total = e.sum(axis=1)  # (n,)
    loss = np.log(total) - z[np.arange(n), labels]  # (n,)
    if label_smoothing:  # a logit of -inf costs nothing without smoothing: 0 * inf would be NaN
        uniform = np.log(total) - z.mean(axis=1)  # (n,)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform  # (n,)
    return np.asarray(loss.mean()), (e / total[:, None], labels, label_smoothing)


def _cross_entropy_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, None]:
    p, labels, label_smoothing = saved
    n, k = p.shape
    difference = p - label_smoothing / k  # (n, k)
    difference[np.arange(n), labels] -= 1 - label_smoothing
    return difference * (dy / n), None


def _binary_cross_entropy_forward_numpy(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    # -log p = log(1 + e^-x), and -log(1 - p) = x + log(1 + e^-x); written so that e is never above 1
    losses = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))  # (n, k)
    return np.asarray(losses.mean()), (logits, targets)


def _binary_cross_entropy_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    logits, targets = saved
    e = np.exp(-np.abs(logits))  # (n, k)
    p = np.where(logits >= 0, 1, e) / (1 + e)  # (n, k)
    scale = dy / logits.size
    return (p - targets) * scale, -logits * scale


# 2. CPU -----------------------------------------------------------------------------------------------------
# Both losses once more, for one row, which is one task of the fast rung. Of cross entropy p is written where e^z was,
# the only array of the size of the logits. The backward passes read and write each such array once, microseconds at
# the sizes of a classifier's head, and stay with the definition.


@register_jitable(error_model="numpy", fastmath={"contract"})
def _row_loss(logits, label, smoothing, p):
    """The loss of one image; its probabilities go to p."""
    k = logits.size
    top = logits.max()
    total, distance = p.dtype.type(0), p.dtype.type(0)
    for j in range(k):
        z = logits[j] - top
        p[j] = math.exp(z)
        total += p[j]
        distance -= z
    for j in range(k):
        p[j] /= total
    log_total = math.log(total)
    loss = log_total + (top - logits[label])  # both exact to their own size, however large the logits
    if smoothing > 0:
        loss = (1 - smoothing) * loss + smoothing * (log_total + distance / k)
    return loss


@loops
def _cross_entropy_loops(logits, labels, smoothing, p, losses):
    for i in range(labels.size):
        losses[i] = _row_loss(logits[i], labels[i], smoothing, p[i])


@parallel
def _cross_entropy_parallel(logits, labels, smoothing, p, losses):
    for i in prange(labels.size):  # a task is one row, so no sum depends on the number of threads
        losses[i] = _row_loss(logits[i], labels[i], smoothing, p[i])


def _cross_entropy_rung(kernel: Any) -> Rung:
    """The losses of the rows from a kernel; their mean, and the backward pass, from NumPy."""

    def forward(
        logits: np.ndarray, labels: np.ndarray, *, label_smoothing: float
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        p = memory.empty(logits.shape, logits.dtype)
        losses = memory.empty(labels.shape, logits.dtype)
        kernel(logits, labels, float(label_smoothing), p, losses)
        return np.asarray(losses.mean()), (p, labels, label_smoothing)

    return Rung(forward, _cross_entropy_backward_numpy)


@register_jitable(error_model="numpy", fastmath={"contract"})
def _row_binary_loss(logits, targets):
    """The summed loss of one image's classes."""
    total = logits.dtype.type(0)
    for j in range(logits.size):
        x = logits[j]
        total += max(x, type(x)(0)) - x * targets[j] + math.log1p(math.exp(-abs(x)))
    return total


@loops
def _binary_cross_entropy_loops(logits, targets, losses):
    for i in range(losses.size):
        losses[i] = _row_binary_loss(logits[i], targets[i])


@parallel
def _binary_cross_entropy_parallel(logits, targets, losses):
    for i in prange(losses.size):
        losses[i] = _row_binary_loss(logits[i], targets[i])


def _binary_cross_entropy_rung(kernel: Any) -> Rung:
    """The losses of the rows from a kernel; their mean, and the backward pass, from NumPy."""

    def forward(logits: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
        rows = logits.reshape(len(logits), -1)  # (n, k)
        losses = memory.empty((len(rows),), logits.dtype)
        kernel(rows, targets.reshape(rows.shape), losses)
        return np.asarray(losses.sum() / logits.dtype.type(logits.size)), (logits, targets)

    return Rung(forward, _binary_cross_entropy_backward_numpy)


# 3. GPU -----------------------------------------------------------------------------------------------------
# The loss of each row, or of each element, is computed on its own; their mean is the deterministic one of
# gpu/reduce.py. Cross entropy starts from log_softmax, a block for each row: the next kernel reads log p, adds
# up the row's loss and leaves p in its place, which is what the backward pass needs. Arrays of the size of the logits
# are tiny beside a network's activations: what counts here is the few microseconds that each launch takes.


@kernel
def _row_losses_cuda(p, labels, smoothing, losses):
    """p (n, k) holds log p before and p after."""
    row = cuda.blockIdx.x
    loss = dtype(0)
    for j in range(cuda.threadIdx.x, p.shape[1], cuda.blockDim.x):
        log_p = p[row, j]
        p[row, j] = math.exp(log_p)
        target = smoothing / dtype(p.shape[1])
        if j == labels[row]:
            target += dtype(1) - smoothing
        if target > dtype(0):  # log p of -inf costs nothing where nothing is asked: 0 * inf would be NaN
            loss -= target * log_p
    loss = block_sum(loss)
    if cuda.threadIdx.x == 0:
        losses[row] = loss


@kernel
def _cross_entropy_gradient_cuda(p, labels, smoothing, dy, dlogits):
    row = cuda.blockIdx.x
    scale = dy[0] / dtype(p.shape[0])
    for j in range(cuda.threadIdx.x, p.shape[1], cuda.blockDim.x):
        target = smoothing / dtype(p.shape[1])
        if j == labels[row]:
            target += dtype(1) - smoothing
        dlogits[row, j] = (p[row, j] - target) * scale


def _cross_entropy_forward_cuda(logits: Any, labels: Any, *, label_smoothing: float) -> tuple[Any, tuple[Any, ...]]:
    p, _ = LOG_SOFTMAX.rungs["cuda"].forward(logits)  # log p so far
    losses = empty(labels.shape, logits.dtype)
    launch_rows(_row_losses_cuda, p, labels, logits.dtype.type(label_smoothing), losses)
    return sums(losses, (0,), mean=True), (p, labels, label_smoothing)


def _cross_entropy_backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, None]:
    p, labels, label_smoothing = saved
    dlogits = empty(p.shape, p.dtype)
    smoothing = p.dtype.type(label_smoothing)
    launch_rows(_cross_entropy_gradient_cuda, p, labels, smoothing, flat(dy), dlogits)
    return dlogits, None


@kernel
def _binary_losses_cuda(logits, targets, losses):
    i = cuda.grid(1)
    if i < losses.size:
        x = logits[i]
        losses[i] = max(x, dtype(0)) - x * targets[i] + math.log1p(math.exp(-abs(x)))


@kernel
def _binary_cross_entropy_gradient_cuda(logits, targets, dy, dlogits, dtargets):
    i = cuda.grid(1)
    if i < logits.size:
        x = logits[i]
        scale = dy[0] / dtype(logits.size)
        e = math.exp(-abs(x))
        p = (dtype(1) if x >= 0 else e) / (dtype(1) + e)
        dlogits[i] = (p - targets[i]) * scale
        dtargets[i] = -x * scale


def _binary_cross_entropy_forward_cuda(logits: Any, targets: Any) -> tuple[Any, tuple[Any, ...]]:
    losses = elementwise(_binary_losses_cuda, logits, targets)
    return sums(losses, tuple(range(losses.ndim)), mean=True), (logits, targets)


def _binary_cross_entropy_backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any]:
    logits, targets = saved
    dlogits, dtargets = empty(logits.shape, logits.dtype), empty(logits.shape, logits.dtype)
    arrays = map(flat, (logits, targets, dy, dlogits, dtargets))
    _binary_cross_entropy_gradient_cuda[blocks(logits.size), THREADS](*arrays)
    return dlogits, dtargets


# 4. Operator ------------------------------------------------------------------------------------------------


def _cross_entropy_shape(logits: Shape, labels: Shape, *, label_smoothing: float) -> Shape:
    if len(logits) != 2 or 0 in logits:
        raise ShapeError(f"cross_entropy: logits must be (n, k), one row per image, got {logits}")
    if labels != logits[:1]:
        raise ShapeError(f"cross_entropy: labels must be ({logits[0]},), one class per row of logits, got {labels}")
    if not 0 <= label_smoothing < 1:
        raise ArgumentError(f"cross_entropy: label_smoothing must be at least 0 and below 1, got {label_smoothing}")
    return ()


def _binary_cross_entropy_shape(logits: Shape, targets: Shape) -> Shape:
    if 0 in logits:
        raise ShapeError(
            f"binary_cross_entropy_with_logits: logits must have elements to take the mean of, got {logits}"
        )
    if targets != logits:
        raise ShapeError(
            f"binary_cross_entropy_with_logits: targets must have the shape of logits {logits}, got {targets}"
        )
    return ()


def _cross_entropy_sample(draw: Draw) -> Case:
    n, k = draw.integer(1, 5), draw.integer(1, 12)
    labels = np.array([draw.integer(0, k - 1) for _ in range(n)])
    return Case((draw.normal(n, k), labels), {"label_smoothing": draw.choice((0.0, 0.1))})


def _binary_cross_entropy_sample(draw: Draw) -> Case:
    shape = draw.integer(1, 5), draw.integer(1, 12)
    return Case((draw.distinct(*shape), draw.normal(*shape)))


CROSS_ENTROPY = Op(
    name="cross_entropy",
    rungs={
        "numpy": Rung(_cross_entropy_forward_numpy, _cross_entropy_backward_numpy),
        "loops": _cross_entropy_rung(_cross_entropy_loops),
        "cpu": _cross_entropy_rung(_cross_entropy_parallel),
        "cuda": Rung(_cross_entropy_forward_cuda, _cross_entropy_backward_cuda),
    },
    shape=_cross_entropy_shape,
    sample=_cross_entropy_sample,
    integer_inputs=frozenset({1}),
)
BINARY_CROSS_ENTROPY = Op(
    name="binary_cross_entropy_with_logits",
    rungs={
        "numpy": Rung(_binary_cross_entropy_forward_numpy, _binary_cross_entropy_backward_numpy),
        "loops": _binary_cross_entropy_rung(_binary_cross_entropy_loops),
        "cpu": _binary_cross_entropy_rung(_binary_cross_entropy_parallel),
        "cuda": Rung(_binary_cross_entropy_forward_cuda, _binary_cross_entropy_backward_cuda),
    },
    shape=_binary_cross_entropy_shape,
    sample=_binary_cross_entropy_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, labels: Tensor | np.ndarray | Sequence[int], label_smoothing: float = 0.0) -> Tensor:
    """Mean over the batch of -log p(label), for logits (n, k) and labels (n,); a scalar of shape ().

    label_smoothing moves that share of the target from the label to all k classes evenly. Raises LabelError
    for a label that is not an integer from 0 to k - 1, ShapeError if the sizes disagree, ArgumentError for a
    smoothing outside [0, 1).

    >>> import minixception as mx
    >>> cross_entropy(mx.tensor([[0.0, 0.0], [0.0, 1000.0]]), [0, 1]).item()
    0.3465735912322998
    """
    classes = (0, *logits.shape)[-1]  # a scalar has none
    return CROSS_ENTROPY(logits, Tensor(checked_labels(labels, classes)), label_smoothing=label_smoothing)


def checked_labels(labels: Tensor | np.ndarray | Sequence[int], k: int) -> np.ndarray:
    """The labels as an array of int64, on the processor; LabelError unless they are integers from 0 to k - 1."""
    array = labels.numpy() if isinstance(labels, Tensor) else np.asarray(labels)  # from the GPU if need be
    expected = f"cross_entropy: labels must be integers from 0 to {k - 1}, as there are {k} logits for each image"
    if array.dtype.kind not in "iu":
        raise LabelError(f"{expected}; got dtype {array.dtype}, {array.ravel()[:1]}")
    wrong = np.flatnonzero((array < 0) | (array >= k))
    if wrong.size:
        raise LabelError(f"{expected}; got {array.ravel()[wrong[0]]} at position {wrong[0]}")
    return np.asarray(array, np.int64, order="C")


def binary_cross_entropy_with_logits(logits: Tensor, targets: Tensor | np.ndarray | Sequence[Any]) -> Tensor:
    """Mean over all elements of the binary cross entropy of sigmoid(logits) and targets; of shape ().

    Finite for logits of any finite size. Raises ShapeError if the shapes differ, DTypeError for mixed dtypes;
    targets that are no floating tensor take the dtype of logits.

    >>> import minixception as mx
    >>> binary_cross_entropy_with_logits(mx.tensor([[10000.0, -10000.0]]), [[1, 0]]).item()
    0.0
    """
    if not (isinstance(targets, Tensor) and targets.dtype.kind == "f"):
        targets = tensor(targets.numpy() if isinstance(targets, Tensor) else targets, logits.dtype)
    return BINARY_CROSS_ENTROPY(logits, targets)
