"""Where boxes and arrows stand in a picture of a graph: layers from top to bottom, each box below what leads to it.

The layout is that of Sugiyama et al. 1981 in its simplest form: (1) a box's layer is the longest path that leads to it;
(2) an edge over several layers bends once in each; (3) a few sweeps order each layer by the mean place of its
neighbours, so that few edges cross; (4) a few more move each box under or above its neighbour on the longest path;
(5) bends of one edge go on one line where they can. Time and memory grow with the number of boxes and bends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TypeVar

_SWEEPS = 8
Point = tuple[float, float]


@dataclass(eq=False)
class Box:
    """A box of the picture, or (without a size) a bend of a long edge, in any unit of length; y grows downwards.

    left, half: from x to its left and right end. What stands to the left of x - half belongs to the box, but edges
    neither begin nor end there.
    """

    half: float = 0.0
    left: float = 0.0
    height: float = 0.0
    layer: int = 0
    x: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    above: list[Box] = field(default_factory=list)  # neighbours one layer up and down, bends included
    below: list[Box] = field(default_factory=list)


B = TypeVar("B", bound=Box)


def arrange(boxes: Sequence[B], edges: Sequence[tuple[B, B]], gap: float, row_gap: float) -> list[list[Box]]:
    """Place all boxes; each edge as a chain of boxes, from its first over its bends to its last.

    boxes: in an order in which no edge leads back; both are changed in place. gap: least distance between boxes of a
    layer, row_gap: between layers.
    """
    layers, chains = _layers(boxes, edges)
    _order(layers)
    _place(layers, gap, row_gap)
    _straighten(layers, chains, gap)
    return chains


def _layers(boxes: Sequence[Box], edges: Sequence[tuple[Box, Box]]) -> tuple[list[list[Box]], list[list[Box]]]:
    """Boxes and bends by layer, and each edge as a chain of boxes; links neighbours to each other."""
    place = {box: i for i, box in enumerate(boxes)}
    reached = {child for _, child in edges}
    first_use: dict[Box, int] = {}
    for parent, child in sorted(edges, key=lambda edge: place[edge[0]]):  # the parent's layer is final
        child.layer = max(child.layer, parent.layer + 1)
    for parent, child in edges:
        if parent not in reached:
            first_use[parent] = min(child.layer, first_use.get(parent, child.layer))
    for source, layer in first_use.items():
        source.layer = layer - 1

    layers: list[list[Box]] = [[] for _ in range(1 + max(box.layer for box in boxes))]
    for box in boxes:
        layers[box.layer].append(box)
    chains: list[list[Box]] = []
    for parent, child in edges:
        bends = [Box(layer=i) for i in range(parent.layer + 1, child.layer)]
        for bend in bends:
            layers[bend.layer].append(bend)
        chains.append([parent, *bends, child])
        for upper, lower in pairwise(chains[-1]):
            upper.below.append(lower)
            lower.above.append(upper)
    return layers, chains


def _order(layers: list[list[Box]]) -> None:
    """Sort each layer by the mean position of its neighbours, down and up in turn."""
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        position: dict[Box, float] = {}
        for layer in layers if down else reversed(layers):
            position |= {box: i for i, box in enumerate(layer)}
            layer.sort(key=lambda box: _mean([position[b] for b in (box.above if down else box.below)], position[box]))
            position |= {box: i for i, box in enumerate(layer)}


def _place(layers: list[list[Box]], gap: float, row_gap: float) -> None:
    """Set x, top and bottom of every box, and keep the longest path through the picture as straight as it can be."""
    above = _longest_paths(layers, lambda box: box.above)
    below = _longest_paths(layers[::-1], lambda box: box.below)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 1
        length = above if down else below
        for layer in layers if down else reversed(layers):
            wanted = []
            for box in layer:
                near = box.above if down else box.below
                main = [b.x for b in near if length[b] == max(map(length.__getitem__, near))]
                wanted.append(_mean(main, box.x))
            gaps = [a.half + gap + b.left for a, b in pairwise(layer)]
            for box, x in zip(layer, spread(wanted, gaps, [above[b] + below[b] for b in layer]), strict=True):
                box.x = x
    top = gap
    for layer in layers:
        row = max(box.height for box in layer)
        for box in layer:
            height = box.height or row  # a bend goes straight through its layer
            box.top = top + (row - height) / 2
            box.bottom = box.top + height
        top += row + row_gap


def _straighten(layers: list[list[Box]], chains: list[list[Box]], gap: float) -> None:
    """Put all bends of an edge on one line where there is space for it in each of their layers."""
    for parent, *bends, child in chains:
        low, high = float("-inf"), float("inf")
        for bend in bends:
            layer = layers[bend.layer]
            i = layer.index(bend)
            low = max([low, *(box.x + box.half + gap / 2 for box in layer[i - 1 : i])])
            high = min([high, *(box.x - box.left - gap / 2 for box in layer[i + 1 : i + 2])])
        if not bends or low > high:
            continue
        wanted = sorted(bend.x for bend in bends)[len(bends) // 2]
        if len(parent.below) == 1:
            wanted = parent.x
        elif len(child.above) == 1:
            wanted = child.x
        for bend in bends:
            bend.x = min(max(wanted, low), high)


def _longest_paths(layers: list[list[Box]], before: Callable[[Box], list[Box]]) -> dict[Box, int]:
    """Boxes, not counting bends, on the longest path that leads to each box from the first of these layers on."""
    length: dict[Box, int] = {}
    for layer in layers:
        for box in layer:
            length[box] = max((length[b] for b in before(box)), default=0) + (box.height > 0)
    return length


def spread(wanted: Sequence[float], gaps: Sequence[float], priority: Sequence[float]) -> list[float]:
    """Places near the wanted ones but at least the gaps apart; of two in conflict the one of lower priority gives way.

    Less the sum of the gaps to its left, a place only has to be no smaller than the one before: isotonic regression,
    solved by pooling neighbours that are in the wrong order until none is left.

    >>> [round(x) for x in spread([5, 5, 9], gaps=[2, 2], priority=[1, 3, 2])]
    [3, 5, 9]
    >>> spread([5, 5], gaps=[2], priority=[1, 1])
    [4.0, 6.0]
    """
    offsets = list(accumulate(gaps, initial=0.0))
    pools: list[tuple[float, float, int]] = []  # (place, weight, members)
    for x, offset, p in zip(wanted, offsets, priority, strict=True):
        place, weight, members = x - offset, 10.0 ** max(6 * (p - max(priority)), -12), 1
        while pools and pools[-1][0] > place:
            before, more_weight, more = pools.pop()
            place = (before * more_weight + place * weight) / (more_weight + weight)
            weight, members = weight + more_weight, members + more
        pools.append((place, weight, members))
    places = [place for place, _, members in pools for _ in range(members)]
    return [place + offset for place, offset in zip(places, offsets, strict=True)]


def routes(chains: Sequence[Sequence[Box]], pad: float) -> Iterator[list[Point]]:
    """The way of each edge: out of the middle of a box, in and out of each bend, to a place of its own on the last box.

    From the first point to the second it curves, from there to the third (out of the bend) it is straight, and so on.
    pad: how far from a box's corners edges end.
    """
    arriving: dict[Box, list[Sequence[Box]]] = defaultdict(list)
    for chain in chains:
        arriving[chain[-1]].append(chain)
    for box, arrivals in arriving.items():
        arrivals.sort(key=lambda chain: chain[-2].x)  # so that they do not cross at the end
        for (parent, *bends, _), end in zip(arrivals, _ends(box, arrivals, pad), strict=True):
            through = [point for bend in bends for point in ((bend.x, bend.top), (bend.x, bend.bottom))]
            yield [(parent.x, parent.bottom), *through, (end, box.top)]


def _ends(box: Box, arrivals: list[Sequence[Box]], pad: float) -> list[float]:
    """Where edges end on a box, from left to right: straight below where they come from, if that is on the box."""
    last = len(arrivals) - 1
    space = max(box.half - pad, 0.0) if last else 0.0  # an edge of its own ends in the middle
    gap = min(2.4 * pad, 2 * space / max(last, 1))
    wanted = [
        min(max(chain[-2].x, box.x - space + i * gap), box.x + space - (last - i) * gap)
        for i, chain in enumerate(arrivals)
    ]
    return spread(wanted, [gap] * last, [-abs(x - box.x) for x in wanted])


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
