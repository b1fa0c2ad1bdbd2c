"""AGV path planning: warehouses in MuJoCo and their kinematic twin, registered as `tutelage/AGVWarehouse-*-v0`."""

import gymnasium as gym

IDS = ("Simple", "SimpleDynamic", "Complex", "ComplexDynamic", "Random")


def register_all() -> None:
    """Register the warehouses with gymnasium, once."""
    for name in IDS:
        identifier = f"tutelage/AGVWarehouse-{name}-v0"
        if identifier not in gym.registry:
            gym.register(identifier, "control.envs.warehouse.env:AGVWarehouse", kwargs={"layout": name},
                         nondeterministic=False)  # fmt: skip
