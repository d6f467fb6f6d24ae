"""A batch in shards: each has its own forward and backward pass, wherever it runs, and the means are everybody's.

Batchnorm normalises each shard by the shard's own statistics ("ghost batches": Hoffer et al. 2017, section 4; what the
paper's 60 replicas did, too). So shards never wait for each other within a pass, and what is computed depends on their
number: it belongs to the recipe. It does not depend on who computes them: the means over the shards, of the gradients,
of the running statistics and of the loss, are added in the order of cluster/tree.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..cluster.means import BUCKET, ShardMean, in_buckets, share
from ..cluster.ranks import Ranks
from ..engine.tensor import Tensor
from ..nn import Module, Parameter
from .batch import Gradients


class ShardedGradients:
    """Computes the loss and top-1 accuracy of a batch in shards, and leaves the mean gradients in the parameters.

    The gradients of the last of this rank's shards are on their way, in buckets, while its backward pass goes on. A
    rank needs memory for log2 of its number of shards + 1 sets of gradients, and for one set more.
    """

    def __init__(self, gradients: Gradients, model: Module, shards: int, ranks: Ranks) -> None:
        self._gradients, self._ranks = gradients, ranks
        self.mine = share(shards, ranks.rank, ranks.size)
        self._state = [buffer for _, buffer in model.named_buffers()]
        trained = [one for one in reversed(model.parameters()) if one.requires_grad]  # about as they get gradients
        shapes = [one.data.shape for one in trained]
        self._buckets: list[tuple[ShardMean, list[Parameter]]] = []
        self._place: dict[int, tuple[ShardMean, int]] = {}
        for bucket in in_buckets([one.data.nbytes for one in trained], BUCKET):
            held = [trained[i] for i in bucket]
            mean = ShardMean(ranks, shards, shapes[bucket.start : bucket.stop], held[0].data.dtype, len(self._buckets))
            self._buckets.append((mean, held))
            self._place |= {id(one): (mean, number) for number, one in enumerate(held)}
        # Loss and accuracy, and whether anybody wants to stop, with the running statistics
        shapes = [(3,), *(buffer.data.shape for buffer in self._state)]
        self._rest = ShardMean(ranks, shards, shapes, np.dtype(np.float32), len(self._buckets))

    def __call__(self, x: Tensor, labels: Any, begin: Callable[[int], Any], stop: bool) -> tuple[list[float], bool]:
        """Loss and accuracy of the whole batch, and whether any rank has asked to stop.

        x (n, h, w, c) and labels (n,): of this rank's shards, all of one size. begin: called with the number of each
        shard before its pass, for what is drawn in it.
        """
        before = [buffer.data.copy() for buffer in self._state]
        length = len(labels) // len(self.mine)
        for number, shard in enumerate(self.mine):
            part = slice(number * length, (number + 1) * length)
            for buffer, array in zip(self._state, before, strict=True):
                buffer.data[...] = array
            begin(shard)
            measures = self._gradients(Tensor(x.data[part]), labels[part], self._pass_on)
            self._rest.put(0, np.array([*measures, stop]))
            for place, buffer in enumerate(self._state, 1):
                self._rest.put(place, buffer.data)
        for mean, held in self._buckets:
            for parameter, gradient in zip(held, mean.result("the gradients of a step"), strict=True):
                parameter.grad = gradient
        (loss, top1, stops), *state = self._rest.result("the loss of a step")
        for buffer, array in zip(self._state, state, strict=True):
            buffer.data[...] = array
        return [float(loss), float(top1)], bool(stops)

    def _pass_on(self, parameter: Parameter) -> None:
        mean, number = self._place[id(parameter)]
        assert parameter.grad is not None  # of every parameter that a network of ours trains
        mean.put(number, parameter.grad)
        for bucket, _ in self._buckets:
            bucket.poll()
