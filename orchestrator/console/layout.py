"""Where the tasks of a DAG stand in its picture: layers by longest path, ordered by barycentre, aligned by neighbours.

Pure and stable: the same DAG always gives the same picture. Time goes from left to right. A layer of very many tasks
is folded into several columns, so that a fan-out of a thousand is a block and not a thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

#: Stored with every picture; raise it when a change here moves tasks.
METHOD: Final = 1

#: Of one task, in the picture's units (pixels at zoom 1).
WIDTH: Final = 180
HEIGHT: Final = 40
GAP_X: Final = 80
GAP_Y: Final = 16
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


def layout(count: int, edges: Sequence[tuple[int, int]]) -> list[Place]:
    """Return the place of each of `count` tasks; edges lead from a smaller position to a larger one.

    O(edges · log) for a few sweeps; 10,000 tasks take about a second.
    """
    if not count:
        return []
    depth = _depths(count, edges)
    ups, downs, layers = _layered(count, edges, depth)
    _order(layers, ups, downs)
    rows = max(LEAST_ROWS, math.ceil(ROWS_PER_ROOT * math.sqrt(count)))
    heights = _align(layers, ups, downs, rows)
    places: list[Place] = [Place(0, 0)] * count
    left = 0
    for layer in layers:
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
    lowest = min(place.y for place in places)
    return [Place(place.x, place.y - lowest) for place in places]


def _depths(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    depth = [0] * count
    # Positions are topological: in their order every upstream is final before it is asked.
    for up, down in sorted(edges):
        if depth[down] <= depth[up]:
            depth[down] = depth[up] + 1
    return depth


def _layered(
    count: int, edges: Sequence[tuple[int, int]], depth: Sequence[int]
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Return upstreams and downstreams by node, and the layers; nodes from `count` on are places that edges pass."""
    layers: list[list[int]] = [[] for _ in range(max(depth) + 1)]
    for node in range(count):
        layers[depth[node]].append(node)
    passing = sum(depth[down] - depth[up] - 1 for up, down in edges)
    ups: list[list[int]] = [[] for _ in range(count)]
    downs: list[list[int]] = [[] for _ in range(count)]
    for up, down in edges:
        last = up
        if passing <= MOST_PASSING:
            for between in range(depth[up] + 1, depth[down]):
                node = len(ups)
                ups.append([last])
                downs.append([])
                downs[last].append(node)
                layers[between].append(node)
                last = node
        downs[last].append(down)
        ups[down].append(last)
    return ups, downs, layers


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
