"""Fast inference: ``compile(model)`` folds batchnorm, fuses layers, plans memory; the model itself stays as it is."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from ..errors import BackendError, ShapeError
from ..nn import Module
from ..op import Shape
from ..tables import Table
from .fold import Folded, Key
from .graph import trace
from .plan import Plan


class Compiled:
    """A model compiled for inference: ``fast(array) -> array``; made by ``compile``.

    It holds copies of the weights as they were; compile again after training. One plan is made per input shape and
    number of threads, at its first use. Not for use by two threads at once: plans reuse their buffers.
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self._weights: dict[Key, Folded] = {}  # shared by all plans
        self._plans: dict[tuple[Shape, str, int], Plan] = {}
        self._together: dict[tuple[Shape, str], int] = {}  # images that go through the network at a time

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run the network on x (n, h, w, c) in the weights' dtype; returns a new array."""
        x = np.ascontiguousarray(x)
        together = self._images_together(x.shape, x.dtype)
        parts = [x[first : first + together] for first in range(0, len(x), together)]
        results = [self._plan(part.shape, part.dtype).run(part) for part in parts]
        return results[0] if len(results) == 1 else np.concatenate(results)

    def _images_together(self, shape: Shape, dtype: np.dtype[Any]) -> int:
        key = (shape, dtype.str)
        if key not in self._together:
            with self._model.inference():
                self._together[key] = trace(self._model, shape, dtype).images_together()
        return self._together[key]

    def _plan(self, shape: Shape, dtype: np.dtype[Any]) -> Plan:
        key = (shape, dtype.str, numba.get_num_threads())
        if key not in self._plans:
            with self._model.inference():
                self._plans[key] = Plan(self._model, shape, dtype, self._weights)
        return self._plans[key]

    @property
    def plan(self) -> Table:
        """What runs as one kernel and where results lie: for the shape planned last, or one image."""
        if not self._plans:
            if self._model.input_shape is None:
                raise ShapeError("the plan depends on the input's shape: run the compiled model once first")
            dtype = next(self._model.named_tensors())[1].dtype
            self._plan((1, *self._model.input_shape), dtype)
        return list(self._plans.values())[-1].table()


def compile(model: Module) -> Compiled:
    """The model as a fast function of arrays, in inference mode, on the CPU; BackendError for a model on the GPU.

    >>> import minixception as mx
    >>> model = mx.models.mini_xception(10, (8,), 1, 8).eval()
    >>> x = np.ones((2, 32, 32, 3), np.float32)
    >>> with mx.no_grad():
    ...     bool(np.allclose(compile(model)(x), model(mx.tensor(x)).numpy(), atol=1e-5))
    True
    """
    if any(tensor.device != "cpu" for _, tensor in model.named_tensors()):
        raise BackendError("compile() makes a function of the CPU, the model is on the GPU: call model.to('cpu') first")
    return Compiled(model)
