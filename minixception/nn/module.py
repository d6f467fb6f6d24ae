"""Module: a layer or a network; it owns parameters and gives them names. The maths is in ops/."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.op import current_observer
from ..engine.tensor import Tensor
from ..errors import ArgumentError, DTypeError, WeightsError
from ..gpu.device import assign
from ..gpu.device import to as move

if TYPE_CHECKING:
    from ..graph.cost import CostTable
    from ..imagenet import Prediction
    from ..weights import Loaded


class Parameter(Tensor):
    """A tensor that training changes."""

    __slots__ = ()

    def __init__(self, data: np.ndarray | Tensor) -> None:
        super().__init__(data.data if isinstance(data, Tensor) else data, requires_grad=True)


class Buffer(Tensor):
    """A tensor that belongs to the model's state but has no gradient, like batchnorm's running mean."""

    __slots__ = ()


_changes = 0  # how often a module or a tensor was put into a module, of all


def structure_changes() -> int:
    """A count that grows whenever a layer or a parameter of any model is set, replaced or removed."""
    return _changes


def _is_shown(value: Any) -> bool:
    """What a printed module has in brackets: parameters, buffers, and settings, such as a pair of strides."""
    of_numbers = isinstance(value, tuple) and all(isinstance(number, int) for number in value)
    return of_numbers or isinstance(value, Parameter | Buffer | str | int | float)


_at_inference: ContextVar[frozenset[Module]] = ContextVar("at_inference", default=frozenset())


class Module:
    """Base of layers and networks: subclasses set parameters and sub-modules as attributes and define ``forward``.

    Attributes: ``training`` (batchnorm and dropout behave differently); where a network knows them, else None:
    ``input_shape`` (h, w, c), ``preprocessing``, how pixels become its input ("tf", "caffe" or "torch"), and
    ``class_names``, one for each output.
    """

    _training = True
    input_shape: tuple[int, ...] | None = None
    preprocessing: str | None = None
    class_names: tuple[str, ...] | None = None

    def forward(self, *inputs: Any) -> Any:
        """What the layer computes; defined by each subclass."""
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def __call__(self, *inputs: Any) -> Any:
        """``forward``, telling an observer if there is one."""
        observer = current_observer()
        if observer is None:
            return self.forward(*inputs)
        observer.enter_module(self)
        output = self.forward(*inputs)
        observer.exit_module(self, inputs, output)
        return output

    @property
    def training(self) -> bool:
        """Whether it behaves as in training; never inside of its ``inference()``."""
        return self._training and self not in _at_inference.get()

    @training.setter
    def training(self, training: bool) -> None:
        self._training = training

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, list | tuple | set | dict):
            inside = value.values() if isinstance(value, dict) else value
            if any(isinstance(one, Module | Parameter) for one in inside):
                raise ArgumentError(
                    f"{type(self).__name__}.{name} would be a {type(value).__name__} of layers or parameters, which "
                    "training and saving do not see: make it nn.ModuleList(layers), nn.Sequential(layers) or attributes"
                )
        self._count_change(value, vars(self).get(name))
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._count_change(vars(self).get(name))
        super().__delattr__(name)

    def _count_change(self, *values: Any) -> None:
        global _changes
        _changes += any(isinstance(value, Module | Tensor) for value in values)

    def __repr__(self) -> str:
        """The tree of modules, with the shapes of their parameters and buffers."""
        return "\n".join(self._lines("", 0))

    def _lines(self, name: str, depth: int) -> Iterator[str]:
        own = [
            f"{key}={value.shape if isinstance(value, Tensor) else repr(value)}"
            for key, value in vars(self).items()
            if _is_shown(value) and not key.startswith("_")
        ]
        arguments = f"({', '.join(own)})" if own else ""
        yield f"{'  ' * depth}{name}{': ' * bool(name)}{type(self).__name__}{arguments}"
        for key, child in self.children().items():
            yield from child._lines(key, depth + 1)

    # Names --------------------------------------------------------------------------------------------------------

    def children(self) -> dict[str, Module]:
        """Direct sub-modules by attribute name, in the order they were set."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Module)}

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(path, module) of this module ("") and everything below it, depth first: "block2.sepconv1"."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(path, tensor) of all parameters and buffers: "block2.sepconv1.depthwise"."""
        for path, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter | Buffer):
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) of everything that training may change."""
        return ((name, t) for name, t in self.named_tensors() if isinstance(t, Parameter))

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(path, buffer) of the state that training does not change by gradients."""
        return ((name, t) for name, t in self.named_tensors() if isinstance(t, Buffer))

    def parameters(self) -> list[Parameter]:
        """All parameters, in order of their names' appearance."""
        return [p for _, p in self.named_parameters()]

    def num_parameters(self, trainable: bool | None = None) -> int:
        """Number of values in parameters and buffers (Keras' total); only those with or without a gradient if asked.

        >>> import minixception as mx
        >>> bn = mx.nn.BatchNorm2d(8)
        >>> bn.num_parameters(), bn.num_parameters(trainable=True)
        (32, 16)
        """
        return sum(t.data.size for _, t in self.named_tensors() if trainable is None or t.requires_grad == trainable)

    # Transfer learning --------------------------------------------------------------------------------------------

    def freeze(self, *names: str, until: str | None = None) -> Module:
        """Keep these parameters as they are in training; returns self. See docs/transfer.md.

        names: paths of modules or parameters, each with everything below it ("block5", "block2.sepconv1"). until: the
        path of a module; it and all before it, in the order of ``named_parameters``. Neither: everything. A frozen
        parameter gets no gradient, so that optimisers leave it alone, weight decay included; and frozen batchnorm uses
        its running statistics and leaves them, as in Keras. Raises ArgumentError for a path without parameters.

        >>> import minixception as mx
        >>> model = mx.models.mini_xception(10, widths=(8,), middle_blocks=1, stem=8)
        >>> model.freeze(until="block3").num_parameters(trainable=True)  # the logits: 8 * 10 + 10
        90
        """
        return self._train_only_if(False, names, until)

    def unfreeze(self, *names: str, until: str | None = None) -> Module:
        """Let training change these parameters again; arguments, result and errors are those of ``freeze``."""
        return self._train_only_if(True, names, until)

    def _train_only_if(self, requires_grad: bool, names: tuple[str, ...], until: str | None) -> Module:
        parameters = dict(self.named_parameters())
        chosen = set() if names or until is not None else set(parameters)
        for name in names:
            chosen.update(self._paths_below(name, parameters))
        if until is not None:
            paths = list(parameters)
            chosen.update(paths[: paths.index(self._paths_below(until, parameters)[-1]) + 1])
        for path in chosen:
            parameters[path].requires_grad, parameters[path].grad = requires_grad, None
        return self

    def _paths_below(self, name: str, paths: Iterable[str]) -> list[str]:
        """Those of the paths that are ``name`` or below it; ArgumentError, with the names there are, if none is."""
        below = [path for path in paths if f"{path}.".startswith(f"{name}.")]
        if not below:
            parent = name.rpartition(".")[0] + "."
            prefix = parent if any(path.startswith(parent) for path in paths) else ""
            inside = (path.removeprefix(prefix) for path in paths if path.startswith(prefix))
            known = dict.fromkeys(prefix + path.partition(".")[0] for path in inside)
            raise ArgumentError(f"no parameters at {name!r} in {type(self).__name__}; there are: {', '.join(known)}")
        return below

    # State --------------------------------------------------------------------------------------------------------

    def train(self, training: bool = True) -> Module:
        """Switch this module and all below it to training behaviour; returns self."""
        for _, module in self.named_modules():
            module.training = training
        return self

    def eval(self) -> Module:
        """Switch to inference behaviour: running statistics, no dropout; returns self."""
        return self.train(False)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """In the ``with`` block all modules behave as at inference; after it, each as it did before.

        For whoever entered the block alone: another thread may train the model meanwhile.

        >>> import minixception as mx
        >>> bn = mx.nn.BatchNorm2d(1)
        >>> with bn.inference():
        ...     bn.training
        False
        >>> bn.training
        True
        """
        modules = frozenset(module for _, module in self.named_modules())
        token = _at_inference.set(_at_inference.get() | modules)
        try:
            yield
        finally:
            _at_inference.reset(token)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def astype(self, dtype: Any) -> Module:
        """Convert all parameters and buffers to float32 or float64 in place; returns self. DTypeError for others."""
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise DTypeError(f"a model is float32 or float64, got {np.dtype(dtype)}")
        for _, t in self.named_tensors():
            t.data, t.grad = move(t.numpy().astype(dtype), t.device), None
        return self

    def to(self, device: str) -> Module:
        """Move all parameters and buffers to "cpu" or "cuda", in place, without their gradients; returns self.

        What it is called on then runs there, its inputs follow. Make optimisers afterwards: their state lies where the
        parameters are. Raises ArgumentError for another device, BackendError where there is no GPU.
        """
        for _, t in self.named_tensors():
            t.data, t.grad = move(t.data, device), None
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """All parameters and buffers by name; the arrays themselves, not copies, unless they are on the GPU."""
        return {name: t.numpy() for name, t in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Copy values in. Strict: WeightsError lists all that is missing, surplus or misshaped; nothing changes."""
        tensors = dict(self.named_tensors())
        problems = [f"missing: {name} {t.shape}" for name, t in tensors.items() if name not in state]
        problems += [f"surplus: {name} {array.shape}" for name, array in state.items() if name not in tensors]
        problems += [
            f"shape of {name}: the model has {t.shape}, the file {state[name].shape}"
            for name, t in tensors.items()
            if name in state and state[name].shape != t.shape
        ]
        if problems:
            raise WeightsError("the weights do not fit the model, nothing was loaded:\n  " + "\n  ".join(problems))
        for name, t in tensors.items():
            assign(t.data, state[name])

    if TYPE_CHECKING:  # these come from models/network.py: they need files, costs and photos, which stand above layers

        def save_weights(self, path: Any) -> None: ...
        def load_weights(
            self, path: Any, conventions: str | None = None, part: str | None = None, strict: bool = True
        ) -> Loaded: ...
        def predict(self, images: Iterable[Any], top: int = 5, **options: Any) -> list[list[Prediction]]: ...
        def summary(self, input_shape: tuple[int, ...] | None = None) -> CostTable: ...
