"""minixception: Xception from scratch in NumPy and Numba.

An autograd engine with a tape, operators as ladders of kernels (NumPy definition, Numba loops, fast Numba), and
Xception on top. Importing compiles nothing and prints nothing.
"""

from __future__ import annotations

from . import cost, data, errors, hub, imagenet, lab, metrics, models, nn, ops, optim, training, viz
from .backend import current_backend, use_backend
from .gradcheck import gradcheck
from .infer import compile
from .interop import from_dlpack
from .ops import binary_cross_entropy_with_logits, cross_entropy
from .random import seed
from .tensor import Tensor, no_grad, tensor

__version__ = "0.1.0"

__all__ = [
    "Tensor",
    "__version__",
    "binary_cross_entropy_with_logits",
    "compile",
    "cost",
    "cross_entropy",
    "current_backend",
    "data",
    "errors",
    "from_dlpack",
    "gradcheck",
    "hub",
    "imagenet",
    "lab",
    "metrics",
    "models",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "seed",
    "tensor",
    "training",
    "use_backend",
    "viz",
]
