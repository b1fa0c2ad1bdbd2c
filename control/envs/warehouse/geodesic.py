"""Shortest ways of a disc among boxes, exact up to the corners' roundness: A* on the visibility graph."""

import heapq
from functools import cached_property

import numpy as np

from control.envs.warehouse.geometry import boxes_to_points, segments_blocked

CORNER_POINTS = 4  # of the polygon that a way follows round a corner: at most 2.3 % longer than the arc


class Geodesic:
    """Ways to one goal. The graph is made when a query needs it, all pairs of corners at once; distances are settled
    outwards from the goal only as far as the queries need, and kept.

    Args: obstacles (B, 4), the outer walls among them; radius of the disc, m; goal (2,).
    """

    def __init__(self, obstacles: np.ndarray, radius: float, goal: np.ndarray):
        self.obstacles, self.radius = np.asarray(obstacles, np.float64), radius
        corners, before, after = _corners(self.obstacles, radius)
        goal = np.asarray(goal, np.float64)[None]
        self.nodes = np.concatenate([goal, corners])
        self._sides = np.concatenate([goal, before]), np.concatenate([goal, after])  # neighbours on the polygon
        self._distance = np.full(len(self.nodes), np.inf)
        self._next = np.zeros(len(self.nodes), int)  # towards the goal
        self._settled = np.zeros(len(self.nodes), bool)
        self._distance[0], self._queue = 0.0, [(0.0, 0)]

    def distance(self, start: np.ndarray) -> float:
        """Metres from start (2,) to the goal; inf where there is no way."""
        return self._first(start)[0]

    def path(self, start: np.ndarray) -> np.ndarray | None:
        """(K, 2) corners of the way, start and goal included; None where there is none."""
        length, node = self._first(start)
        if not np.isfinite(length):
            return None
        way = [np.asarray(start, np.float64), self.nodes[node]]
        while node:
            node = self._next[node]
            way.append(self.nodes[node])
        return np.array(way)

    def _first(self, start: np.ndarray) -> tuple[float, int]:
        """Length of the way from start and the node that it goes to first."""
        start = np.asarray(start, np.float64)
        reach = np.full(len(self.nodes), np.inf)
        seen = np.flatnonzero(self._taut(start))
        seen = seen[self._visible(start[None], self.nodes[seen])]
        reach[seen] = np.linalg.norm(self.nodes[seen] - start, axis=1)
        if np.isfinite(reach[0]):
            return float(reach[0]), 0  # straight to the goal
        while True:
            through = np.where(self._settled, reach + self._distance, np.inf)
            best = int(through.argmin())
            # nothing nearer than the queue's head is left to settle, and from there the straight line is a bound
            if not self._queue or through[best] <= self._queue[0][0]:
                return float(through[best]), best
            self._settle()

    def _settle(self) -> None:
        distance, node = heapq.heappop(self._queue)
        if self._settled[node]:
            return
        self._settled[node] = True
        length = distance + self._straight[node]
        closer = np.flatnonzero(~self._settled & (length < self._distance))
        self._distance[closer], self._next[closer] = length[closer], node
        for other in closer:
            heapq.heappush(self._queue, (length[other], int(other)))

    @cached_property
    def _straight(self) -> np.ndarray:
        """(K, K) metres between nodes; inf where the way is barred or a string along it would not be tight at both."""
        length = np.full((len(self.nodes),) * 2, np.inf)
        first, second = np.triu_indices(len(self.nodes), 1)
        tight = self._tight(self.nodes[first], second) & self._tight(self.nodes[second], first)
        first, second = first[tight], second[tight]
        free = self._visible(self.nodes[first], self.nodes[second])
        first, second = first[free], second[free]
        length[first, second] = length[second, first] = np.linalg.norm(self.nodes[first] - self.nodes[second], axis=1)
        return length

    def _taut(self, point: np.ndarray) -> np.ndarray:
        """(K,) whether a string from the point along every node's corner would be tight."""
        return self._tight(point[None], np.arange(len(self.nodes)))

    def _tight(self, points: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(P,) whether strings from points (P, 2) would bend round the corners of the nodes `at` (P,), not cut them: a
        shortest way has no other pieces."""
        along, (before, after) = self.nodes[at] - points, self._sides
        return _cross(along, before[at] - self.nodes[at]) * _cross(along, after[at] - self.nodes[at]) >= -1e-12

    def _visible(self, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(P,) whether the disc goes straight from begin to end, both (P, 2)."""
        return ~segments_blocked(np.broadcast_to(begin, end.shape), end, self.obstacles, self.radius - 1e-9)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _corners(obstacles: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(K, 2) three times: the polygon around every box at `radius`, without what is nearer than that to another box;
    and each point's neighbours on its polygon."""
    half = np.pi / 4 / (CORNER_POINTS - 1)
    angles = np.linspace(0, 2 * np.pi, 4 * (CORNER_POINTS - 1), endpoint=False)
    angles = np.concatenate([q * np.pi / 2 + angles[:CORNER_POINTS] for q in range(4)])
    circle = radius / np.cos(half) * np.stack([np.cos(angles), np.sin(angles)], -1)
    which = np.repeat(np.array([(2, 3), (0, 3), (0, 1), (2, 1)]), CORNER_POINTS, 0)  # columns of the corner's x and y
    rings = obstacles[:, which] + circle  # (B, 16, 2)
    points = rings.reshape(-1, 2)
    kept = boxes_to_points(points, obstacles).min(1) >= radius - 1e-9
    return points[kept], np.roll(rings, 1, 1).reshape(-1, 2)[kept], np.roll(rings, -1, 1).reshape(-1, 2)[kept]
