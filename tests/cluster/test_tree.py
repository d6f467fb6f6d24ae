"""Sums in a fixed order: whoever adds what, the bits are the same, and they are not those of another order."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minixception.cluster.means import in_buckets, share
from minixception.cluster.tree import Node, levels, push, total


def terms(count, seed):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(40) * 10.0 ** rng.integers(-3, 4)).astype(np.float32) for _ in range(count)]


def by_definition(arrays):
    """Neighbours, then neighbouring pairs, and so on; who has no right neighbour goes up alone."""
    while len(arrays) > 1:
        arrays = [sum(arrays[i + 1 : i + 2], arrays[i]) for i in range(0, len(arrays), 2)]
    return arrays[0]


@given(st.integers(1, 33), st.lists(st.integers(0, 33), max_size=6), st.integers(0, 99))
def test_any_division_of_the_terms_gives_the_bits_of_the_definition(count, cuts, seed):
    arrays, nodes = terms(count, seed), []
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    for first, last in itertools.pairwise(edges):
        stack = []
        for number in range(first, last):
            push(stack, Node(0, number, arrays[number].copy()))
        assert [node[:2] for node in stack] == levels(range(first, last))
        nodes += stack
    assert np.array_equal(total(nodes), by_definition(arrays))


def test_another_order_has_other_bits():
    arrays = terms(8, 0)
    assert not np.array_equal(by_definition(arrays), sum(arrays[1:], arrays[0]))


def test_arrays_that_are_free_again_are_handed_back():
    stack, free, made = [], [], 0
    for number in range(1000):
        made += not free
        free += push(stack, Node(0, number, free.pop() if free else np.zeros(1)))
        assert len(stack) == (number + 1).bit_count()
    assert made <= 11  # log2(1000) + 1


@given(st.integers(1, 50), st.integers(1, 50))
def test_shares_are_consecutive_and_even(whole, size):
    shares = [share(whole, rank, size) for rank in range(size)]
    assert [number for part in shares for number in part] == list(range(whole))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 20))
def test_buckets_hold_every_array_once_and_end_when_full(sizes, capacity):
    buckets = list(in_buckets(sizes, capacity))
    assert [number for bucket in buckets for number in bucket] == list(range(len(sizes)))
    for bucket in buckets:
        held = [sizes[number] for number in bucket]
        assert sum(held[:-1]) < capacity
        assert sum(held) >= capacity or bucket is buckets[-1]
