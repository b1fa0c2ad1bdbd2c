"""Push-T (Diffusion Policy, arXiv 2303.04137; package gym-pusht) as a world: the field's benchmark, in 2-D."""

import numpy as np
from gymnasium import spaces

# Corners of the T in its own frame, pixels of the 512 x 512 scene: bar and stem, seen from the body's origin.
CORNERS = np.array(
    [[-60, 0], [60, 0], [60, 30], [-60, 30], [-15, 30], [15, 30], [15, 120], [-15, 120]], np.float64
)  # fmt: skip


def corner_state(state: np.ndarray) -> np.ndarray:
    """agent x, y and the eight corners of the T: (..., 5) of agent xy, block xy, block angle -> (..., 18) pixels.

    Corners tell the pose without the jump of an angle.
    """
    state = np.asarray(state, np.float64)
    cos, sin = np.cos(state[..., 4:5]), np.sin(state[..., 4:5])
    x = state[..., 2:3] + cos * CORNERS[:, 0] - sin * CORNERS[:, 1]
    y = state[..., 3:4] + sin * CORNERS[:, 0] + cos * CORNERS[:, 1]
    return np.concatenate([state[..., :2], np.stack([x, y], -1).reshape(*state.shape[:-1], 16)], -1)


def legacy_start(seed: int) -> np.ndarray:
    """(5,): the start that the published evaluations draw from a seed (legacy seeding: seeds 100000 and up)."""
    random = np.random.RandomState(seed % 2**32)
    block = [random.randint(50, 450), random.randint(50, 450), random.randint(100, 400), random.randint(100, 400)]
    return np.array([*block, random.randn() * 2 * np.pi - np.pi])


class PushT:
    """State: agent and corners of the T (18), pixels in 0..512. Action: target of the agent, pixels, 10 Hz.

    info: `coverage`, the part of the goal that is covered; `success`, coverage above 0.95; `score`, coverage / 0.95, at
    most 1, whose largest value is the published score of an episode. The episode is decided by success.
    """

    control_hz = 10.0
    camera = None

    def __init__(self):
        from gym_pusht.envs import PushTEnv

        self.native = PushTEnv(obs_type="state", render_mode="rgb_array")
        self.action_space = spaces.Box(0.0, 512.0, (2,), np.float32)
        self.state_space = spaces.Box(-np.inf, np.inf, (18,), np.float32)

    def reset(self, seed: int) -> None:
        self._observation, _ = self.native.reset(options={"reset_to_state": legacy_start(seed)})
        self._coverage = float(self.native._get_coverage())

    def step(self, action: np.ndarray) -> tuple[float, bool]:
        self._observation, reward, decided, _, info = self.native.step(action)
        self._coverage = float(info["coverage"])
        return float(reward), bool(decided)

    def state(self) -> np.ndarray:
        return corner_state(self._observation).astype(np.float32)

    def info(self) -> dict:
        goal = self.native.success_threshold
        return {"success": self._coverage > goal, "coverage": self._coverage, "score": min(1.0, self._coverage / goal)}

    def frame(self, height: int, width: int) -> np.ndarray:
        side = min(height, width)
        self.native.observation_height = self.native.observation_width = side
        image = np.full((height, width, 3), 255, np.uint8)
        top, left = (height - side) // 2, (width - side) // 2
        image[top : top + side, left : left + side] = self.native._render()
        return image
