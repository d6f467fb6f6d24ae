"""A sum whose order is fixed by the number of its terms, not by who computes them.

Rounded addition is not associative: (a + b) + c and a + (b + c) may differ in the last bit. So the order belongs to the
definition of the sum. Here it is a binary tree over the terms 0, 1, 2, ...: neighbours are added, then neighbouring
pairs, then fours. Where a node has no right neighbour, it is the left one's sum that goes up alone:

    terms     0   1   2   3   4   5
    level 1   0+1     2+3     4+5
    level 2      0..3         4+5
    level 3             0..5

Whoever has some consecutive terms can add those nodes that lie whole within them, and hand on these; whoever gets the
nodes of all adds the rest. The additions are the same ones, so the bits are, too.

A stack of nodes is all that is needed, as in a binary counter, whose digits say which levels wait for a neighbour: with
every new term equal levels at its top are added. It never holds more than one node of a level, and n terms need memory
for log2(n) + 1 sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..engine.accumulate import accumulate


class Node(NamedTuple):
    """The sum of the terms from ``number * 2**level`` up to the next node's, or to the last one."""

    level: int
    number: int
    sum: np.ndarray


def push(stack: list[Node], node: Node) -> list[np.ndarray]:
    """The next node, and all additions that it makes possible, in place; returns the arrays that are free again."""
    free = []
    stack.append(node)
    while len(stack) > 1 and _are_neighbours(*stack[-2:]):
        right, left = stack.pop(), stack.pop()
        accumulate(left.sum, right.sum)
        free.append(right.sum)
        stack.append(Node(left.level + 1, left.number // 2, left.sum))
    return free


def total(nodes: Iterable[Node]) -> np.ndarray:
    """The sum of all terms, from the nodes of consecutive terms in order, in the memory of the first.

    >>> terms = [np.array([number]) for number in (1e16, 1.0, 1.0, -1e16)]
    >>> total(Node(0, i, term.copy()) for i, term in enumerate(terms))
    array([0.])
    >>> left, right = terms[0] + terms[1], terms[2] + terms[3]
    >>> total([Node(1, 0, left), Node(1, 1, right)])
    array([0.])
    """
    stack: list[Node] = []
    for node in nodes:
        push(stack, node)
    while len(stack) > 1:  # nodes without a right neighbour
        accumulate(stack[-2].sum, stack.pop().sum)
    return stack[0].sum


def levels(terms: range) -> list[tuple[int, int]]:
    """(level, number) of the nodes that whoever has these terms hands on.

    >>> levels(range(3)), levels(range(3, 8))
    ([(1, 0), (0, 2)], [(0, 3), (2, 1)])
    """
    stack: list[tuple[int, int]] = []
    for term in terms:
        level, number = 0, term
        while stack and number % 2 and stack[-1] == (level, number - 1):
            stack.pop()
            level, number = level + 1, number // 2
        stack.append((level, number))
    return stack


def _are_neighbours(left: Node, right: Node) -> bool:
    return left.level == right.level and left.number % 2 == 0 and right.number == left.number + 1
