"""How far plans are from what the robot could do: measures of the plans themselves, independent of luck in an episode.

Letters: B plans, H states `stride` environment steps apart, S numbers of a state, in the environment's units; a maze's
are x, y (m), vx, vy (m/s).
"""

from collections.abc import Callable

import numpy as np

STEP = 0.01  # s of a maze's step


def in_walls(plans: np.ndarray, world) -> float:
    """Share of plans (B, H, 4) in a `Maze2D` that touch a wall: one of their states, or of the straight lines between
    them at 5 points each, is no floor."""
    points = plans[..., :2]
    between = np.concatenate([points[:, :-1] + w * (points[:, 1:] - points[:, :-1]) for w in np.linspace(0, 0.8, 5)], 1)
    every = np.concatenate([between, points[:, -1:]], 1)
    return float((~world.on_floor(every.reshape(-1, 2))).reshape(len(plans), -1).any(1).mean())


def kinematic_residual(plans: np.ndarray, stride: int = 1) -> float:
    """Mean |(p' - p) / (stride dt) - (v + v') / 2| in m/s of neighbouring states (B, H, 4): 0 for a constant
    acceleration between them; with stride 1 |(p' - p) / dt - v'|, which the simulator's integrator makes 0."""
    p, v = plans[..., :2], plans[..., 2:]
    moved = p[:, 1:] - p[:, :-1]
    mean = v[:, 1:] if stride == 1 else (v[:, 1:] + v[:, :-1]) / 2
    return float(np.linalg.norm(moved / (stride * STEP) - mean, axis=-1).mean())


def dynamics_residual(
    plans: np.ndarray, act: Callable[[np.ndarray, np.ndarray], np.ndarray], world, spread: np.ndarray
):
    """Mean, over the steps of plans (B, H, S) of one step each, of the root mean square over S of (s' - s*) / spread:
    s* is where a `Locomotion` world comes to from s with the action that the inverse dynamics `act` gives for (s, s'),
    both (B (H - 1), S)."""
    before, after = plans[:, :-1].reshape(-1, plans.shape[-1]), plans[:, 1:].reshape(-1, plans.shape[-1])
    reached = np.empty_like(after)
    for i, action in enumerate(act(before, after)):
        world.put(before[i])
        world.step(action)
        reached[i] = world.state()
    return float(np.sqrt((((after - reached) / spread) ** 2).mean(-1)).mean())


def roughness(plans: np.ndarray, dims: int = 2) -> float:
    """Mean squared second difference of the first `dims` numbers of plans (B, H, S); of a maze's positions, in m^2."""
    p = plans[..., :dims]
    return float(((p[:, 2:] - 2 * p[:, 1:-1] + p[:, :-2]) ** 2).sum(-1).mean())
