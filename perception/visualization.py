"""Pictures: boxes on images, bird's-eye views, depth. Arrays in, RGB images (H, W, 3) uint8 out.

Boxes are (Q, 7 or 9): x, y, z of the bottom face, l, w, h, yaw, vx, vy in the lidar frame (docs/conventions.md).
A picture in BEV has the lidar's y (forward) up and x right.
"""

import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

TRUTH_ON_IMAGE: Color = (255, 255, 255)
TRUTH_IN_BEV: Color = (70, 225, 95)
BACKGROUND: Color = (18, 20, 26)
CAPTION: Color = (225, 228, 235)
CLASS_COLORS: tuple[Color, ...] = (  # of the ten classes of docs/conventions.md, in that order; others start again
    (255, 158, 0), (255, 90, 70), (176, 128, 78), (255, 127, 200), (172, 112, 255),
    (112, 160, 215), (255, 236, 120), (215, 20, 75), (50, 120, 255), (95, 220, 235),
)  # fmt: skip
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
CAMERA_GRID = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
NEAR = 0.2  # metres in front of a camera where lines are cut off
SHIFT = 4  # OpenCV's fixed-point bits: drawing is exact to 1/16 pixel


def save_png(path: str | Path, image: np.ndarray) -> Path:
    """Write an RGB picture (H, W, 3) uint8, creating the folder; a reader never sees half a file."""
    _check_image(image)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    os.replace(part, path)
    return path


