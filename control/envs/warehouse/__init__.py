"""AGV path planning: warehouses in MuJoCo and their kinematic twin, registered as `tutelage/AGVWarehouse-*-v0`."""

import gymnasium as gym

from common.errors import ConfigError

IDS = ("Simple", "SimpleDynamic", "Complex", "ComplexDynamic", "Random")
HELD_OUT = (1000, 200)  # pool of the random layouts for tests; trainings draw from (0, 1000)
NAMES = {f"AGVWarehouse-{name}-v0": name for name in IDS}


def register_all() -> None:
    """Register the warehouses with gymnasium, once."""
    for name, layout in NAMES.items():
        if f"tutelage/{name}" not in gym.registry:
            gym.register(f"tutelage/{name}", "control.envs.warehouse.env:AGVWarehouse", kwargs={"layout": layout},
                         nondeterministic=False)  # fmt: skip


def as_task(name: str, max_steps: int | None = None, observe: tuple[str, ...] = ("state",), **kwargs) -> gym.Env:
    """A warehouse with the observations of the other tasks, {"state": (O,)}; kwargs as `AGVWarehouse`. Random layouts
    are those that no training sees."""
    from control.envs.warehouse.env import AGVWarehouse

    if tuple(observe) != ("state",):
        raise ConfigError(f"observe={tuple(observe)}: a warehouse has 'state' alone")
    if NAMES[name] == "Random":
        kwargs.setdefault("pool", HELD_OUT)
    env = AGVWarehouse(NAMES[name], max_steps=max_steps, **kwargs)
    shown = gym.spaces.Dict({"state": env.observation_space})
    return gym.wrappers.TransformObservation(env, lambda observation: {"state": observation}, shown)
