"""How far a plan is from what the robot could do: measures of a maze's plans, independent of luck in an episode.

Letters: B plans, H states `stride` environment steps apart; states (x, y, vx, vy) in m and m/s.
"""

import numpy as np

STEP = 0.01  # s of a maze's step


def in_walls(plans: np.ndarray, maze) -> float:
    """Share of the states (B, H, 4) that stand in a wall or outside, and of the straight lines between them sampled at
    5 points."""
    points = plans[..., :2]
    between = np.concatenate([points[:, :-1] + w * (points[:, 1:] - points[:, :-1]) for w in np.linspace(0, 0.8, 5)], 1)
    flat = np.concatenate([between, points[:, -1:]], 1).reshape(-1, 2)
    layout, scale = np.array([[cell == 1 for cell in row] for row in maze.maze_map]), maze.maze_size_scaling
    rows = np.floor((maze.y_map_center - flat[:, 1]) / scale).astype(int)
    columns = np.floor((flat[:, 0] + maze.x_map_center) / scale).astype(int)
    inside = (rows >= 0) & (columns >= 0) & (rows < layout.shape[0]) & (columns < layout.shape[1])
    blocked = ~inside
    blocked[inside] = layout[rows[inside], columns[inside]]
    return float(blocked.mean())


def kinematic_residual(plans: np.ndarray, stride: int = 1) -> float:
    """Mean |p' - p - (v + v') stride dt / 2| in m of neighbouring states (B, H, 4): exact for a constant acceleration
    between them; with stride 1 |p' - p - dt v'|, which the simulator's integrator makes 0."""
    p, v = plans[..., :2], plans[..., 2:]
    moved = p[:, 1:] - p[:, :-1]
    mean = v[:, 1:] if stride == 1 else (v[:, 1:] + v[:, :-1]) / 2
    return float(np.linalg.norm(moved - STEP * stride * mean, axis=-1).mean())


def roughness(plans: np.ndarray) -> float:
    """Mean squared second difference of the positions (B, H, 4), in m^2."""
    p = plans[..., :2]
    return float(((p[:, 2:] - 2 * p[:, 1:-1] + p[:, :-2]) ** 2).sum(-1).mean())
