"""AGV path planning: warehouses in MuJoCo and their kinematic twin, registered as `tutelage/AGVWarehouse-*-v0`."""

import gymnasium as gym

from common.errors import ConfigError

IDS = ("Simple", "SimpleDynamic", "Complex", "ComplexDynamic", "Random")
NAMES = {f"AGVWarehouse-{name}-v0": name for name in IDS}


def register_all() -> None:
    """Register the warehouses with gymnasium, once."""
    for name, layout in NAMES.items():
        if f"tutelage/{name}" not in gym.registry:
            gym.register(f"tutelage/{name}", "control.envs.warehouse.env:AGVWarehouse", kwargs={"layout": layout},
                         nondeterministic=False)  # fmt: skip


def as_task(name: str, max_steps: int | None = None, observe: tuple[str, ...] = ("state",), **kwargs) -> gym.Env:
    """A warehouse with the observations of the other tasks, {"state": (O,)}; kwargs as `AGVWarehouse`."""
    from control.envs.warehouse.env import AGVWarehouse

    if tuple(observe) != ("state",):
        raise ConfigError(f"observe={tuple(observe)}: a warehouse has 'state' alone")
    env = AGVWarehouse(NAMES[name], max_steps=max_steps, **kwargs)
    shown = gym.spaces.Dict({"state": env.observation_space})
    return gym.wrappers.TransformObservation(env, lambda observation: {"state": observation}, shown)
