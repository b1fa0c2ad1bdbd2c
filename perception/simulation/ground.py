"""The ground: roads at height 0 and everything else raised by a kerb, as rasters that rays are intersected with in
closed form, and a texture with markings."""

from dataclasses import dataclass

import cv2
import numpy as np

from perception.simulation.town import LANE, SIDEWALK, Town

RESOLUTION = 0.1  # metres per raster cell
KERB = 0.13
MIP_LEVELS = 3  # texture levels, each four times coarser

GRASS, WALK, ROAD, WHITE, YELLOW, DIRT, PAVING = range(7)
# diffuse colour (RGB) of each label and its LiDAR reflectivity
COLOURS = {
    GRASS: (84, 104, 52),
    WALK: (150, 146, 140),
    ROAD: (78, 78, 80),
    WHITE: (205, 205, 200),
    YELLOW: (196, 160, 60),
}
COLOURS |= {DIRT: (128, 104, 78), PAVING: (134, 128, 122)}
REFLECTIVITY = np.array([0.22, 0.16, 0.06, 0.45, 0.4, 0.14, 0.15], np.float32)


@dataclass(frozen=True)
class Ground:
    """`labels` (rows, cols) uint8 with row 0 at y = 0; `texture` levels of RGB uint8, the first at the labels'
    resolution."""

    labels: np.ndarray
    texture: list[np.ndarray]

    @property
    def drivable(self) -> np.ndarray:
        """255 where cars may drive, row 0 at the largest y, as nuScenes' map masks."""
        return is_road(self.labels[::-1]) * np.uint8(255)

    def label(self, xy: np.ndarray) -> np.ndarray:
        """Labels (P,) at points (P, 2); outside of the map it is the label of the nearest edge."""
        rows, cols = self.labels.shape
        col = np.clip((xy[:, 0] * (1 / RESOLUTION)).astype(np.int32), 0, cols - 1)
        row = np.clip((xy[:, 1] * (1 / RESOLUTION)).astype(np.int32), 0, rows - 1)
        return self.labels[row, col]

    def height(self, xy: np.ndarray) -> np.ndarray:
        """Height (P,) of the ground in metres."""
        return np.where(is_road(self.label(xy)), 0.0, KERB)

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance (R,) at which rays from `origin` (3,), above the kerb, meet the ground (inf: never), and whether
        they meet a kerb's side (R,). Directions (R, 3) need not be of unit length; distances are in their unit."""
        falling = np.flatnonzero(directions[:, 2] < -1e-4)
        d = directions[falling]
        inverse = -1 / d[:, 2]
        top, bottom = (origin[2] - KERB) * inverse, origin[2] * inverse
        xy = origin[:2].astype(np.float32)
        raised_top = ~is_road(self.label(xy + top[:, None] * d[:, :2]))
        hit = np.where(raised_top, top, bottom)
        below = np.flatnonzero(~raised_top)
        side = below[~is_road(self.label(xy + bottom[below, None] * d[below, :2]))]
        near, far, ds = top[side], bottom[side], d[side, :2]
        for _ in range(7):
            middle = 0.5 * (near + far)
            raised = ~is_road(self.label(xy + middle[:, None] * ds))
            near, far = np.where(raised, near, middle), np.where(raised, middle, far)
        hit[side] = far
        distance = np.full(len(directions), np.inf, np.float32)
        distance[falling] = hit
        kerb = np.zeros(len(directions), bool)
        kerb[falling[side]] = True
        return distance, kerb

    def colour(self, xy: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """RGB (P, 3) float32 in [0, 1] at points (P, 2), from the texture level that fits the pixel's footprint (m)."""
        level = np.log2(np.maximum(footprint, 1e-3) * (1 / RESOLUTION)) / 2 + 0.2
        level = np.clip(level, 0, MIP_LEVELS - 1).astype(np.int8)
        out = np.empty((len(xy), 3), np.uint8)
        for k, texture in enumerate(self.texture):
            chosen = np.flatnonzero(level == k)
            if not len(chosen):
                continue
            size = RESOLUTION * 4**k
            at = (xy[chosen] / size - 0.5).astype(np.float32)
            pad = -len(at) % 64
            at = np.concatenate([at, np.zeros((pad, 2), np.float32)]).reshape(64, -1, 2)
            colours = cv2.remap(texture, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            out[chosen] = colours.reshape(-1, 3)[: len(chosen)]
        return out.astype(np.float32) * np.float32(1 / 255)


def is_road(labels: np.ndarray) -> np.ndarray:
    return (labels >= ROAD) & (labels <= YELLOW)


def _line(canvas: np.ndarray, points: np.ndarray, width: float, label: int) -> None:
    pixels = np.round(points / RESOLUTION * 16).astype(np.int32)
    cv2.polylines(canvas, [pixels], False, label, max(1, round(width / RESOLUTION)), cv2.LINE_8, 4)


def _fill(canvas: np.ndarray, points: np.ndarray, label: int) -> None:
    cv2.fillPoly(canvas, [np.round(points / RESOLUTION * 16).astype(np.int32)], label, cv2.LINE_8, 4)


def _road_area(canvas: np.ndarray, town: Town, extra: float, label: int) -> None:
    for road in town.roads:
        half = road.half_width + extra
        _fill(canvas, np.concatenate([road.offset(half), road.offset(-half)[::-1]]), label)
    for n in range(len(town.crossings)):
        corners = [crossing_mouth(town, k, n, extra) for k in town.roads_at(n)]
        hull = cv2.convexHull(np.concatenate(corners).astype(np.float32))[:, 0]
        _fill(canvas, hull.astype(np.float64), label)
        middle = tuple(np.round(town.crossings[n] / RESOLUTION * 16).astype(int).tolist())
        cv2.circle(canvas, middle, round((town.radii[n] - 6.0 + extra) / RESOLUTION * 16), label, -1, cv2.LINE_8, 4)


def crossing_mouth(town: Town, road: int, crossing: int, extra: float = 0.0) -> np.ndarray:
    """The two kerb points (2, 2) where a road opens into a crossing."""
    r = town.roads[road]
    reach = int(town.radii[crossing] / 0.5)
    pick = reach if r.start == crossing else -1 - reach
    half = r.half_width + extra
    return np.stack([r.offset(half)[pick], r.offset(-half)[pick]])


def _dashes(canvas: np.ndarray, points: np.ndarray, dash: float, gap: float, width: float, label: int) -> None:
    step = 0.5
    per_dash, period = int(dash / step), int((dash + gap) / step)
    for k in range(0, len(points) - per_dash, period):
        _line(canvas, points[k : k + per_dash + 1], width, label)


def _markings(canvas: np.ndarray, town: Town) -> None:
    for road in town.roads:
        ends = (town.radii[road.start] + 5.0, town.radii[road.end] + 5.0)
        centre = road.offset(0.0, *ends)
        if len(centre) < 8:
            continue
        if road.lanes == 2:
            for lateral in (-0.15, 0.15):
                _line(canvas, road.offset(lateral, *ends), 0.12, YELLOW)
            for side in (-1, 1):
                _dashes(canvas, road.offset(side * LANE, *ends), 2.0, 4.0, 0.14, WHITE)
        else:
            _dashes(canvas, centre, 3.0, 3.0, 0.16, YELLOW)
        for side in (-1, 1):
            edge = road.offset(side * (road.lanes * LANE), *ends)
            if road.parking:
                _dashes(canvas, edge, 0.5, 5.0, 0.12, WHITE)
            else:
                _line(canvas, edge, 0.12, WHITE)
        for node, at_start in ((road.start, True), (road.end, False)):
            _zebra(canvas, road, town.radii[node] + 0.6, at_start)


def _zebra(canvas: np.ndarray, road, reach: float, at_start: bool) -> None:
    """Bars along the road from `reach` to `reach` + 3 m from the crossing, and the stop line behind them."""
    k0, k1 = int(reach / 0.5), int((reach + 3.0) / 0.5)
    half = road.half_width - 0.5
    for lateral in np.arange(-half, half, 1.1):
        line = road.offset(lateral)
        line = line if at_start else line[::-1]
        _line(canvas, line[k0 : k1 + 1], 0.5, WHITE)
    lateral = np.array([0.3, road.lanes * LANE - 0.2]) * (1 if at_start else -1)
    ends = [road.offset(v)[k1 + 2 if at_start else -k1 - 3] for v in lateral]
    _line(canvas, np.stack(ends), 0.4, WHITE)


def crosswalk(town: Town, road: int, crossing: int) -> np.ndarray:
    """The two ends (2, 2) of the walk over a road at a crossing, on the sidewalks."""
    r = town.roads[road]
    k = int((town.radii[crossing] + 2.1) / 0.5)
    pick = k if r.start == crossing else -1 - k
    half = r.half_width + 0.55 * SIDEWALK
    return np.stack([r.offset(half)[pick], r.offset(-half)[pick]])


def make_ground(town: Town, rng: np.random.Generator, dirt: list[np.ndarray]) -> Ground:
    """Rasterise the town. `dirt`: polygons (P, 2) of building sites, painted where no road is."""
    cols, rows = (round(v / RESOLUTION) for v in town.extent)
    base = {"downtown": PAVING, "residential": GRASS, "industrial": DIRT, "park": GRASS}[town.district]
    labels = np.full((rows, cols), base, np.uint8)
    for polygon in dirt:
        _fill(labels, polygon, DIRT)
    _road_area(labels, town, SIDEWALK, WALK)
    _road_area(labels, town, 0.0, ROAD)
    marked = labels.copy()
    _markings(marked, town)
    labels = np.where(is_road(labels), marked, labels)
    tint = rng.uniform(0.95, 1.05, (len(COLOURS), 3)) * rng.uniform(0.85, 1.15, (len(COLOURS), 1))
    palette = np.clip(np.array([COLOURS[k] for k in range(len(COLOURS))]) * tint, 0, 255).astype(np.uint8)
    texture = palette[labels]
    noise = noise_tile(rng, 1024, (1, 2, 8, 64, 256), (0.06, 0.05, 0.05, 0.06, 0.05))
    scale = np.clip(128 * noise, 0, 255).astype(np.uint8)
    tiled = np.tile(scale, (rows // 1024 + 1, cols // 1024 + 1))[:rows, :cols]
    texture = cv2.multiply(texture, cv2.merge([tiled] * 3), scale=1 / 128)
    levels = [cv2.GaussianBlur(texture, (3, 3), 0.7)]
    for _ in range(MIP_LEVELS - 1):
        levels.append(cv2.resize(levels[-1], None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA))
    return Ground(labels, levels)


def noise_tile(rng: np.random.Generator, size: int, cells: tuple[int, ...], sigmas: tuple[float, ...]) -> np.ndarray:
    """Tileable multiplicative noise (size, size) of mean 1: octaves of `cells` pixels with relative `sigmas`."""
    total = np.ones((size, size), np.float32)
    for cell, sigma in zip(cells, sigmas, strict=True):
        n = size // cell
        coarse = rng.standard_normal((n, n)).astype(np.float32) * np.float32(sigma)
        wrapped = np.pad(coarse, 1, mode="wrap")
        grown = cv2.resize(wrapped, None, fx=cell, fy=cell, interpolation=cv2.INTER_LINEAR)
        total += grown[cell : cell + size, cell : cell + size]
    return total
