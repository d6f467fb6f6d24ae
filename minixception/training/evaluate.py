"""Evaluation: loss and accuracy of a model over a data set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from ..cluster.means import share
from ..cluster.ranks import ALONE, Ranks
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
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Mean cross-entropy, top-1 and (with more than five classes) top-5 accuracy, in inference mode.

    Runs where the model is, on the CPU or the GPU. advance(step, steps) is called before each batch, for a progress
    bar. Leaves the model in the mode it was in. ranks: the processes that share the batches; the result, which does not
    depend on them, is everybody's.
    Raises NumericError if the loss is not finite.

    >>> import minixception as mx
    >>> data = mx.data.load("shapes", "test")
    >>> sorted(evaluate(mx.models.mini_xception(8, (8,), 0, 8), data))
    ['loss', 'top1', 'top5']
    """
    batch_size = min(batch_size, len(dataset))
    steps = steps_per_epoch(len(dataset), batch_size)
    ks = (1, 5) if dataset.num_classes > 5 else (1,)
    mine = share(steps, ranks.rank, ranks.size)
    feed = itertools.islice(batches(dataset, batch_size, start=mine.start), len(mine))
    pairs = ((x, labels) for _, x, labels in feed)
    measured = []
    with model.inference(), no_grad():
        for step, (x, labels) in enumerate(prefetched(pairs, device_of(model))):
            advance(step, len(mine))
            logits = model(x)
            values = measure(cross_entropy(logits, labels), logits, labels, ks)
            if not math.isfinite(values[0]):
                raise NumericError(
                    f"the loss is {values[0]} in evaluation: the weights diverged, lower the learning rate"
                )
            measured.append((values, len(labels)))
    means = [Mean() for _ in (0, *ks)]
    for values, weight in itertools.chain.from_iterable(ranks.everybodys(measured, "the evaluation")):
        for mean, value in zip(means, values, strict=True):
            mean.update(value, weight)
    return dict(zip(("loss", *(f"top{k}" for k in ks)), (mean.value for mean in means), strict=True))


def device_of(model: Module) -> str:
    """Where the model's tensors are: "cpu" or "cuda"; "cpu" for one without any.

    >>> import minixception as mx
    >>> device_of(mx.nn.Linear(2, 3))
    'cpu'
    """
    return next((tensor.device for _, tensor in model.named_tensors()), "cpu")
