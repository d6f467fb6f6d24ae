"""Peers of the benchmark that are ours in disguise, or fail; importable, for a process of its own to build them."""

from __future__ import annotations

import os
import signal
from functools import partial

import numpy as np

from minixception import Tensor, cross_entropy, nn, no_grad
from minixception.optim import SGD


def linear():
    """The smallest network for images of 4x4 pixels."""
    model = nn.Sequential(nn.GlobalAvgPool(), nn.Linear(3, 10))
    model.input_shape = (4, 4, 3)
    return model


# Inference ------------------------------------------------------------------------------------------------------------


def logits(model, x, threads):
    """Ours."""
    with no_grad():
        return partial(_same, model.eval()(Tensor(x)).numpy())


def ones(model, x, threads):
    """Not ours."""
    return partial(np.ones, (len(x), 10), np.float32)


def _same(value):
    return value


def raises(model, x, threads):
    """A build that raises."""
    raise RuntimeError("no compiler\n  was found")


def leaves(model, x, threads):
    """A build that ends the process."""
    os._exit(3)


def crashes(model, x, threads):
    """A run that is killed."""
    return partial(os.kill, os.getpid(), signal.SIGKILL)


FAILING = {
    raises: "RuntimeError: no compiler was found",
    leaves: "its process ended with status 3",
    crashes: "its process ended by SIGKILL",
}


# Training -------------------------------------------------------------------------------------------------------------


def training(off=0.0, lr=None, momentum=0.9, alter=None):
    """A peer that trains as we do, but for one mistake: gradients that are ``off`` in float32 (a share), another rate,
    another momentum, or another network."""
    return partial(_training, off, lr, momentum, alter)


def _training(off, lr, momentum, alter, model, x, labels, threads, right_lr):
    if alter:
        alter(model)
    model.train()
    sgd = SGD(model.parameters(), lr=lr or right_lr, momentum=momentum)

    def step():
        sgd.zero_grad()
        cross_entropy(model(Tensor(x)), labels).backward()
        sgd.step()

    factor = x.dtype.type(1 if x.dtype == np.float64 else 1 + off)
    return step, lambda: [factor * p.grad for p in model.parameters() if p.grad is not None]


def with_another_bias(model):
    """Logits of the right size, not of the right value."""
    _first(model, nn.Linear).bias.data[:] = np.arange(10) / 10


def without_a_relu(model):
    """A convolution reads what is negative too."""
    _first(model, nn.SeparableConv2d, lambda layer: layer.relu).relu = False


def with_another_stride(model):
    """The first convolution leaves out every second pixel, which no gradient shows by its shape."""
    _first(model, nn.Conv2d).stride = 2


def with_another_eps(model):
    """One batchnorm adds a little more to the variance."""
    _first(model, nn.BatchNorm2d).eps *= 1.01


def _first(model, kind, wanted=lambda layer: True):
    return next(layer for _, layer in model.named_modules() if isinstance(layer, kind) and wanted(layer))
