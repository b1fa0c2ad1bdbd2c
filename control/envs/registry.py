"""All tasks by name; each is also gymnasium's `tutelage/NAME`."""

from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

import gymnasium as gym

from common.errors import ConfigError
from control.envs import warehouse
from control.envs.task import TaskEnv

# Names of metaworld's ALL_V3_ENVIRONMENTS; a test holds the list. Importing metaworld takes seconds, so it stands here.
_NAMES = (
    "assembly-v3 basketball-v3 bin-picking-v3 box-close-v3 button-press-topdown-v3 button-press-topdown-wall-v3 "
    "button-press-v3 button-press-wall-v3 coffee-button-v3 coffee-pull-v3 coffee-push-v3 dial-turn-v3 disassemble-v3 "
    "door-close-v3 door-lock-v3 door-open-v3 door-unlock-v3 hand-insert-v3 drawer-close-v3 drawer-open-v3 "
    "faucet-open-v3 faucet-close-v3 hammer-v3 handle-press-side-v3 handle-press-v3 handle-pull-side-v3 handle-pull-v3 "
    "lever-pull-v3 pick-place-wall-v3 pick-out-of-hole-v3 reach-v3 push-back-v3 push-v3 pick-place-v3 plate-slide-v3 "
    "plate-slide-side-v3 plate-slide-back-v3 plate-slide-back-side-v3 peg-insert-side-v3 peg-unplug-side-v3 soccer-v3 "
    "stick-push-v3 stick-pull-v3 push-wall-v3 reach-wall-v3 shelf-place-v3 sweep-into-v3 sweep-v3 window-open-v3 "
    "window-close-v3"
)
METAWORLD = tuple(_NAMES.split())


@dataclass(frozen=True)
class Task:
    """world: "module:class" and its arguments. max_steps: control steps before an episode is cut."""

    name: str
    world: str
    arguments: tuple = ()
    max_steps: int = 500

    def build(self, **kwargs) -> TaskEnv:
        """The environment without a time limit. Raises ImportError that names the missing package and its extra."""
        module, name = self.world.split(":")
        try:
            world = getattr(import_module(module), name)(*self.arguments)
        except ModuleNotFoundError as error:
            raise ImportError(f"task {self.name} needs {error.name}: pip install 'tutelage[control]'") from error
        return TaskEnv(world, **kwargs)


def _tasks() -> dict[str, Task]:
    tasks = [Task(f"MetaWorld-{name}", "control.envs.metaworld:MetaWorld", (name,)) for name in METAWORLD]
    tasks += [
        Task("MetaWorld-reach-moving-v0", "control.envs.metaworld:MovingTarget", max_steps=300),
        Task("MetaWorld-push-pushed-v0", "control.envs.metaworld:PushedObject"),
        Task("TwoRoutes-v0", "control.envs.two_routes:TwoRoutes", max_steps=120),
        Task("PushT-v0", "control.envs.pusht:PushT", max_steps=300),
    ]
    steps = {"UMaze": 300, "Medium": 600, "Large": 800, "Ring": 300}
    tasks += [
        Task(f"PointMaze-{maze}-v3", "control.envs.robotics:PointMaze", (maze,), most) for maze, most in steps.items()
    ]
    for maze, most in list(steps.items())[:3]:
        tasks.append(Task(f"Maze2D-{maze}-v0", "control.envs.return_tasks:Maze2D", (maze,), most))
        tasks.append(Task(f"Maze2D-{maze}-Dense-v0", "control.envs.return_tasks:Maze2D", (maze, True), most))
    runners = ("Hopper-v5", "HalfCheetah-v5", "Walker2d-v5", "Walker2d-v4")
    tasks += [Task(name, "control.envs.return_tasks:Locomotion", (name, 1000), 1000) for name in runners]
    fetch = ("Reach", "Push", "PickAndPlace")
    tasks += [Task(f"Fetch{name}-v4", "control.envs.robotics:Fetch", (name,), 50) for name in fetch]
    return {task.name: task for task in tasks}


TASKS = _tasks()


def task(name: str) -> Task:
    """A task by its name, with or without `tutelage/`. Raises ConfigError with the nearest names."""
    name = name.removeprefix("tutelage/")
    if name not in TASKS:
        near = get_close_matches(name, [*TASKS, *warehouse.NAMES], 3, 0.4)
        raise ConfigError(f"no task {name!r}; " + (f"did you mean {', '.join(near)}?" if near else "see TASKS"))
    return TASKS[name]


def make(name: str, max_steps: int | None = None, **kwargs) -> gym.Env:
    """A task's environment with its time limit; kwargs as `TaskEnv`: observe, image_hw, points, render_mode,
    renderer; a warehouse's as `AGVWarehouse`."""
    if name.removeprefix("tutelage/") in warehouse.NAMES:
        return warehouse.as_task(name.removeprefix("tutelage/"), max_steps, **kwargs)
    found = task(name)
    return gym.wrappers.TimeLimit(found.build(**kwargs), max_steps or found.max_steps)


def build(name: str, **kwargs) -> TaskEnv:
    """Entry point of the registered environments."""
    return task(name).build(**kwargs)


def register_all() -> None:
    """Register every task as `tutelage/NAME` with gymnasium, once."""
    for name, found in TASKS.items():
        identifier = f"tutelage/{name}"
        if identifier not in gym.registry:
            gym.register(
                identifier, "control.envs.registry:build", max_episode_steps=found.max_steps, kwargs={"name": name}
            )
