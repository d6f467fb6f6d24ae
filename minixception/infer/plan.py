"""A plan: the steps for one input shape, and a few buffers that their results share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numba
import numpy as np

from .. import memory
from ..kernels.gemm import panel_width
from ..kernels.simd import lanes
from ..nn import MaxPool2d, Module
from ..op import Shape
from ..ops.conv2d.cpu import convolve, pad
from ..ops.separable.cpu import fused as run_fused
from ..ops.separable.cpu import strip_pixels
from ..ops.window import extents
from ..tables import Table
from ..tensor import Tensor, no_grad
from .fold import Folded, Key, fold_all
from .fuse import Step, fuse
from .graph import trace
from .kernels import max_pool


class Plan:
    """Everything that can be decided before the first image: which kernels run, on which memory.

    Results of the fused kernels and of max pooling lie in slots; a slot is given to the next result as soon as the
    last reader of the one before has run. A second call allocates nothing but its answer.
    """

    def __init__(self, model: Module, shape: Shape, dtype: Any, weights: dict[Key, Folded]) -> None:
        graph = trace(model, shape, dtype)
        self.dtype = np.dtype(dtype)
        self.steps = fuse(graph)
        self.result = graph.result
        self.shapes = {0: shape} | {node.output: node.shape for node in graph.nodes}
        self.constants = {number: t.data for number, t in graph.constants.items()}
        if new := [key for step in self.steps if step.fused and (key := _key(step)) not in weights]:
            weights.update(fold_all(dict.fromkeys(new)))
        self.slots = self._assign_slots()
        self._allocate(weights)
        self.actions = [self._action(step, weights) for step in self.steps]
        self._has_run = False

    def run(self, x: np.ndarray) -> np.ndarray:
        """The network's answer for x; a new array. While kernels are compiled, if that takes long, a bar shows it."""
        values = {0: x} | self.constants
        for step, action in self._shown(zip(self.steps, self.actions, strict=True)):
            values[step.result] = action(*[values[number] for number in step.inputs])
        self._has_run = True
        return values[self.result].copy()

    def _shown(self, pairs: Iterable[Any]) -> Iterable[Any]:
        if self._has_run:
            return pairs
        from tqdm import tqdm

        return tqdm(pairs, "compiling kernels", len(self.steps), leave=False, unit="layer", delay=1)

    def table(self) -> Table:
        """One row per step: its layers, the shape and the slot of its result."""
        rows = [
            (
                " + ".join(step.paths),
                "fused kernel" if step.fused else "layer",
                "x".join(map(str, self.shapes[step.result])),
                f"slot {self.slots[step.result]}" if step.result in self.slots else "new array",
            )
            for step in self.steps
        ]
        total = sum(buffer.nbytes for buffer in self.buffers) / 2**20
        return Table(
            ("layers", "runs as", "output", "memory"), rows, (f"{len(rows)} steps", "", "", f"{total:.1f} MiB")
        )

    # Memory -------------------------------------------------------------------------------------------------------

    def _assign_slots(self) -> dict[int, int]:
        """value -> slot; a slot is free again once the last step that reads its value has run."""
        last_read = {value: i for i, step in enumerate(self.steps) for value in step.inputs}
        last_read[self.result] = len(self.steps)
        slots: dict[int, int] = {}
        free: list[int] = []
        for i, step in enumerate(self.steps):
            if self._has_slot(step):
                slots[step.result] = free.pop() if free else len(set(slots.values()))
            free += [slots[v] for v in dict.fromkeys(step.inputs) if v in slots and last_read[v] == i]
        return slots

    @staticmethod
    def _has_slot(step: Step) -> bool:
        return step.fused or isinstance(step.node.module, MaxPool2d)

    def _slot(self, value: int) -> np.ndarray:
        shape = self.shapes[value]
        return self.buffers[self.slots[value]][: math.prod(shape)].reshape(shape)

    def _allocate(self, weights: dict[Key, Folded]) -> None:
        """The slots, and for each thread a strip of filtered pixels, as long as the longest; all in one block."""
        sizes = [0] * len(set(self.slots.values()))
        for value, slot in self.slots.items():
            sizes[slot] = max(sizes[slot], math.prod(self.shapes[value]))
        separable_steps = [s for s in self.steps if s.fused and weights[_key(s)].depthwise is not None]
        strip = max((self._strip(s) * self.shapes[s.source][3] for s in separable_steps), default=1)
        threads = numba.config.NUMBA_NUM_THREADS
        *self.buffers, scratch = memory.carve([*sizes, threads * strip], self.dtype)
        self.scratch = scratch.reshape(threads, strip)

    def _strip(self, step: Step) -> int:
        return strip_pixels(self.shapes[step.result], self.shapes[step.source][3])

    # Actions ------------------------------------------------------------------------------------------------------

    def _action(self, step: Step, weights: dict[Key, Folded]) -> Callable[..., np.ndarray]:
        """The function that runs a step: arrays of its inputs -> array of its result."""
        if step.fused:
            return self._convolution(step, weights[_key(step)])
        if isinstance(step.node.module, MaxPool2d):
            return self._max_pool(step, step.node.module)

        def layer(*arrays: np.ndarray) -> np.ndarray:
            with no_grad():
                y = step.node.run(*map(Tensor, arrays)).data
            viewed = any(np.may_share_memory(y, x) for x in arrays)  # a reshape: its slot is about to be used again
            return y.copy() if viewed else y

        return layer

    def _convolution(self, step: Step, folded: Folded) -> Callable[..., np.ndarray]:
        y, width, vector = self._slot(step.result), panel_width(self.dtype), lanes(self.dtype.type)
        add_residual, relu = step.residual is not None, step.relu_after
        if folded.depthwise is None:
            kh, kw, ci, _ = folded.kernel
            y_image, stride = y.reshape(_image_shape(y.shape)), folded.stride
            image = _image_shape(self.shapes[step.source])
            (_, top), (_, left) = extents(image, folded.kernel, stride, folded.padding)

            def convolution(x: np.ndarray, residual: np.ndarray = y) -> np.ndarray:
                padded = pad(x.reshape(image), top, left, y_image.shape, folded.kernel, stride)
                convolve(
                    padded, folded.packed, y_image, kh, kw, ci, stride, folded.groups, width,
                    residual, add_residual, folded.bias, True, relu,
                )  # fmt: skip
                return y

            return convolution

        (_, top), (_, left) = extents(self.shapes[step.source], folded.depthwise.shape, folded.stride, folded.padding)
        floor = self.dtype.type(0 if step.relu_before else -np.inf)
        pixels = self._strip(step)

        def fused(x: np.ndarray, residual: np.ndarray = y) -> np.ndarray:
            run_fused(
                x, floor, folded.depthwise, folded.packed, folded.bias, residual, add_residual, relu, y, self.scratch,
                folded.stride, top, left, pixels, width, vector,
            )  # fmt: skip
            return y

        return fused

    def _max_pool(self, step: Step, module: MaxPool2d) -> Callable[..., np.ndarray]:
        y, stride = self._slot(step.result), module.stride or module.size
        (_, top), (_, left) = extents(self.shapes[step.source], (module.size, module.size), stride, module.padding)

        def pool(x: np.ndarray) -> np.ndarray:
            max_pool(x, y, module.size, module.size, stride, top, left)
            return y

        return pool


def _key(step: Step) -> Key:
    assert step.node.module is not None  # a fused step has one
    return step.node.module, step.norm


def _image_shape(shape: Shape) -> Shape:
    """The rows (n, c) of a linear layer as the pixels of one image (1, 1, n, c); images as they are."""
    return (1, 1, *shape) if len(shape) == 2 else shape
