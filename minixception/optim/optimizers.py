"""SGD, RMSprop, Adam and AdamW: parameters, weight decay and state are shared, and one formula differs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..cpu.elementwise import chunks, part
from ..cpu.jit import parallel, prange
from ..errors import ArgumentError
from ..gpu.device import full_like, is_on_gpu, to_cpu
from . import cuda as gpu
from .common import Parameter, Scratch, check_range, load_arrays


def is_kernel(parameter: Parameter) -> bool:
    """True for convolution and linear kernels, False for biases and batchnorm's gamma and beta (one axis)."""
    return parameter.data.ndim >= 2


class Optimizer(ABC):
    """What all optimisers share: the parameters, weight decay, scratch memory and the state of a checkpoint.

    Args:
        params: the parameters, in an order that a resumed run repeats.
        lr: the learning rate, at least 0; a schedule sets ``optimizer.lr`` before each step.
        weight_decay: the factor wd of the L2 gradient wd * w, at least 0.
        decay: which parameters decay; by default the kernels.

    Raises:
        ArgumentError: no parameters, or a value outside of its range.
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float,
        weight_decay: float = 0.0,
        decay: Callable[[Parameter], bool] = is_kernel,
    ) -> None:
        if not isinstance(params, Iterable):
            raise ArgumentError(f"expected parameters, as in model.parameters(), got {type(params).__name__}")
        self.params = list(params)
        if not self.params:
            raise ArgumentError("expected at least one parameter, got none")
        for one in self.params:
            if not hasattr(one, "grad"):
                raise ArgumentError(
                    f"expected parameters, got {type(one).__name__} among them: for groups with settings of their own "
                    "make an optimiser for each"
                )
        check_range("learning rate", lr, 0, math.inf)
        check_range("weight decay", weight_decay, 0, math.inf)
        self.lr = lr
        self.weight_decay = weight_decay
        self.steps = 0
        self._decays = [weight_decay > 0 and decay(p) for p in self.params]
        self._slots: dict[str, list[np.ndarray]] = {}
        self._scratch = Scratch()

    def step(self) -> None:
        """Update every parameter that has a gradient; only the first step allocates working memory."""
        self.steps += 1
        for i, p in enumerate(self.params):
            if p.grad is not None:
                update = self._update_on_gpu if is_on_gpu(p.data) else self._update
                update(i, p.data, p.grad, self.weight_decay if self._decays[i] else 0.0)

    @abstractmethod
    def _update(self, i: int, w: np.ndarray, g: np.ndarray, decay: float) -> None:
        """Update parameter i, whose array is w, from its gradient g, which stays as it is, plus decay * w."""

    @abstractmethod
    def _update_on_gpu(self, i: int, w: Any, g: Any, decay: float) -> None:
        """The same for arrays of the GPU, by as few kernels as it takes."""

    def _decayed(self, w: np.ndarray, g: np.ndarray, decay: float) -> np.ndarray:
        """g + decay * w."""
        if not decay:
            return g
        total = np.multiply(w, decay, out=self._scratch(w, 0))
        total += g
        return total

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything a resumed run needs, as copies: "steps" and "<slot>/<position of the parameter>"."""
        return {
            "steps": np.array(self.steps, np.int64),
            **{k: np.array(to_cpu(v)) for k, v in self._flat_slots().items()},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state of :meth:`state_dict`, whole or not at all.

        Raises:
            CheckpointError: the state's names, shapes or dtypes are not this optimiser's.
        """
        steps = np.array(0, np.int64)
        load_arrays(state, {"steps": steps, **self._flat_slots()}, type(self).__name__)
        self.steps = int(steps)

    def _flat_slots(self) -> dict[str, np.ndarray]:
        return {f"{name}/{i}": array for name, arrays in self._slots.items() for i, array in enumerate(arrays)}

    def _slot(self, name: str, initial: float = 0.0) -> list[np.ndarray]:
        """One array for each parameter, of its shape and dtype, that is part of the state."""
        return self._slots.setdefault(name, [full_like(p.data, initial) for p in self.params])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum:  v = momentum * v + g,  w = w - lr * v.

    This is the rule of TensorFlow 1 and PyTorch. Keras multiplies by lr before the accumulation, which
    differs as soon as lr changes.

    >>> from types import SimpleNamespace
    >>> w = SimpleNamespace(data=np.array([1.0]), grad=np.array([0.5]))
    >>> optimizer = SGD([w], lr=0.1, momentum=0.9)
    >>> optimizer.step(); optimizer.step()
    >>> w.data.round(6).tolist()  # 1 - 0.1 * 0.5 - 0.1 * (0.9 * 0.5 + 0.5)
    [0.855]
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay: Callable[[Parameter], bool] = is_kernel,
    ) -> None:
        super().__init__(params, lr, weight_decay, decay)
        check_range("momentum", momentum, 0, 1)
        self.momentum = momentum
        self._velocity = self._slot("velocity") if momentum else None

    def _update_on_gpu(self, i: int, w: Any, g: Any, decay: float) -> None:
        if self._velocity is None:
            gpu.update(gpu.sgd, w, g, lr=self.lr, decay=decay)
        else:
            v = self._velocity[i]
            gpu.update(gpu.momentum_sgd, w, g, v, lr=self.lr, momentum=self.momentum, decay=decay)

    def _update(self, i: int, w: np.ndarray, g: np.ndarray, decay: float) -> None:
        if self._velocity is None:
            w -= np.multiply(self._decayed(w, g, decay), self.lr, out=self._scratch(w, 1))
            return
        v = self._velocity[i]
        assert w.flags.c_contiguous and v.flags.c_contiguous  # so that their flat views are no copies
        _momentum_step(w.reshape(-1), g.reshape(-1), v.reshape(-1), *w.dtype.type((self.lr, self.momentum, decay)))


@parallel
def _momentum_step(w: np.ndarray, g: np.ndarray, v: np.ndarray, lr: float, momentum: float, decay: float) -> None:
    # One pass for all of it: 5 elements move per parameter, where each step in NumPy would move 3.
    for chunk in prange(chunks(w.size)):
        ws, gs, vs = part(w, chunk), part(g, chunk), part(v, chunk)
        for i in range(ws.size):
            vs[i] = momentum * vs[i] + (gs[i] + decay * ws[i])
            ws[i] -= lr * vs[i]


class RMSprop(Optimizer):
    """RMSprop by TensorFlow's rule:

        s = rho * s + (1 - rho) * g**2,   v = momentum * v + lr * g / sqrt(s + eps),   w = w - v,

    with eps inside of the root, s starting at one, and lr inside of the momentum (Tieleman and Hinton,
    Lecture 6.5, 2012; TensorFlow's RMSPropOptimizer). The paper trains on JFT with lr 0.001 and momentum 0.9
    (section 4.2) and names neither rho nor eps.

    >>> from types import SimpleNamespace
    >>> w = SimpleNamespace(data=np.array([1.0]), grad=np.array([2.0]))
    >>> RMSprop([w], lr=0.1, eps=0.0).step()
    >>> w.data.round(6).tolist()  # 1 - 0.1 * 2 / sqrt(0.9 * 1 + 0.1 * 4)
    [0.824588]
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float,
        rho: float = 0.9,
        momentum: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        decay: Callable[[Parameter], bool] = is_kernel,
    ) -> None:
        super().__init__(params, lr, weight_decay, decay)
        check_range("rho", rho, 0, 1)
        check_range("momentum", momentum, 0, 1)
        check_range("eps", eps, 0, math.inf)
        self.rho, self.momentum, self.eps = rho, momentum, eps
        self._square = self._slot("square", initial=1.0)
        self._velocity = self._slot("velocity") if momentum else None

    def _update_on_gpu(self, i: int, w: Any, g: Any, decay: float) -> None:
        scalars = {"lr": self.lr, "rho": self.rho, "eps": self.eps, "decay": decay}
        if self._velocity is None:
            gpu.update(gpu.rmsprop, w, g, self._square[i], **scalars)
        else:
            v = self._velocity[i]
            gpu.update(gpu.momentum_rmsprop, w, g, self._square[i], v, **scalars, momentum=self.momentum)

    def _update(self, i: int, w: np.ndarray, g: np.ndarray, decay: float) -> None:
        g, tmp = self._decayed(w, g, decay), self._scratch(w, 1)
        s = self._square[i]
        _decay_square(s, g, self.rho, tmp)
        np.sqrt(np.add(s, self.eps, out=tmp), out=tmp)
        np.divide(g, tmp, out=tmp)
        tmp *= self.lr
        if self._velocity is not None:
            v = self._velocity[i]
            v *= self.momentum
            v += tmp
            tmp = v
        w -= tmp


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015, algorithm 1):

        m = beta1 * m + (1 - beta1) * g,   s = beta2 * s + (1 - beta2) * g**2,
        w = w - lr * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + eps),   t = number of steps.

    Weight decay is L2, added to g; that of ``AdamW`` is not.

    >>> from types import SimpleNamespace
    >>> w = SimpleNamespace(data=np.array([1.0, 1.0]), grad=np.array([5.0, -0.01]))
    >>> Adam([w], lr=0.1).step()
    >>> w.data.round(6).tolist()  # the first step is lr * sign(g)
    [0.9, 1.1]
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay: Callable[[Parameter], bool] = is_kernel,
    ) -> None:
        super().__init__(params, lr, weight_decay, decay)
        check_range("beta1", beta1, 0, 1)
        check_range("beta2", beta2, 0, 1)
        check_range("eps", eps, 0, math.inf)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self._mean = self._slot("mean")
        self._square = self._slot("square")

    def _update_on_gpu(self, i: int, w: Any, g: Any, decay: float) -> None:
        rate, square_scale = self.lr / (1 - self.beta1**self.steps), 1 / (1 - self.beta2**self.steps)
        gpu.update(
            gpu.adam, w, g, self._mean[i], self._square[i],
            rate=rate, beta1=self.beta1, beta2=self.beta2, square_scale=square_scale, eps=self.eps, decay=decay,
        )  # fmt: skip

    def _update(self, i: int, w: np.ndarray, g: np.ndarray, decay: float) -> None:
        g, tmp = self._decayed(w, g, decay), self._scratch(w, 1)
        m, s = self._mean[i], self._square[i]
        _decay_square(s, g, self.beta2, tmp)
        m *= self.beta1
        m += np.multiply(g, 1 - self.beta1, out=tmp)
        np.sqrt(np.multiply(s, 1 / (1 - self.beta2**self.steps), out=tmp), out=tmp)
        tmp += self.eps
        np.divide(m, tmp, out=tmp)
        w -= np.multiply(tmp, self.lr / (1 - self.beta1**self.steps), out=tmp)


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, 2019, algorithm 2):

        w = w - lr * wd * w,   then the step of Adam without weight decay.

    In Adam the decay is divided by the root of s as the gradient is: weights with large gradients decay less. Here all
    shrink by the same share. lr is the factor of the decay, too, as in PyTorch, whose arguments these are; but by
    default only kernels decay, as with the other optimisers here.

    >>> from types import SimpleNamespace
    >>> w = SimpleNamespace(data=np.array([[1.0, 1.0]]), grad=np.array([[5.0, -0.01]]))
    >>> AdamW([w], lr=0.1, weight_decay=0.5).step()
    >>> w.data.round(6).tolist()  # 1 - 0.1 * 0.5 - 0.1 * sign(g)
    [[0.85, 1.05]]
    """

    def __init__(
        self,
        params: Iterable[Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decay: Callable[[Parameter], bool] = is_kernel,
    ) -> None:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ArgumentError(f"expected a pair of betas, such as (0.9, 0.999), got {betas!r}")
        super().__init__(params, lr, *betas, eps, weight_decay, decay)

    def _update_on_gpu(self, i: int, w: Any, g: Any, decay: float) -> None:
        if decay:
            gpu.update(gpu.scale, w, factor=1 - self.lr * decay)
        super()._update_on_gpu(i, w, g, 0.0)

    def _update(self, i: int, w: np.ndarray, g: np.ndarray, decay: float) -> None:
        if decay:
            w *= 1 - self.lr * decay
        super()._update(i, w, g, 0.0)


def _decay_square(s: np.ndarray, g: np.ndarray, rho: float, tmp: np.ndarray) -> None:
    """s = rho * s + (1 - rho) * g**2, in place."""
    s *= rho
    np.multiply(g, g, out=tmp)
    s += np.multiply(tmp, 1 - rho, out=tmp)
