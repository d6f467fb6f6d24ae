"""Evaluation: loss and accuracy of a model over a data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..data import Dataset, batches, steps_per_epoch
from ..data.prefetch import prefetched
from ..engine.tape import no_grad
from ..errors import NumericError
from ..nn import Module
from ..ops import cross_entropy
from .measure import measure
from .metrics import Mean


def evaluate(
    model: Module,
    dataset: Dataset,
    batch_size: int = 250,
    advance: Callable[[int, int], Any] = lambda step, steps: None,
) -> dict[str, float]:
    """Mean cross-entropy, top-1 and (with more than five classes) top-5 accuracy, in inference mode.

    Runs where the model is, on the CPU or the GPU. advance(step, steps) is called before each batch, for a progress
    bar. Leaves the model in the mode it was in.
    Raises NumericError if the loss is not finite.

    >>> import minixception as mx
    >>> data = mx.data.load("shapes", "test")
    >>> sorted(evaluate(mx.models.mini_xception(8, (8,), 0, 8), data))
    ['loss', 'top1', 'top5']
    """
    batch_size = min(batch_size, len(dataset))
    steps = steps_per_epoch(len(dataset), batch_size)
    ks = (1, 5) if dataset.num_classes > 5 else (1,)
    means = {name: Mean() for name in ("loss", *(f"top{k}" for k in ks))}
    pairs = ((x, labels) for _, x, labels in batches(dataset, batch_size))
    with model.inference(), no_grad():
        for step, (x, labels) in enumerate(prefetched(pairs, device_of(model))):
            advance(step, steps)
            logits = model(x)
            loss, *accuracies = measure(cross_entropy(logits, labels), logits, labels, ks)
            if not math.isfinite(loss):
                raise NumericError(f"the loss is {loss} in evaluation: the weights diverged, lower the learning rate")
            for mean, value in zip(means.values(), (loss, *accuracies), strict=True):
                mean.update(value, len(labels))
    return {name: mean.value for name, mean in means.items()}


def device_of(model: Module) -> str:
    """Where the model's tensors are: "cpu" or "cuda"; "cpu" for one without any.

    >>> import minixception as mx
    >>> device_of(mx.nn.Linear(2, 3))
    'cpu'
    """
    return next((tensor.device for _, tensor in model.named_tensors()), "cpu")
