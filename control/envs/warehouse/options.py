"""What a warehouse task may be: reward, collisions, commands, what is observed, what is randomised."""

from dataclasses import dataclass

from common.errors import ConfigError

REWARDS = ("sparse_goal", "sparse_collision", "sparse_step", "shaped")
COLLISIONS = ("terminate", "block")
SPEEDS = {"forward": (0.0, 1.0), "reversible": (-0.5, 1.0)}  # m/s at action -1 and +1
VISIBILITY = ("always", "line_of_sight")


@dataclass(frozen=True)
class Randomisation:
    """Domain randomisation, off by default. Drawn at every reset but for the rays' noise, drawn at every step.

    ray_noise: standard deviation, m. ray_dropout: share of rays that read the full range. gain: the actuators' gains
    lie in 1 +- gain. latency: a command is a control step late in every second episode. radius: the hull's in 1 +-
    radius. mover_speed: in 1 +- mover_speed; mover_scale: multiplies all of them.
    """

    ray_noise: float = 0.0
    ray_dropout: float = 0.0
    gain: float = 0.0
    latency: bool = False
    radius: float = 0.0
    mover_speed: float = 0.0
    mover_scale: float = 1.0

    def __post_init__(self):
        for key in ("ray_noise", "ray_dropout", "gain", "radius", "mover_speed"):
            value, most = getattr(self, key), float("inf") if key == "ray_noise" else 1.0
            if not 0 <= value < most:
                raise ConfigError(f"randomisation.{key}={value!r}: wanted 0 <= {key}" + f" < {most:g}" * (most == 1))
        if not self.mover_scale > 0:
            raise ConfigError(f"randomisation.mover_scale={self.mover_scale!r}: wanted more than 0")


FIELD = Randomisation(0.02, 0.02, 0.1, True, 0.05, 0.5)  # all of it, at the middle of what real vehicles show


@dataclass(frozen=True)
class Options:
    """reward: "sparse_goal": 1 at the goal; "sparse_collision": and -0.1 for a collision; "sparse_step": and -1 / T a
    step; "shaped": and the geodesic distance as a potential. collision: "terminate" or "block". speed: "forward" or
    "reversible". observe_pose: whether x, y and heading are observed. goal_visibility: "always", or only within 3 m and
    in sight ("line_of_sight"). stop_at_goal: whether the goal counts below 0.2 m/s only."""

    reward: str = "sparse_goal"
    collision: str = "terminate"
    speed: str = "forward"
    observe_pose: bool = True
    goal_visibility: str = "always"
    stop_at_goal: bool = False
    gamma: float = 0.995  # of the shaped reward's potential
    randomisation: Randomisation = Randomisation()

    def __post_init__(self):
        for key, choices in (("reward", REWARDS), ("collision", COLLISIONS), ("speed", SPEEDS),
                             ("goal_visibility", VISIBILITY)):  # fmt: skip
            if getattr(self, key) not in choices:
                raise ConfigError(f"{key}={getattr(self, key)!r}: choose one of {', '.join(choices)}")
