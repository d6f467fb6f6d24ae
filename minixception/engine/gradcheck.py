"""gradcheck: backward() held to finite differences.

A gradient is a linear map from directions to slopes. For a random direction d and a random cotangent v,

    v . (f(x + e d) - f(x - e d)) / (2 e)     must equal     (gradient of v . f at x) . d

Both sides are one number per tensor, so the check costs two forward passes whatever the size. The cotangent must be
random: with v = 1 ("sum().backward()") batchnorm's true gradient is zero, and a wrong one goes unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import DTypeError, GradientError
from ..gpu.device import to, to_cpu
from .tape import no_grad
from .tensor import Tensor

_STEP = 1e-6  # where the error of the difference (step^2) meets that of rounding (1e-16 / step)


def gradcheck(
    fn: Callable[..., Tensor],
    inputs: Sequence[Tensor] | Mapping[str, Tensor],
    directions: int = 2,
    seed: int = 0,
    rtol: float = 1e-5,
) -> None:
    """Compare backward() of ``fn(*inputs)`` with central differences, for each input with requires_grad.

    inputs: float64 tensors, in a list or by name; those without requires_grad are held fixed. fn must be smooth at
    the inputs and give the same result every time. Raises GradientError naming the tensor, the direction, the analytic
    and the numeric slope; DTypeError for float32, whose differences are too rough. Leaves ``.grad`` as it was.
    Cost: one forward and backward, then two forwards per tensor and direction.

    >>> import minixception as mx
    >>> gradcheck(lambda x: x * x, [mx.tensor([1.0, 2.0], dtype="float64", requires_grad=True)])
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {f"input {i}": t for i, t in enumerate(inputs)}
    tensors = list(named.values())
    checked = {name: t for name, t in named.items() if t.requires_grad}
    for name, t in checked.items():
        if t.dtype != np.float64:
            raise DTypeError(f"gradcheck needs float64, {name} is {t.dtype}: differences of float32 are too rough")
    rng = np.random.Generator(np.random.PCG64(seed))
    before = [t.grad for t in tensors]
    y = fn(*tensors)
    cotangent = rng.standard_normal(y.shape)
    for t in tensors:
        t.grad = None
    y.backward(cotangent)
    gradients = {name: t.grad for name, t in checked.items()}
    for t, grad in zip(tensors, before, strict=True):
        t.grad = grad

    noise = 1e-8 * (1.0 + float(np.abs(y.numpy() * cotangent).sum()))  # rounding of the difference, well above it
    for name, t in checked.items():
        gradient = gradients[name]
        if gradient is None:
            raise GradientError(f"{name}: backward() left no gradient")
        for number in range(directions):
            direction = rng.standard_normal(t.shape)
            numeric = _slope(fn, tensors, t, direction, cotangent)
            analytic = float((to_cpu(gradient) * direction).sum())
            if not abs(analytic - numeric) <= noise + rtol * max(abs(analytic), abs(numeric)):
                raise GradientError(
                    f"{name} {t.shape}, direction {number}: analytic {analytic:.10g}, numeric {numeric:.10g}"
                )


def _slope(
    fn: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    moved: Tensor,
    direction: np.ndarray,
    cotangent: np.ndarray,
) -> float:
    """Central difference of cotangent . fn as ``moved`` goes along the direction."""
    original, device = moved.data, moved.device
    values = []
    try:
        with no_grad():
            for step in (_STEP, -_STEP):
                moved.data = to(to_cpu(original) + step * direction, device)
                values.append(float((fn(*tensors).numpy() * cotangent).sum()))
    finally:
        moved.data = original
    return (values[0] - values[1]) / (2 * _STEP)
