"""Where the tasks of a DAG stand in its picture: layers by longest path, ordered by barycentre, aligned by neighbours.

Pure and stable: the same DAG always gives the same picture. Time goes from left to right. A layer of very many tasks
is folded into several columns, so that a fan-out of a thousand is a block and not a thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

#: Stored with every picture; raise it when a change here moves tasks.
METHOD: Final = 2

#: Of one task, in the picture's units (pixels at zoom 1).
WIDTH: Final = 180
HEIGHT: Final = 40
GAP_X: Final = 80
GAP_Y: Final = 16
#: How far beside a layer an edge that passes it bends.
BEND: Final = 12
#: Between the columns of one folded layer.
FOLD_X: Final = 20
#: A layer of fewer tasks is never folded.
LEAST_ROWS: Final = 12
#: Rows to columns, so that a large picture is about as wide as two screens are high.
ROWS_PER_ROOT: Final = 1.3
SWEEPS: Final = 4
#: Edges that pass over layers keep a free place in each; with more of them than this the picture is a mesh anyway.
MOST_PASSING: Final = 4_000

_STEP: Final = HEIGHT + GAP_Y


class Place(NamedTuple):
    """The middle of a task."""

    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Picture:
    """Places of tasks by position, and the points by which an edge goes around tasks, by its index."""

    places: Sequence[Place]
    bends: Mapping[int, Sequence[Place]]


def layout(count: int, edges: Sequence[tuple[int, int]]) -> Picture:
    """Return the picture of `count` tasks; edges lead from a smaller position to a larger one.

    O(edges · log) for a few sweeps; 10,000 tasks take about a second.
    """
    if not count:
        return Picture([], {})
    depth = _depths(count, edges)
    ups, downs, layers, passing = _layered(count, edges, depth)
    _order(layers, ups, downs)
    rows = max(LEAST_ROWS, math.ceil(ROWS_PER_ROOT * math.sqrt(count)))
    heights = _align(layers, ups, downs, rows)
    places: list[Place] = [Place(0, 0)] * count
    left = 0
    lefts: list[int | None] = []
    for layer in layers:
        lefts.append(left if len(layer) <= rows else None)
        tasks = [node for node in layer if node < count]
        if len(tasks) <= rows:
            for node in tasks:
                places[node] = Place(left, round(heights[node]))
            left += WIDTH + GAP_X
            continue
        columns = math.ceil(len(tasks) / rows)
        # Filled row by row: neighbours in the order stay neighbours, and all columns are about as high.
        per_column = math.ceil(len(tasks) / columns)
        middle = sum(heights[node] for node in tasks) / len(tasks)
        top = middle - (per_column - 1) * _STEP / 2
        for index, node in enumerate(tasks):
            row, column = divmod(index, columns)
            places[node] = Place(left + column * (WIDTH + FOLD_X), round(top + row * _STEP))
        left += columns * (WIDTH + FOLD_X) - FOLD_X + GAP_X
    bends = {
        index: around
        for index, nodes in passing.items()
        if (around := _around(nodes, depth[edges[index][0]] + 1, lefts, heights))
    }
    highest = min(place.y for place in (*places, *(place for around in bends.values() for place in around)))
    return Picture(
        [Place(place.x, place.y - highest) for place in places],
        {index: [Place(place.x, place.y - highest) for place in around] for index, around in bends.items()},
    )


def _around(nodes: Sequence[int], layer: int, lefts: Sequence[int | None], heights: Sequence[float]) -> list[Place]:
    """Return the points before and behind each layer that an edge passes; through a folded one it goes straight."""
    found = []
    for node, left in zip(nodes, lefts[layer:], strict=False):
        if left is not None:
            y = round(heights[node])
            found += [Place(left - WIDTH // 2 - BEND, y), Place(left + WIDTH // 2 + BEND, y)]
    return found


def _depths(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    depth = [0] * count
    # Positions are topological: in their order every upstream is final before it is asked.
    for up, down in sorted(edges):
        if depth[down] <= depth[up]:
            depth[down] = depth[up] + 1
    return depth


def _layered(
    count: int, edges: Sequence[tuple[int, int]], depth: Sequence[int]
) -> tuple[list[list[int]], list[list[int]], list[list[int]], dict[int, list[int]]]:
    """Return upstreams and downstreams by node, the layers, and the nodes that an edge passes, by its index.

    Nodes from `count` on are such places: they take part in the order of their layer as tasks do.
    """
    layers: list[list[int]] = [[] for _ in range(max(depth) + 1)]
    for node in range(count):
        layers[depth[node]].append(node)
    is_drawn = sum(depth[down] - depth[up] - 1 for up, down in edges) <= MOST_PASSING
    passing: dict[int, list[int]] = {}
    ups: list[list[int]] = [[] for _ in range(count)]
    downs: list[list[int]] = [[] for _ in range(count)]
    for index, (up, down) in enumerate(edges):
        last = up
        if is_drawn and depth[down] - depth[up] > 1:
            passing[index] = list(range(len(ups), len(ups) + depth[down] - depth[up] - 1))
            for between in range(depth[up] + 1, depth[down]):
                node = len(ups)
                ups.append([last])
                downs.append([])
                downs[last].append(node)
                layers[between].append(node)
                last = node
        downs[last].append(down)
        ups[down].append(last)
    return ups, downs, layers, passing


def _order(layers: list[list[int]], ups: Sequence[Sequence[int]], downs: Sequence[Sequence[int]]) -> None:
    """Order each layer by the middle of its neighbours, down and up in turn; ties keep their order."""
    rank = [0.0] * len(ups)
    for layer in layers:
        _number(layer, rank)
    for sweep in range(SWEEPS):
        downwards = sweep % 2 == 0
        near = ups if downwards else downs
        for layer in layers[1:] if downwards else layers[-2::-1]:
            weight = {
                node: sum([rank[other] for other in near[node]]) / len(near[node]) if near[node] else rank[node]
                for node in layer
            }
            layer.sort(key=weight.__getitem__)
            _number(layer, rank)


def _number(layer: Sequence[int], rank: list[float]) -> None:
    # Between 0 and 1, so that layers of different lengths can be compared.
    span = len(layer)
    for index, node in enumerate(layer):
        rank[node] = (index + 0.5) / span


def _align(
    layers: Sequence[Sequence[int]], ups: Sequence[Sequence[int]], downs: Sequence[Sequence[int]], rows: int
) -> list[float]:
    """Return the height of each node: near the middle of its neighbours, never closer to the next one than one step."""
    heights = [0.0] * len(ups)
    for layer in layers:
        for index, node in enumerate(layer):
            heights[node] = (index - (len(layer) - 1) / 2) * _STEP
    for near, ordered in ((ups, layers), (downs, layers[::-1]), (ups, layers)):
        for layer in ordered:
            # A folded layer is a block around its middle, whatever its neighbours.
            if len(layer) <= rows:
                _settle(layer, near, heights)
    return heights


def _settle(layer: Sequence[int], near: Sequence[Sequence[int]], heights: list[float]) -> None:
    """Move a layer's nodes as little as possible from where their neighbours want them, keeping order and distance."""
    # Blocks of nodes that touch: [sum of wishes, number of nodes]; a wish is measured as if all stood at one height.
    blocks: list[tuple[float, int]] = []
    for index, node in enumerate(layer):
        neighbours = near[node]
        wish = sum([heights[other] for other in neighbours]) / len(neighbours) if neighbours else heights[node]
        total, size = wish - index * _STEP, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / size:
            before, length = blocks.pop()
            total, size = total + before, size + length
        blocks.append((total, size))
    index = 0
    for total, size in blocks:
        for _ in range(size):
            heights[layer[index]] = total / size + index * _STEP
            index += 1
