"""Optimisers, learning-rate schedules, gradient clipping and averaged weights.

An optimiser updates ``parameter.data`` in place from ``parameter.grad``; a parameter whose gradient is None
is left alone. Weight decay is the L2 penalty wd / 2 * sum(w**2): it adds wd * w to the gradient (Xception,
section 4.3).

The paper's values (Xception, section 4.2): on ImageNet ``SGD(lr=0.045, momentum=0.9, weight_decay=1e-5)``
with ``ExponentialDecay(0.045, 0.94, every_epochs=2)``; on JFT ``RMSprop(lr=0.001, momentum=0.9,
weight_decay=1e-5)`` with ``ExponentialDecay(0.001, 0.9, every_samples=3_000_000)``. Its results are those of
Polyak-averaged weights.
"""

from __future__ import annotations

from .averaging import EMA as EMA
from .clipping import clip_grad_norm as clip_grad_norm
from .optimizers import SGD as SGD
from .optimizers import Adam as Adam
from .optimizers import AdamW as AdamW
from .optimizers import Optimizer as Optimizer
from .optimizers import RMSprop as RMSprop
from .optimizers import is_kernel as is_kernel
from .schedules import Cosine as Cosine
from .schedules import ExponentialDecay as ExponentialDecay
from .schedules import Schedule as Schedule