def class_color(label: int) -> Color:
    """Colour of a class index."""
    return CLASS_COLORS[int(label) % len(CLASS_COLORS)]


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners (Q, 8, 3): the bottom face front-left, front-right, back-right, back-left, then the top face alike."""
    boxes = np.asarray(boxes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] < 7:
        raise ValueError(f"boxes have shape {boxes.shape}, wanted (Q, 7 or 9): x, y, z_bottom, l, w, h, yaw, vx, vy")
    unit = np.array([[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5], [-0.5, 0.5]])
    flat = unit * boxes[:, None, 3:5]  # (Q, 4, 2)
    c, s = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    rotation = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)  # (Q, 2, 2)
    flat = flat @ rotation.swapaxes(-1, -2) + boxes[:, None, :2]
    z = boxes[:, 2, None, None] + boxes[:, 5, None, None] * np.array([0.0, 1.0])[:, None]  # (Q, 2, 1)
    corners = np.concatenate([np.repeat(flat[:, None], 2, 1), np.repeat(z[:, :, None], 4, 2)], -1)
    return corners.reshape(-1, 8, 3)


def draw_boxes_on_image(
    image: np.ndarray,
    boxes: np.ndarray,
    lidar2img: np.ndarray,
    color: Color | np.ndarray = (255, 158, 0),
    labels: list[str] | None = None,
    thickness: int = 2,
) -> np.ndarray:
    """Wire frames, far ones first; the front face is crossed, so the heading shows.

    Args: image (H, W, 3) uint8; boxes (Q, 7 or 9); lidar2img (4, 4) maps lidar points to (u*d, v*d, d, 1) of this
        image; color one RGB triple or (Q, 3); labels Q texts drawn above the boxes, where a nearer one leaves room.
    """
    out = _check_image(image).copy()
    corners = box_corners(boxes)
    colors = np.broadcast_to(np.asarray(color, int).reshape(-1, 3), (len(corners), 3))
    if labels is not None and len(labels) != len(corners):
        raise ValueError(f"{len(labels)} labels for {len(corners)} boxes: give one each")
    homogeneous = np.concatenate([corners, np.ones((*corners.shape[:2], 1))], -1)
    projected = homogeneous @ np.asarray(lidar2img, np.float64).T  # (Q, 8, 4)
    texts = []
    for q in np.argsort(-projected[..., 2].mean(1)):
        p = projected[q, :, :3]
        lines = [line for a, b in (*EDGES, (0, 5), (1, 4)) if (line := _segment(p[a], p[b], out.shape)) is not None]
        if not lines:
            continue
        rgb = tuple(int(v) for v in colors[q])
        for width, paint in ((thickness + 2, (0, 0, 0)), (thickness, rgb)):
            for i, line in enumerate(lines):
                _line(out, line, paint, max(1, width - (i >= len(EDGES))))
        if labels is not None:
            ends = np.concatenate(lines)
            texts.append((ends[:, 0].min(), ends[:, 1].min() - 2, labels[q], rgb))
    return _text(out, texts[::-1], size=max(11, out.shape[0] // 40), anchor="ls", box=True) if texts else out


def draw_bev(
    points: np.ndarray | None = None,
    boxes_gt: np.ndarray | None = None,
    boxes_pred: np.ndarray | None = None,
    *,
    x: tuple[float, ...] = (-51.2, 51.2),
    y: tuple[float, ...] = (-51.2, 51.2),
    size: int = 800,
    pred_colors: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    trajectories: np.ndarray | None = None,
) -> np.ndarray:
    """Bird's-eye view: LiDAR by height, true boxes green, predicted boxes in colour, each with a line to its front.

    Args: points (P, 3+); boxes_gt, boxes_pred (Q, 7 or 9); x, y axis limits in metres (a grid's (low, high, cell)
        too); size height of the picture in pixels; pred_colors (Q, 3); mask (Y, X) non-negative over exactly these
        limits, as a BEV map (row 0 lowest y), painted in magenta; trajectories (Q, K, 3), NaN where unknown.
    """
    (x_low, x_high), (y_low, y_high) = x[:2], y[:2]
    scale = size / (y_high - y_low)
    width = round((x_high - x_low) * scale)
    out = np.full((size, width, 3), BACKGROUND, np.uint8)

    def pixels(xy):
        return np.stack([(xy[..., 0] - x_low) * scale - 0.5, (y_high - xy[..., 1]) * scale - 0.5], -1)

    if mask is not None:
        out = _overlay(out, np.asarray(mask, np.float64))
    step = 10 if y_high - y_low <= 120 else 25
    centre = pixels(np.zeros(2))
    far = np.hypot(max(abs(x_low), abs(x_high)), max(abs(y_low), abs(y_high)))
    rings = np.arange(step, far, step)
    for radius in rings:
        at = tuple(int(v * 2**SHIFT) for v in centre)
        cv2.circle(out, at, int(radius * scale * 2**SHIFT), (52, 56, 66), 1, cv2.LINE_AA, SHIFT)
    if points is not None and len(points):
        _scatter(
            out,
            pixels(np.asarray(points)[:, :2]),
            _ramp(points[:, 2], -5.0, 3.0, cv2.COLORMAP_VIRIDIS),
            max(1, size // 400),
        )
    if trajectories is not None:
        for track in np.asarray(trajectories, np.float64):
            known = pixels(track[~np.isnan(track).any(-1), :2])
            for a, b in pairwise(known):
                _line(out, np.stack([a, b]), (255, 255, 255), 1)
    car = np.array([[0, -1.0, 0, 4.6, 1.9, 1.6, np.pi / 2]])
    wide = max(1, size // 700)
    for boxes, colors, thickness in (
        (car, CAPTION, wide),
        (boxes_gt, TRUTH_IN_BEV, wide + 1),
        (boxes_pred, pred_colors if pred_colors is not None else CLASS_COLORS[0], wide + 1),
    ):
        if boxes is None or not len(boxes):
            continue
        colors = np.broadcast_to(np.asarray(colors, int).reshape(-1, 3), (len(boxes), 3))
        for corners, rgb in zip(pixels(box_corners(boxes)[:, :4, :2]), colors, strict=True):
            rgb = tuple(int(v) for v in rgb)
            for k in range(4):
                _line(out, corners[[k, (k + 1) % 4]], rgb, thickness)
            _line(out, np.stack([corners.mean(0), corners[:2].mean(0)]), rgb, thickness)
    texts = [(centre[0] + 4, centre[1] - r * scale - 2, f"{r:g} m", (130, 136, 150)) for r in rings if r < y_high]
    return _text(out, texts, size=max(10, size // 64), anchor="ls")


def draw_depth(image: np.ndarray, depth_map: np.ndarray, max_depth: float = 60.0, side: int | None = None):
    """LiDAR depth over the image, near red, far blue, near points on top, with a colour bar in metres.

    Args: image (H, W, 3) uint8; depth_map (H, W) metres, 0 where no point; side of a dot in pixels.
    """
    out = _check_image(image).copy()
    depth = np.asarray(depth_map, np.float64)
    if depth.shape != out.shape[:2]:
        raise ValueError(f"depth map is {depth.shape}, image is {out.shape[:2]}: they must be of one size (H, W)")
    out = (out * 0.6).astype(np.uint8)
    rows, columns = np.nonzero(depth > 0)
    order = np.argsort(-depth[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    side = max(1, out.shape[1] // 300) if side is None else side
    _scatter(out, np.stack([columns, rows], -1), _depth_colors(depth[rows, columns], max_depth), side)
    return _color_bar(out, max_depth)


def expected_depth(distribution: np.ndarray, low: float, step: float) -> np.ndarray:
    """Mean depth (h, w) in metres of a distribution (D, h, w) over bins whose middles are low + (k + 0.5) step."""
    distribution = np.asarray(distribution, np.float64)
    if distribution.ndim != 3:
        raise ValueError(f"depth distribution is {distribution.shape}, wanted (D, h, w): one camera of one sample")
    middles = low + (np.arange(len(distribution)) + 0.5) * step
    mass = distribution.sum(0)
    return np.einsum("d,dhw->hw", middles, distribution) / np.maximum(mass, 1e-12)


def draw_depth_distribution(
    image: np.ndarray,
    expected: np.ndarray,
    expected_with_prior: np.ndarray | None = None,
    lidar_depth: np.ndarray | None = None,
    max_depth: float = 60.0,
) -> np.ndarray:
    """The image, LiDAR on it, and the expected depth without and with the LiDAR prior, side by side with captions.

    Args: image (H, W, 3) uint8; expected, expected_with_prior (h, w) metres; lidar_depth (H, W) metres, 0 for none.
    """
    height, width = _check_image(image).shape[:2]
    tiles, captions = [image], ["image"]
    if lidar_depth is not None:
        tiles.append(draw_depth(image, lidar_depth, max_depth))
        captions.append("LiDAR depth")
    for depth, caption in ((expected, "expected depth"), (expected_with_prior, "expected depth with LiDAR prior")):
        if depth is not None:
            colors = _depth_colors(np.asarray(depth, np.float64).ravel(), max_depth).reshape(*depth.shape, 3)
            colors = cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST)
            tiles.append(_color_bar(colors, max_depth))
            captions.append(caption)
    return montage([caption_above(t, c) for t, c in zip(tiles, captions, strict=True)], columns=2)


def montage(images: list[np.ndarray], columns: int, gap: int = 6) -> np.ndarray:
    """Images in rows of `columns`, each centred in a cell of the largest height and width, dark gaps between."""
    if not images or columns < 1:
        raise ValueError(f"montage of {len(images)} images in {columns} columns: give at least one of each")
    height = max(_check_image(i).shape[0] for i in images)
    width = max(i.shape[1] for i in images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    out = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), BACKGROUND, np.uint8)
    for k, image in enumerate(images):
        h, w = image.shape[:2]
        top = k // columns * (height + gap) + (height - h) // 2
        left = k % columns * (width + gap) + (width - w) // 2
        out[top : top + h, left : left + w] = image
    return out


def caption_above(image: np.ndarray, caption: str) -> np.ndarray:
    """The image under a strip that holds one line of text."""
    size = int(np.clip(_check_image(image).shape[1] // 44, 11, 22))
    strip = np.full((size + 10, image.shape[1], 3), BACKGROUND, np.uint8)
    return np.concatenate([_text(strip, [(6, strip.shape[0] / 2, caption, CAPTION)], size, "lm"), image])


def evaluation_picture(
    images: dict[str, np.ndarray],
    lidar2img: dict[str, np.ndarray],
    boxes_pred: np.ndarray,
    labels_pred: np.ndarray,
    boxes_gt: np.ndarray,
    points: np.ndarray | None = None,
    *,
    scores: np.ndarray | None = None,
    score_threshold: float = 0.3,
    classes: tuple[str, ...] | None = None,
    x: tuple[float, ...] = (-51.2, 51.2),
    y: tuple[float, ...] = (-51.2, 51.2),
    mask: np.ndarray | None = None,
    tile_width: int = 640,
    title: str = "",
) -> np.ndarray:
    """The cameras with predicted (colour of the class) and true boxes (white), beside the BEV with LiDAR and the boxes.

    Args: images {camera: (H, W, 3) uint8}; lidar2img {camera: (4, 4)} of these images; boxes (Q, 7 or 9);
        labels_pred (Q,) class indices; scores (Q,), those under score_threshold are left out; classes names for
        the legend; x, y, mask as in `draw_bev`. The six nuScenes cameras stand as on the car, others in their order.
    """
    if set(images) != set(lidar2img):
        raise ValueError(f"images of {sorted(images)}, lidar2img of {sorted(lidar2img)}: give both the same cameras")
    boxes_pred, labels_pred = np.asarray(boxes_pred), np.asarray(labels_pred, int)
    if scores is not None:
        keep = np.asarray(scores) >= score_threshold
        boxes_pred, labels_pred = boxes_pred[keep], labels_pred[keep]
    colors = np.array([class_color(label) for label in labels_pred], int).reshape(-1, 3)
    tiles = []
    for camera in sorted(images, key=lambda c: CAMERA_GRID.index(c) if c in CAMERA_GRID else len(CAMERA_GRID)):
        height, width = _check_image(images[camera]).shape[:2]
        factor = tile_width / width
        tile = cv2.resize(images[camera], (tile_width, round(height * factor)), interpolation=cv2.INTER_AREA)
        to_tile = np.diag([factor, factor, 1.0, 1.0]) @ lidar2img[camera]
        tile = draw_boxes_on_image(tile, boxes_gt, to_tile, TRUTH_ON_IMAGE, thickness=1)
        tile = draw_boxes_on_image(tile, boxes_pred, to_tile, colors, thickness=1)
        tiles.append(caption_above(tile, camera))
    cameras = montage(tiles, columns=3)
    size = max(cameras.shape[0], 600)
    bev = draw_bev(points, boxes_gt, boxes_pred, x=x, y=y, size=size, pred_colors=colors, mask=mask)
    spare = size - cameras.shape[0]
    border = (spare // 2, spare - spare // 2, 0, 6)
    cameras = cv2.copyMakeBorder(cameras, *border, cv2.BORDER_CONSTANT, value=BACKGROUND)
    picture = np.concatenate([cameras, bev], 1)
    return np.concatenate([_legend(picture.shape[1], title, labels_pred, classes), picture])


def log_to_rerun(path: str | Path, images: dict, boxes_pred, boxes_gt, points) -> Path:
    """The same content as a Rerun recording (.rrd) for the 3-D viewer. Raises ImportError without rerun-sdk."""
    try:
        import rerun as rr
    except ImportError as error:
        raise ImportError(
            f"3-D recordings need rerun-sdk ({error}): pip install rerun-sdk==0.23.1 'pyarrow<22', or "
            "use the PNG pictures"
        ) from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    recording = rr.RecordingStream("tutelage")
    recording.save(str(path))
    for camera, image in images.items():
        recording.log(f"images/{camera}", rr.Image(image))
    recording.log("lidar/points", rr.Points3D(np.asarray(points)[:, :3]))
    for name, boxes, color in (("predicted", boxes_pred, CLASS_COLORS[0]), ("true", boxes_gt, TRUTH_IN_BEV)):
        corners = box_corners(boxes)
        strips = [corner[[*pair]] for corner in corners for pair in EDGES]
        recording.log(f"lidar/{name}", rr.LineStrips3D(strips, colors=[color]))
    recording.flush()
    return path


def _check_image(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is {image.shape} {image.dtype}, wanted (H, W, 3) uint8 RGB")
    return image


def _segment(a: np.ndarray, b: np.ndarray, shape: tuple) -> np.ndarray | None:
    """Pixels (2, 2) of the part of a segment of (u*d, v*d, d) points in front of NEAR; None if it misses the image."""
    if max(a[2], b[2]) <= NEAR:
        return None
    if min(a[2], b[2]) < NEAR:
        cut = a + (NEAR - a[2]) / (b[2] - a[2]) * (b - a)
        a, b = (cut, b) if a[2] < NEAR else (a, cut)
    ends = np.stack([a[:2] / a[2], b[:2] / b[2]])
    low, high = ends.min(0), ends.max(0)
    outside = high[0] < 0 or high[1] < 0 or low[0] > shape[1] - 1 or low[1] > shape[0] - 1
    if outside:
        return None
    t0, t1 = 0.0, 1.0  # Liang-Barsky against a frame around the image: keeps OpenCV's fixed-point numbers small
    start, delta = ends[0], ends[1] - ends[0]
    for axis, limit in ((0, shape[1]), (1, shape[0])):
        for sign, bound in ((-1, 50.0), (1, limit + 50.0)):
            rate, room = sign * delta[axis], bound - sign * start[axis]
            if rate > 0:
                t1 = min(t1, room / rate)
            elif rate < 0:
                t0 = max(t0, room / rate)
    return np.stack([start + t0 * delta, start + t1 * delta]) if t0 < t1 else None


def _line(out: np.ndarray, ends: np.ndarray, rgb: Color, thickness: int):
    a, b = (tuple(round(v * 2**SHIFT) for v in p) for p in np.clip(ends, -2e4, 2e4))
    cv2.line(out, a, b, rgb, thickness, cv2.LINE_AA, SHIFT)


def _scatter(out: np.ndarray, pixels: np.ndarray, colors: np.ndarray, side: int):
    """Paint squares of `side` pixels around pixels (P, 2), later points over earlier ones."""
    offsets = np.stack(np.mgrid[:side, :side][::-1], -1).reshape(1, -1, 2)
    at = (np.floor(pixels - (side - 1) / 2 + 0.5).astype(int)[:, None] + offsets).reshape(-1, 2)
    inside = ((at >= 0) & (at < out.shape[1::-1])).all(1)
    out[at[inside, 1], at[inside, 0]] = np.repeat(colors, side * side, 0)[inside]


def _ramp(values: np.ndarray, low: float, high: float, table: int) -> np.ndarray:
    """Colours (P, 3) of values along an OpenCV colour map."""
    index = np.clip((np.asarray(values, np.float64) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(index.reshape(-1, 1), table)[:, 0, ::-1]


def _depth_colors(depth: np.ndarray, max_depth: float) -> np.ndarray:
    return _ramp(1 - np.sqrt(np.clip(depth / max_depth, 0, 1)), -0.05, 1.05, cv2.COLORMAP_TURBO)


def _color_bar(image: np.ndarray, max_depth: float) -> np.ndarray:
    height, width = image.shape[:2]
    bar, size = max(8, width // 60), int(np.clip(width // 60, 10, 18))
    depths = np.linspace(max_depth, 0, height)
    out = np.concatenate([image, np.repeat(_depth_colors(depths, max_depth)[:, None], bar, 1)], 1)
    marks = [m for m in (0, 10, 20, 40, 60, 80) if m <= max_depth]
    texts = [(width - 4, np.interp(m, [0, max_depth], [height - size, size]), f"{m} m", CAPTION) for m in marks]
    return _text(out, texts, size, "rm", box=True)


def _overlay(out: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blend a BEV map (Y, X) over the whole picture: row 0, the lowest y, goes to the bottom."""
    if mask.ndim != 2:
        raise ValueError(f"mask is {mask.shape}, wanted (Y, X)")
    weight = mask[::-1] / max(float(mask.max()), 1e-12)
    weight = cv2.resize(weight, out.shape[1::-1], interpolation=cv2.INTER_NEAREST)[..., None] * 0.75
    return (out * (1 - weight) + np.array([205, 50, 190]) * weight).astype(np.uint8)


