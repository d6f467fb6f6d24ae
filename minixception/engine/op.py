"""Op: one operator = a name, kernels per rung, a shape rule and its arithmetic cost.

``Op.__call__`` is the only place where tensors meet kernels: it checks dtypes, asks the shape rule (which raises
before anything is compiled), picks the rung of the current backend, runs it, and records a Node if a gradient
can flow. Nothing else in the package knows which kernels an operator has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..errors import DTypeError
from ..gpu.device import is_on_gpu, to_cpu, to_gpu
from .backend import LADDER, current_backend
from .tape import Node, is_recording
from .tensor import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rung:
    """One implementation: ``forward(*arrays, **params) -> y, saved`` and ``backward(dy, saved) -> gradients``.

    ``backward`` returns one gradient per array input, None for inputs that have none (labels, statistics).
    All rungs of an operator save the same arrays, so that any backward can be checked with any forward. A selective
    backward takes ``wanted``, a flag per array input, and returns None where none is wanted: the first layer's image
    and frozen weights need no gradient, and a convolution's are worth not computing.
    """

    forward: Callable[..., tuple[np.ndarray, Any]]
    backward: Callable[..., tuple[np.ndarray | None, ...]]
    selective: bool = False


@dataclass(frozen=True)
class Case:
    """Valid random inputs of an operator: arrays in order, then keyword parameters."""

    arrays: tuple[np.ndarray, ...]
    params: dict[str, Any] = field(default_factory=dict)


class Draw(Protocol):
    """A source of random choices for ``Op.sample``: a seeded generator here, hypothesis in the tests."""

    dtype: np.dtype[Any]

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""

    def choice(self, options: Sequence[Any]) -> Any:
        """One of the options."""

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal values."""

    def distinct(self, *shape: int) -> np.ndarray:
        """Values that differ from each other and from 0 by at least 0.05: away from the kinks of relu and max."""


