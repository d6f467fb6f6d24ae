"""The steps of a plan on the GPU: fused kernels, and the matrix products of the operators with another ending.

All launches of a call are the same in the next one: they are recorded and replayed as one graph (gpu/graph.py).
Results are taken from the recording's pool (``gpu.empty``). A result goes back to it when its last reader has been
launched. The next kernel may then be given its memory at once: all kernels run one after the other, in one stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from .. import ops
from ..engine.op import Shape
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..gpu.device import to_gpu
from ..gpu.gemm import MATRIX_A, MATRIX_B, MATRIX_C, register_tiled
from ..gpu.kernel import device_function, dtype, empty
from ..ops.conv2d import cuda as conv2d_cuda
from ..ops.separable.cuda import fused as run_fused
from ..ops.separable.cuda import pack
from .fold import Folded, Key, as_image
from .fuse import Step

Array = Any  # an array of the GPU

# How a product ends: with the shift that is left of a folded batchnorm, ``extra``, while its sums are in registers.


@device_function
def _shift(total: Any, extra: Any, j: Any) -> Any:
    return total + extra[np.uint64(j)]


@device_function
def _shift_relu(total: Any, extra: Any, j: Any) -> Any:
    total += extra[np.uint64(j)]
    return dtype(0) if total < dtype(0) else total  # NaN is not less and stays


class CudaKernels:
    """What runs the steps for one input shape."""

    def __init__(
        self, steps: list[Step], shapes: dict[int, Shape], dtype: np.dtype, result: int, weights: dict[Key, Folded]
    ) -> None:
        self.shapes, self.dtype, self.weights = shapes, dtype, weights

    @staticmethod
    def place(folded: dict[Key, Folded]) -> dict[Key, Folded]:
        """The weights on the GPU; those of separable convolutions in panels."""
        return {key: _moved(layer) for key, layer in folded.items()}

    memory = "pool"

    def describe(self, step: Step) -> tuple[str, str]:
        """What ``action`` runs, and where its result lies."""
        if not step.fused:
            return "layer", self.memory
        return "fused kernel" if self._is_one_kernel(step) else "operators", self.memory

    def _is_one_kernel(self, step: Step) -> bool:
        """A product's ending knows the column of a sum in its group: not its pixel's residual, not its channel."""
        folded = self.weights[step.key]
        return folded.depthwise is not None or (folded.groups == 1 and step.residual is None)

    # Actions ------------------------------------------------------------------------------------------------------

    def action(self, step: Step) -> Callable[..., Array]:
        """The function that runs a step: arrays of its inputs -> array of its result."""
        if not step.fused:
            return step.node.on_arrays
        folded = self.weights[step.key]
        if not self._is_one_kernel(step):
            return self._operators(step, folded)
        if folded.depthwise is not None:
            return self._separable(step, folded)
        return self._matrix(step, folded) if folded.kernel[:2] == (1, 1) else self._windows(step, folded)

    def _new(self, step: Step) -> Array:
        return empty(self.shapes[step.result], self.dtype)

    def _separable(self, step: Step, folded: Folded) -> Callable[..., Array]:
        def fused(x: Array, residual: Array | None = None) -> Array:
            return run_fused(
                x, folded.depthwise, folded.packed, self._new(step), folded.stride, folded.padding,
                step.relu_before, folded.bias, residual, step.relu_after,
            )  # fmt: skip

        return fused

    def _matrix(self, step: Step, folded: Folded) -> Callable[..., Array]:
        """Each pixel, or each row of a linear layer's input, times the weights."""
        product = register_tiled(MATRIX_A, MATRIX_B, MATRIX_C, _ending(step))
        *_, ci, co = folded.kernel

        def matrix(x: Array) -> Array:
            y = self._new(step)
            return product(x, folded.packed, y, (y.size // co, co, ci), folded.bias)

        return matrix

    def _windows(self, step: Step, folded: Folded) -> Callable[..., Array]:
        """Each window times the weights, as in ops/conv2d/cuda.py."""
        product = register_tiled(*conv2d_cuda.PRODUCT_LAYOUTS, _ending(step))
        w, co = folded.packed, folded.kernel[3]

        def windows(x: Array) -> Array:
            y = self._new(step)
            padded, places = conv2d_cuda.read_windows(x, y, w, folded.stride, folded.padding)
            return product(padded, w, y, (y.size // co, co, w.size // co, *places), folded.bias)

        return windows

    def _operators(self, step: Step, folded: Folded) -> Callable[..., Array]:
        """Grouped convolutions, and those with a residual: the shift, the sum and the ReLU in passes of their own."""
        image, shape = as_image(self.shapes[step.source]), self.shapes[step.result]
        weights, bias = Tensor(folded.packed), Tensor(folded.bias)

        def operators(x: Array, residual: Array | None = None) -> Array:
            with no_grad():
                y = ops.conv2d(Tensor(x.reshape(image)), weights, folded.stride, folded.padding, folded.groups)
                y = y.reshape(*shape) + bias
                y = y if residual is None else y + Tensor(residual)
                return (ops.relu(y) if step.relu_after else y).data

        return operators


def _ending(step: Step) -> Any:
    return _shift_relu if step.relu_after else _shift


def _moved(layer: Folded) -> Folded:
    """The layer's weights on the GPU. A 1x1 convolution with a stride runs as a separable one that multiplies by 1."""
    packed, bias, depthwise = to_gpu(layer.packed), to_gpu(layer.bias), layer.depthwise
    kh, kw, ci, _ = layer.kernel
    if depthwise is None and kh == kw == layer.groups == 1 and layer.stride > 1:
        depthwise = np.ones((1, 1, ci), layer.packed.dtype)
    if depthwise is None:
        return replace(layer, packed=packed, bias=bias)
    panels = pack(packed.reshape(*packed.shape[2:]))  # of (1, 1, ci, co)
    return replace(layer, depthwise=to_gpu(depthwise), packed=panels, bias=bias)
