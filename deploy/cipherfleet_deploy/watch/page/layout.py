"""Positions of the nodes of a graph on a page: equal for equal graphs, without overlap.

A complete graph is a circle, and a graph of more than MAX_LAID_OUT nodes is a grid in their order:
its links are too many to follow. Every other graph is laid out by its distances in hops: stress
majorisation (Gansner, Koren and North, 2004), from a start that depends on the order of the nodes
only. Then nodes that are too close move apart, so that circles and names stay readable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cipherfleet_provisioning.topology.graph import Graph

Points = npt.NDArray[np.float64]  # shape (nodes, 2)

ROOM = (96.0, 62.0)  # between two nodes, across and down: a circle and its name
MARGIN = 56.0
ASPECT = 1.7  # width over height
MAX_LAID_OUT = 400
MOVES = 100  # of the stress majorisation
PUSHES = 100


@dataclass(frozen=True)
class Layout:
    """The size of a drawing and the positions of the nodes in it."""

    width: int
    height: int
    positions: dict[str, tuple[float, float]]


def lay_out(graph: Graph) -> Layout:
    """Return the positions of the nodes of *graph*."""
    count = len(graph.ids)
    size = _size(count)
    if count > MAX_LAID_OUT:
        points = _grid(count, size)
    elif count > 1:
        points = _circle(count) if _is_complete(graph) else _majorise(_hops(graph))
        points = _push_apart(_fit(points, size), size)
    else:
        points = np.full((count, 2), 0.5) * size
    places = {
        name: (round(float(x) + MARGIN, 1), round(float(y) + MARGIN, 1))
        for name, (x, y) in zip(graph.ids, points, strict=True)
    }
    width, height = size + 2 * MARGIN
    return Layout(round(width), round(height), places)


def _size(count: int) -> Points:
    """Return the area for *count* nodes, with twice the room that they need."""
    area = 2.0 * ROOM[0] * ROOM[1] * max(count, 12)
    height = math.sqrt(area / ASPECT)
    return np.array([ASPECT * height, height])


def _is_complete(graph: Graph) -> bool:
    return 2 * len(graph.edges) == len(graph.ids) * (len(graph.ids) - 1)


def _circle(count: int) -> Points:
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _grid(count: int, size: Points) -> Points:
    columns = math.ceil(math.sqrt(ASPECT * count))
    down, across = np.divmod(np.arange(count), columns)
    points: Points = np.stack([across, down], axis=1) / (columns - 1) * size[0]
    return points


def _hops(graph: Graph) -> Points:
    """Return the number of hops between all pairs of nodes; a wide gap between separate parts."""
    place = {name: k for k, name in enumerate(graph.ids)}
    hops = np.full((len(place), len(place)), math.sqrt(len(place)) + 2)
    for name in graph.ids:
        for other, distance in graph.distances(name).items():
            hops[place[name], place[other]] = distance
    return hops


def _majorise(hops: Points) -> Points:
    """Return points whose distances are close to *hops*; near pairs count most."""
    count = len(hops)
    np.fill_diagonal(hops, 1.0)
    weights: Points = hops**-2.0
    np.fill_diagonal(weights, 0.0)
    # The weighted Laplacian does not see a move of all points; 1/n makes it regular there.
    inverse = np.linalg.inv(np.diag(weights.sum(axis=1)) - weights + 1.0 / count)
    points: Points = _circle(count) * hops.max() / 2
    for _ in range(MOVES):
        apart = _distances(points)
        pull = -weights * hops / np.maximum(apart, 1e-9)
        np.fill_diagonal(pull, 0.0)
        np.fill_diagonal(pull, -pull.sum(axis=1))
        points = np.asarray(inverse @ (pull @ points))
    return points


def _distances(points: Points) -> Points:
    squares = (points**2).sum(axis=1)
    apart: Points = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0.0))
    return apart


def _fit(points: Points, size: Points) -> Points:
    """Turn the longest extent across the page, and stretch *points* to *size*."""
    centred = points - points.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ (axes * np.sign(axes[:, :1] + 1e-12)).T  # a singular vector has no sign
    low, high = turned.min(axis=0), turned.max(axis=0)
    fitted: Points = (turned - low) / np.maximum(high - low, 1e-9) * size
    return fitted


def _push_apart(points: Points, size: Points) -> Points:
    """Move pairs apart that have less than ROOM between them, within *size*."""
    room = np.array(ROOM)
    for _ in range(PUSHES):
        near = _distances(points / room)
        first, second = np.nonzero(np.triu(near < 1.0, k=1))
        if not len(first):
            break
        apart = np.maximum(near[first, second], 1e-3)[:, None]
        step = 0.5 * (points[first] - points[second]) / apart * (1.0 - apart)
        np.add.at(points, first, step)
        np.add.at(points, second, -step)
        points = np.clip(points, 0.0, size)
    return points
