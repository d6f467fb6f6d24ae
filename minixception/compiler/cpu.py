"""The steps of a plan on the CPU: fused kernels that write into a few buffers, which the results share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numba
import numpy as np

from ..cpu import memory
from ..cpu.depthwise_forward import window_of
from ..cpu.gemm import Epilogue
from ..engine.op import Shape
from ..nn import MaxPool2d
from ..ops.conv2d import segments
from ..ops.conv2d.products import convolve, pack_kernel, packed_shape
from ..ops.pooling.max_pool import MAX_POOL2D, pool_into
from ..ops.separable.cpu import FUSED, strip_pixels
from ..ops.window import extents
from .fold import Folded, Key, as_image
from .fuse import Step, last_read

Array = np.ndarray


class CpuKernels:
    """What runs the steps for one input shape.

    Results of the fused kernels and of max pooling lie in slots; a slot is given to the next result as soon as the
    last reader of the one before has run. A second call allocates nothing but its answer.
    """

    def __init__(
        self, steps: list[Step], shapes: dict[int, Shape], dtype: np.dtype, result: int, weights: dict[Key, Folded]
    ) -> None:
        self.shapes, self.dtype, self.weights = shapes, dtype, weights
        self.slots = self._assign_slots(steps, last_read(steps, result))
        self._allocate(steps)

    @staticmethod
    def place(folded: dict[Key, Folded]) -> dict[Key, Folded]:
        """The weights in one block of memory, packed into panels, in the given order: that in which the layers run.

        The order counts because the panel behind each panel is fetched while it is in use (cpu/gemm.py): behind
        the last panel of a layer lies what the next layer begins with.
        """
        dtype = next(iter(folded.values())).packed.dtype
        sizes = []
        for layer in folded.values():
            depthwise = 0 if layer.depthwise is None else layer.depthwise.size
            packed = math.prod(_packed_shape(layer, dtype))
            sizes += [depthwise, layer.packed.shape[-1], packed]
        parts = iter(memory.carve(sizes, dtype))
        return {key: _moved(layer, next(parts), next(parts), next(parts)) for key, layer in folded.items()}

    # Memory -------------------------------------------------------------------------------------------------------

    def _assign_slots(self, steps: list[Step], last_read: list[list[int]]) -> dict[int, int]:
        """value -> slot; a slot is free again once the last step that reads its value has run."""
        slots: dict[int, int] = {}
        free: list[int] = []
        for step, done in zip(steps, last_read, strict=True):
            if step.fused or _is_max_pool(step):
                slots[step.result] = free.pop() if free else len(set(slots.values()))
            free += [slots[value] for value in done if value in slots]
        return slots

    def _slot(self, value: int) -> Array:
        shape = self.shapes[value]
        return self.buffers[self.slots[value]][: math.prod(shape)].reshape(shape)

    def _allocate(self, steps: list[Step]) -> None:
        """The slots, and for each thread a strip of filtered pixels, as long as the longest; all in one block."""
        sizes = [0] * len(set(self.slots.values()))
        for value, slot in self.slots.items():
            sizes[slot] = max(sizes[slot], math.prod(self.shapes[value]))
        separable_steps = [s for s in steps if s.fused and self.weights[s.key].depthwise is not None]
        strip = max((self._strip(s) * self.shapes[s.source][3] for s in separable_steps), default=1)
        threads = numba.config.NUMBA_NUM_THREADS
        *self.buffers, scratch = memory.carve([*sizes, threads * strip], self.dtype)
        self.scratch = scratch.reshape(threads, strip)

    def _strip(self, step: Step) -> int:
        return strip_pixels(self.shapes[step.result], self.shapes[step.source][3])

    @property
    def memory(self) -> str:
        """What all slots take."""
        return f"{sum(buffer.nbytes for buffer in self.buffers) / 2**20:.1f} MiB"

    # Actions ------------------------------------------------------------------------------------------------------

    def describe(self, step: Step) -> tuple[str, str]:
        """What ``action`` runs, and where its result lies."""
        place = f"slot {self.slots[step.result]}" if step.result in self.slots else "new array"
        return "fused kernel" if step.fused else "layer", place

    def action(self, step: Step) -> Callable[..., Array]:
        """The function that runs a step: arrays of its inputs -> array of its result."""
        if step.fused:
            folded = self.weights[step.key]
            if folded.depthwise is not None:
                return self._separable(step, folded)
            return self._segments(step, folded) if _narrow(folded, self.dtype) else self._convolution(step, folded)
        if _is_max_pool(step):
            return self._max_pool(step)

        def layer(*arrays: Array) -> Array:
            y = step.node.on_arrays(*arrays)
            viewed = any(np.may_share_memory(y, x) for x in arrays)  # a reshape: its slot is about to be used again
            return y.copy() if viewed else y

        return layer

    def _convolution(self, step: Step, folded: Folded) -> Callable[..., Array]:
        """Row by row of y; where windows are pixels side by side, in strips of all of them, whatever their row."""
        y, image = self._slot(step.result), as_image(self.shapes[step.source])
        shape = as_image(y.shape)
        (_, top), (_, left) = extents(image, folded.kernel, folded.stride, folded.padding)
        add_residual, relu = step.residual is not None, step.relu_after
        kh, kw, ci, co = folded.kernel
        side_by_side = kh == kw == folded.groups == folded.stride == 1
        rows = y.reshape(1, 1, -1, co) if side_by_side else y.reshape(shape)
        strip = strip_pixels(rows.shape, ci) if side_by_side else shape[2]

        def convolution(x: Array, residual: Array = y) -> Array:
            x = x.reshape((1, 1, -1, ci) if side_by_side else image)
            epilogue = Epilogue(residual.reshape(rows.shape), add_residual, folded.bias, relu)
            convolve(x, folded.packed, rows, (kh, kw), folded.stride, (top, left), epilogue, strip)
            return y

        return convolution

    def _segments(self, step: Step, folded: Folded) -> Callable[..., Array]:
        """Several segments in each register."""
        y, (_, _, inputs, co) = self._slot(step.result), folded.kernel
        add_residual, relu, widths = step.residual is not None, step.relu_after, (inputs, co // folded.groups)
        (_, top), (_, left) = extents(self.shapes[step.source], folded.kernel, folded.stride, folded.padding)

        def convolution(x: Array, residual: Array = y) -> Array:
            epilogue = Epilogue(residual, add_residual, folded.bias, relu)
            segments.convolve(x, folded.packed, y, epilogue, folded.stride, (top, left), widths)
            return y

        return convolution

    def _separable(self, step: Step, folded: Folded) -> Callable[..., Array]:
        y, stride = self._slot(step.result), folded.stride
        add_residual, relu = step.residual is not None, step.relu_after
        (_, top), (_, left) = extents(self.shapes[step.source], folded.depthwise.shape, stride, folded.padding)
        floor = self.dtype.type(0 if step.relu_before else -np.inf)
        pixels = self._strip(step)

        kernel = FUSED[window_of(folded.depthwise.shape, stride)]

        def fused(x: Array, residual: Array = y) -> Array:
            epilogue = Epilogue(residual, add_residual, folded.bias, relu)
            kernel(x, floor, folded.depthwise, folded.packed, epilogue, y, self.scratch, stride, top, left, pixels)
            return y

        return fused

    def _max_pool(self, step: Step) -> Callable[..., Array]:
        y, params = self._slot(step.result), step.node.calls[0].params
        return lambda x: pool_into(x, y, **params)


def _is_max_pool(step: Step) -> bool:
    return isinstance(step.node.module, MaxPool2d) and [call.op for call in step.node.calls] == [MAX_POOL2D]


def _narrow(layer: Folded, dtype: np.dtype) -> bool:
    """Whether several segments of a grouped convolution share a register."""
    return layer.depthwise is None and segments.suits(layer.kernel, layer.stride, layer.groups, dtype)


def _packed_shape(layer: Folded, dtype: np.dtype) -> Shape:
    shape = segments.packed_shape if _narrow(layer, dtype) else packed_shape
    return shape(layer.kernel, layer.groups, dtype)


def _moved(layer: Folded, depthwise: Array, bias: Array, packed: Array) -> Folded:
    """The layer's weights, written to these parts of memory."""
    bias[...] = layer.bias
    packed = packed.reshape(_packed_shape(layer, packed.dtype))
    if _narrow(layer, packed.dtype):
        packed[...] = segments.pack(layer.packed, layer.groups)
    else:
        pack_kernel(layer.packed, packed)
    if layer.depthwise is None:
        return replace(layer, bias=bias, packed=packed)
    depthwise = depthwise.reshape(layer.depthwise.shape)
    depthwise[...] = layer.depthwise
    return replace(layer, depthwise=depthwise, bias=bias, packed=packed)
