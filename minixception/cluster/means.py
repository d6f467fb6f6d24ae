"""Means over the shards of a batch, begun while the arrays are still being made.

The arrays of a ``ShardMean`` lie in one flat piece of memory, a bucket: one message instead of many small ones. Their
mean is made in three steps, as in every allreduce that moves no byte twice:

1. Each rank adds up its own shards, as far as the tree allows (tree.py).
2. Each rank gets a P-th of the bucket from each of the P ranks, its slice of the nodes that they have, and adds these.
3. Each rank sends the sum of its slice to the others.

A rank sends and receives 2 (P - 1) / P of the bucket, where its shards make up a single node; no order of additions
needs less. Steps 2 and 3 are messages that need no attention: the backward pass goes on, and ``poll`` looks between two
of its layers whether the next step can begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..engine.accumulate import accumulate
from . import tree
from .ranks import Ranks, Request
from .tree import Node

BUCKET = 1 << 20  # bytes: messages that come near the network's bandwidth, and buckets that are full before the end


def share(whole: int, rank: int, size: int) -> range:
    """The rank's consecutive part of so many things, of which no rank has two more than another.

    >>> [share(8, rank, 3) for rank in range(3)]
    [range(0, 2), range(2, 5), range(5, 8)]
    """
    return range(whole * rank // size, whole * (rank + 1) // size)


def in_buckets(sizes: Sequence[int], capacity: int) -> Iterator[range]:
    """Runs of consecutive arrays of these sizes: each ends with the array that reaches the capacity.

    >>> list(in_buckets([1, 1, 5, 2], 2))
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    first, held = 0, 0
    for number, size in enumerate(sizes):
        held += size
        if held >= capacity or number == len(sizes) - 1:
            yield range(first, number + 1)
            first, held = number + 1, 0


class ShardMean:
    """The mean over ``shards`` of some arrays, each of which comes from every shard; its bits do not depend on ranks.

    Each rank has a share of the shards. It calls ``put`` for every array of the first of them, then of the second, and
    so on, and ``result`` when all are there; then everything may begin anew. number: of this mean among those that are
    under way at the same time.
    """

    def __init__(
        self, ranks: Ranks, shards: int, shapes: Sequence[tuple[int, ...]], dtype: np.dtype[Any], number: int = 0
    ) -> None:
        self._ranks, self._shards, self._dtype = ranks, shards, dtype
        self._shares = [share(shards, rank, ranks.size) for rank in range(ranks.size)]
        self._tags = 2 * number + 1, 2 * number + 2  # of steps 2 and 3
        ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)]).tolist()
        self._places = [(slice(a, b), shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]
        slices = (share(ends[-1], rank, ranks.size) for rank in range(ranks.size))
        self._slices = [slice(one.start, one.stop) for one in slices]
        self._spare: list[np.ndarray] = []  # memory for nodes
        self._nodes: list[Node] = []
        self._shard, self._missing, self._adding = self._shares[ranks.rank].start, 0, False
        self._steps: Iterator[list[tuple[int, Request]]] = iter(())
        self._awaited: list[tuple[int, Request]] | None = None
        self._total = self._memory()
        mine = self._slices[ranks.rank]
        self._incoming = {
            rank: [Node(*place, np.empty(mine.stop - mine.start, dtype)) for place in tree.levels(part)]
            for rank, part in enumerate(self._shares)
            if rank != ranks.rank
        }

    def put(self, number: int, values: np.ndarray) -> None:
        """The array of this number, of the shard whose arrays come now: it is read, and not kept."""
        if not self._missing:
            self._begin_shard()
        place, shape = self._places[number]
        here = self._node[place].reshape(shape)
        if self._adding:
            accumulate(here, values)
        else:
            here[...] = values
        self._missing -= 1
        if not self._missing:
            self._end_shard()

    def _begin_shard(self) -> None:
        """The second of two neighbours is added to the first as it comes: it needs no memory of its own."""
        self._missing = len(self._places)
        self._adding = bool(self._nodes) and self._shard % 2 == 1 and self._nodes[-1][:2] == (0, self._shard - 1)
        self._node = self._nodes.pop().sum if self._adding else self._memory()

    def _end_shard(self) -> None:
        place = (1, self._shard // 2) if self._adding else (0, self._shard)
        self._spare += tree.push(self._nodes, Node(*place, self._node))
        self._shard += 1
        if self._shard == self._shares[self._ranks.rank].stop:
            self._steps = self._exchange()
            self._awaited = next(self._steps, None)

    def _memory(self) -> np.ndarray:
        return self._spare.pop() if self._spare else np.empty(self._slices[-1].stop, self._dtype)

    def _exchange(self) -> Iterator[list[tuple[int, Request]]]:
        """Steps 2 and 3; gives the messages that have to arrive before it can go on."""
        ranks, mine, (gathering, spreading) = self._ranks, self._slices[self._ranks.rank], self._tags
        others = list(self._incoming)
        coming = [(rank, ranks.receive(node.sum, rank, gathering)) for rank in others for node in self._incoming[rank]]
        going = [
            (rank, ranks.send(node.sum[self._slices[rank]], rank, gathering)) for rank in others for node in self._nodes
        ]
        if others:
            yield coming
        nodes = self._incoming | {ranks.rank: [node._replace(sum=node.sum[mine]) for node in self._nodes]}
        mean = tree.total(node for rank in range(ranks.size) for node in nodes[rank])
        np.divide(mean, self._shards, out=self._total[mine])
        coming = [(rank, ranks.receive(self._total[self._slices[rank]], rank, spreading)) for rank in others]
        going += [(rank, ranks.send(self._total[mine], rank, spreading)) for rank in others]
        if others:
            yield coming + going

    def poll(self) -> None:
        """Let messages move on, and begin what can begin; call it now and then."""
        if self._awaited is not None and all(message.Test() for _, message in self._awaited):
            self._awaited = next(self._steps, None)

    def result(self, what: str) -> list[np.ndarray]:
        """The mean of each array, on every rank; they are overwritten by the next one."""
        while self._awaited is not None:
            self._ranks.wait(self._awaited, what)
            self._awaited = next(self._steps, None)
        self._spare += [node.sum for node in self._nodes]
        self._nodes, self._shard = [], self._shares[self._ranks.rank].start
        return [self._total[place].reshape(shape) for place, shape in self._places]
