"""minixception: Xception from scratch in NumPy and Numba.

An autograd engine with a tape, operators as ladders of kernels (NumPy definition, Numba loops, fast Numba), and
Xception on top. Importing compiles nothing and prints nothing.
"""

from __future__ import annotations

from . import course as lab
from . import data, errors, imagenet, models, nn, ops, optim, training, viz
from .apps import hub
from .compiler import compile
from .engine.backend import current_backend, use_backend
from .engine.creation import ones, randn, zeros
from .engine.function import Function
from .engine.gradcheck import gradcheck
from .engine.interop import from_dlpack
from .engine.random import seed
from .engine.tape import no_grad
from .engine.tensor import Tensor, tensor
from .graph import cost
from .ops import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from .training import load, metrics

__version__ = "0.1.0"

__all__ = [
    "Function",
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
    "load",
    "metrics",
    "models",
    "mse_loss",
    "nn",
    "no_grad",
    "ones",
    "ops",
    "optim",
    "randn",
    "seed",
    "tensor",
    "training",
    "use_backend",
    "viz",
    "zeros",
]