def _text(image: np.ndarray, texts: list[tuple], size: int, anchor: str, box: bool = False) -> np.ndarray:
    """Write (u, v, text, colour) entries; `anchor` as in Pillow; `box` puts a dark box behind each and
    leaves out what would cover an earlier one."""
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size)
    taken = []
    for u, v, text, rgb in texts:
        left, top, right, bottom = draw.textbbox((u, v), text, font, anchor)
        u = u + max(0, -left) - max(0, right - image.shape[1])
        v = v + max(0, -top) - max(0, bottom - image.shape[0])
        if box:
            area = draw.textbbox((u, v), text, font, anchor)
            if any(area[0] < t[2] and t[0] < area[2] and area[1] < t[3] and t[1] < area[3] for t in taken):
                continue
            taken.append(area)
            draw.rectangle(area, fill=(0, 0, 0))
        draw.text((u, v), text, rgb, font, anchor)
    return np.array(picture)


def _legend(width: int, title: str, labels: np.ndarray, classes: tuple[str, ...] | None) -> np.ndarray:
    """A strip with the title, what white and green mean, and the colour of each predicted class."""
    strip = np.full((34, width, 3), BACKGROUND, np.uint8)
    entries = [(title, CAPTION)] if title else []
    entries += [("true (images)", TRUTH_ON_IMAGE), ("true (BEV)", TRUTH_IN_BEV)]
    entries += [(classes[k] if classes else f"class {k}", class_color(k)) for k in sorted(set(labels.tolist()))]
    font, texts, u = ImageFont.load_default(18), [], 8.0
    for text, rgb in entries:
        texts.append((u, 17, text, rgb))
        u += font.getlength(text) + 24
    return _text(strip, texts, 18, "lm")
