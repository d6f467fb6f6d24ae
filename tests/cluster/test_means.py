"""Means over shards under a real mpiexec: the same bits for any number of processes, early or late."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from minixception.cluster.means import ShardMean, share
from minixception.cluster.ranks import ALONE
from tests.cluster.test_tree import by_definition
from tests.helpers import mpi

SHAPES = [(300, 7), (5,), (2, 3, 4), (1,)]


def arrays(shard, step):
    rng = np.random.default_rng([shard, step])
    return [(rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype(np.float32) for shape in SHAPES]


def digests(ranks, shards, steps=2):
    """Of the means of some steps, which every rank must have alike; two means are under way at the same time."""
    both = [ShardMean(ranks, shards, SHAPES, np.dtype(np.float32), number) for number in range(2)]
    found = []
    for step in range(steps):
        for shard in share(shards, ranks.rank, ranks.size):
            for number in (2, 0, 3, 1):
                for which, mean in enumerate(both):
                    mean.put(number, arrays(shard, 2 * step + which)[number])
                    mean.poll()
        content = [array.tobytes() for mean in both for array in mean.result("a test")]
        found.append(hashlib.sha256(b"".join(content)).hexdigest())
        ranks.agree(mean=found)
    return found


def test_alone_it_is_the_tree_over_the_shards():
    mean = ShardMean(ALONE, 6, SHAPES, np.dtype(np.float32))
    for shard in range(6):
        for number, values in enumerate(arrays(shard, 0)):
            mean.put(number, values)
    for number, found in enumerate(mean.result("a test")):
        expected = by_definition([arrays(shard, 0)[number] for shard in range(6)]) / np.float32(6)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(("shards", "count"), [(8, 2), (8, 3), (8, 4), (7, 3), (5, 5)])
def test_any_number_of_processes_gives_the_same_bits(shards, count):
    assert mpi.result(count, digests, shards) == digests(ALONE, shards)
