"""A model as one fast function: ``compile(model)`` for inference, with a loss and an optimiser for a training step.

Layers are fused and memory is planned; the model itself stays as it is, and is the definition of what must come out.
"""

from __future__ import annotations

import threading
from typing import Any, overload

import numba
import numpy as np

from ..engine.op import Shape
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..errors import ArgumentError, BackendError, ShapeError
from ..gpu.device import to_cpu, to_gpu
from ..nn import Module
from ..tables import Table
from .batch import images_together
from .fold import Folded, Key
from .plan import Plan, checked_graph
from .training import Loss, Steps, TrainingStep
from .watch import Watch


class Compiled:
    """A model compiled for inference: ``fast(x) -> y``; made by ``compile``.

    It holds copies of the weights, where they were. Where those of the model have changed since, by training, loading
    or putting in other layers, the next call makes them anew; see ``Watch`` for what it does not notice. Compile again
    when the model has moved to another device. One plan is made per input shape and number of threads, at its first
    use. Plans reuse their buffers: of several threads that call, one waits for the other.
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self.device = _device(model)
        self._weights: dict[Key, Folded] = {}  # shared by all plans
        self._plans: dict[tuple[Shape, str, int], Plan] = {}
        self._together: dict[tuple[Shape, str], int] = {}  # images that go through the network at a time
        self._turn = threading.Lock()
        self._watch = Watch(model)

    @overload
    def __call__(self, x: Tensor) -> Tensor: ...

    @overload
    def __call__(self, x: np.ndarray) -> np.ndarray: ...

    def __call__(self, x: Any) -> Any:
        """Run the network on x (n, h, w, c) in the weights' dtype.

        A new array for an array; for a tensor, wherever it is, a tensor on the model's device, without a gradient.
        ShapeError and DTypeError as of the model's layers; BackendError if it has moved since it was compiled.
        """
        if isinstance(x, Tensor):
            return Tensor(self._run(x.data))
        return to_cpu(self._run(np.ascontiguousarray(x)))

    def _run(self, x: Any) -> Any:
        if _device(self._model) != self.device:
            raise BackendError(f"the model was compiled on {self.device!r} and has moved: call compile() again")
        shape, x = tuple(x.shape), to_gpu(x) if self.device == "cuda" else to_cpu(x)
        if 0 in shape:  # nothing to plan
            with no_grad(), self._model.inference():
                return self._model(Tensor(x)).data
        with self._turn:
            self._follow()
            together = self._images_together(shape, x.dtype)
            if together == shape[0]:
                return self._plan(shape, x.dtype).run(x)
            parts = [x[first : first + together] for first in range(0, len(x), together)]
            return np.concatenate([self._plan(part.shape, part.dtype).run(part) for part in parts])

    def _follow(self) -> None:
        """Forget what was made of weights that the model no longer has."""
        if self._watch.sees_change():
            self._watch = Watch(self._model)
            self._weights.clear()
            self._plans.clear()
            self._together.clear()

    def _images_together(self, shape: Shape, dtype: np.dtype[Any]) -> int:
        """All of them on the GPU, which many images keep busy; on the CPU as many as its caches have room for."""
        key = (shape, dtype.str)
        if key not in self._together:
            graph = checked_graph(self._model, shape, dtype)
            by_image = self.device == "cpu" and graph.nodes
            self._together[key] = images_together(graph) if by_image else shape[0]
        return self._together[key]

    def _plan(self, shape: Shape, dtype: np.dtype[Any]) -> Plan:
        key = (shape, dtype.str, numba.get_num_threads())
        if key not in self._plans:
            self._plans[key] = Plan(self._model, shape, dtype, self._weights, self.device)
        return self._plans[key]

    @property
    def plan(self) -> Table:
        """What runs as one kernel, where, and where results lie: for the shape planned last, or one image."""
        if not self._plans:
            if self._model.input_shape is None:
                raise ShapeError("the plan depends on the input's shape: run the compiled model once first")
            dtype = next(self._model.named_tensors())[1].dtype
            self._plan((1, *self._model.input_shape), dtype)
        return list(self._plans.values())[-1].table()


@overload
def compile(model: Module) -> Compiled: ...


@overload
def compile(model: Module, loss: Loss, optimizer: Steps) -> TrainingStep: ...


def compile(model: Module, loss: Loss | None = None, optimizer: Steps | None = None) -> Compiled | TrainingStep:
    """The model as a fast function of arrays or tensors, in inference mode, on the device where its weights are.

    With a loss and an optimiser: a training step, ``step(x, labels) -> loss``, on the CPU. loss: a function of logits
    and labels, as ``mx.cross_entropy`` is; the modules of the model train or not as they are set. See ``TrainingStep``.

    BackendError if some weights are on the CPU and some on the GPU, or a training step is asked for on the GPU;
    ArgumentError for a loss without an optimiser or the other way round; TraceError, at the first call, for a model
    whose forward pass is more than layers and operators.

    >>> import minixception as mx
    >>> model = mx.models.mini_xception(10, (8,), 1, 8).eval()
    >>> x = np.ones((2, 32, 32, 3), np.float32)
    >>> with mx.no_grad():
    ...     bool(np.allclose(compile(model)(x), model(mx.tensor(x)).numpy(), atol=1e-5))
    True
    >>> step = compile(model.train(), mx.cross_entropy, mx.optim.SGD(model.parameters(), lr=0.1))
    >>> bool(step(x, np.array([3, 7])).item() > step(x, np.array([3, 7])).item())
    True
    """
    if len({tensor.device for _, tensor in model.named_tensors()}) > 1:
        raise BackendError("some weights of the model are on the CPU and some on the GPU: call model.to() first")
    if loss is None and optimizer is None:
        return Compiled(model)
    if loss is None or optimizer is None:
        raise ArgumentError(
            "compile(model) is for inference; a training step needs a loss and an optimizer, as in "
            "compile(model, mx.cross_entropy, mx.optim.SGD(model.parameters(), lr=0.1))"
        )
    return TrainingStep(model, loss, optimizer)


def _device(model: Module) -> str:
    """Where the model's first tensor is; a model without any runs on the CPU."""
    first = next(model.named_tensors(), None)
    return "cpu" if first is None else first[1].device
