"""Evaluation: loss and accuracy of a model over a data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..data import Dataset, batches, steps_per_epoch
from ..errors import NumericError
from ..metrics import Accuracy, Mean
from ..nn import Module
from ..ops import cross_entropy
from ..tensor import Tensor, no_grad


def evaluate(
    model: Module,
    dataset: Dataset,
    batch_size: int = 250,
    advance: Callable[[int, int], Any] = lambda step, steps: None,
) -> dict[str, float]:
    """Mean cross-entropy, top-1 and (with more than five classes) top-5 accuracy, in inference mode.

    advance(step, steps) is called before each batch, for a progress bar. Leaves the model in the mode it was in.
    Raises NumericError if the loss is not finite.

    >>> import minixception as mx
    >>> data = mx.data.load("shapes", "test")
    >>> sorted(evaluate(mx.models.mini_xception(8, (8,), 0, 8), data))
    ['loss', 'top1', 'top5']
    """
    batch_size = min(batch_size, len(dataset))
    steps = steps_per_epoch(len(dataset), batch_size)
    measures: dict[str, Mean] = {"loss": Mean(), "top1": Accuracy(1)}
    if dataset.num_classes > 5:
        measures["top5"] = Accuracy(5)
    with model.inference(), no_grad():
        for step, x, labels in batches(dataset, batch_size):
            advance(step, steps)
            logits = model(Tensor(x))
            loss = cross_entropy(logits, labels).item()
            if not math.isfinite(loss):
                raise NumericError(f"the loss is {loss} in evaluation: the weights diverged, lower the learning rate")
            measures["loss"].update(loss, len(labels))
            for measure in measures.values():
                if isinstance(measure, Accuracy):
                    measure.add(logits.numpy(), labels)
    return {name: measure.value for name, measure in measures.items()}