class RandomDraw:
    """Draw from a NumPy generator.

    >>> RandomDraw(0).normal(2, 3).shape
    (2, 3)
    """

    def __init__(self, seed: int, dtype: Any = np.float64) -> None:
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.dtype = np.dtype(dtype)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[Any]) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(self.dtype)

    def distinct(self, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        values = (np.arange(size) - size // 2 + 0.5) * 0.1
        return self.rng.permutation(values).reshape(shape).astype(self.dtype)


class Observer:
    """Is told of every operator and layer that runs inside of ``observe``.

    shapes_only: nothing is computed, and each element of every output is ``stand_in``.
    """

    shapes_only = False
    stand_in = 0.0

    def on_op(self, op: Op, inputs: Sequence[Tensor], params: dict[str, Any], output: Tensor) -> None:
        """An operator has run on these tensors."""

    def enter_module(self, module: Any) -> None:
        """A layer is about to run."""

    def exit_module(self, module: Any, inputs: Sequence[Tensor], output: Tensor) -> None:
        """A layer has run."""


_DOWN_FROM = {name: LADDER[i::-1] for i, name in enumerate(LADDER)}  # each backend's rungs, its own first
_observer: ContextVar[Observer | None] = ContextVar("observer", default=None)


def current_observer() -> Observer | None:
    """The observer of the innermost ``observe`` block, if any."""
    return _observer.get()


@contextmanager
def observe(observer: Observer) -> Iterator[Observer]:
    """Tell ``observer`` of every operator and layer that runs inside of the block."""
    token = _observer.set(observer)
    try:
        yield observer
    finally:
        _observer.reset(token)


@dataclass(frozen=True, eq=False)
class Op:
    """One operator and all its kernels. Without one for the GPU it runs on the processor, between two copies.

    name: as in ``OPERATORS``. rungs: by backend, slowest first. shape: (*input shapes, **params) -> output shape,
    raises ShapeError. macs: the same arguments -> multiply-accumulates (0 for everything but convolutions and
    matrix products, the paper's way of counting). sample: draws a small valid case, away from kinks.
    integer_inputs: positions of inputs that hold integers (labels, masks) and have no gradient.
    """

    name: str
    rungs: dict[str, Rung]
    shape: Callable[..., Shape]
    sample: Callable[[Draw], Case]
    macs: Callable[..., int] = lambda *shapes, **params: 0
    integer_inputs: frozenset[int] = frozenset()

    def rung(self, backend: str | None = None) -> Rung:
        """The rung for a backend: its own, else the fastest one below it."""
        names = _DOWN_FROM[backend or current_backend()]
        return next(self.rungs[name] for name in names if name in self.rungs)

    def __call__(self, *tensors: Tensor, **params: Any) -> Tensor:
        """Check, run and record; see ``apply`` for operators whose caller needs the saved arrays."""
        return self.apply(*tensors, **params)[0]

    def apply(self, *tensors: Tensor, **params: Any) -> tuple[Tensor, Any]:
        """Check, run and record: the output and what the forward pass saved (None when only shapes are asked)."""
        params = {name: plain(value) for name, value in params.items()}
        dtype = self._common_dtype(tensors)
        shapes = [t.shape for t in tensors]
        output_shape = self.shape(*shapes, **params)
        observer = current_observer()
        if observer is not None and observer.shapes_only:
            output, saved = Tensor(shape_only(output_shape, dtype, observer.stand_in)), None
        else:
            output, saved = self._run(tensors, params)
        if observer is not None:
            observer.on_op(self, tensors, params, output)
        return output, saved

    def _run(self, tensors: Sequence[Tensor], params: dict[str, Any]) -> tuple[Tensor, Any]:
        arrays = [t.data for t in tensors]
        backend = "cuda" if any(map(is_on_gpu, arrays)) else current_backend()
        rung = self.rung(backend if all(a.size for a in arrays) else "numpy")  # kernels know of no empty arrays
        if backend == "cuda":
            rung = rung if rung is self.rungs.get("cuda") else _on_the_processor(rung)
            y, saved = rung.forward(*map(to_gpu, arrays), **params)
        else:
            y, saved = rung.forward(*arrays, **params)
            y = np.asarray(y)  # NumPy returns a scalar where a result has no dimensions
        if not (is_recording() and any(t.requires_grad for t in tensors)):
            return Tensor(y), saved
        parents = tuple((t.node or t) if t.requires_grad else None for t in tensors)
        wanted = {"wanted": tuple(t.requires_grad for t in tensors)} if rung.selective else {}
        return Tensor(y, node=Node(self, partial(rung.backward, **wanted), saved, parents, y.shape)), saved

    def _common_dtype(self, tensors: Sequence[Tensor]) -> np.dtype[Any]:
        """The one floating dtype of the inputs; DTypeError if there is another, or an input is no tensor."""
        dtypes = set()
        for i, t in enumerate(tensors):
            if not isinstance(t, Tensor):
                raise DTypeError(f"{self.name} takes tensors, got {type(t).__name__}: wrap it with mx.tensor(x)")
            if i not in self.integer_inputs:
                dtypes.add(t.data.dtype)
        dtype = dtypes.pop()
        if dtypes or dtype.kind != "f":
            got = ", ".join(str(t.dtype) for t in tensors)
            hint = '; mx.tensor(x, dtype="float32") makes one of float32' if "float64" in got else ""
            raise DTypeError(
                f"{self.name} needs inputs of one floating dtype, all float32 or all float64, got {got}{hint}"
            )
        return dtype


def plain(value: Any) -> Any:
    """NumPy's integers, and tuples of them, as Python's: what computes a stride often has one of NumPy's.

    >>> plain((np.int64(3), 5))
    (3, 5)
    """
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return int(value) if isinstance(value, np.integer) else value


def _on_the_processor(rung: Rung) -> Rung:
    """For arrays on the GPU that no kernel takes: they are copied to the processor, and what comes of them back."""

    def forward(*arrays: Any, **params: Any) -> tuple[Any, Any]:
        y, saved = rung.forward(*map(to_cpu, arrays), **params)
        return to_gpu(np.asarray(y)), saved

    def backward(dy: Any, saved: Any, **wanted: Any) -> tuple[Any, ...]:
        gradients = rung.backward(to_cpu(dy), saved, **wanted)
        return tuple(None if gradient is None else to_gpu(np.asarray(gradient)) for gradient in gradients)

    return Rung(forward, backward, rung.selective)


def shape_only(shape: Shape, dtype: Any = np.float32, value: float = 0.0) -> np.ndarray:
    """An array of this shape that takes no memory: every element is the same."""
    return np.broadcast_to(np.array(value, dtype), shape)
