"""Tasks behind one protocol (`task.TaskEnv`), registered with gymnasium under `tutelage/`."""

from control.envs import warehouse
from control.envs.registry import TASKS, Task, make, register_all

register_all()
warehouse.register_all()

__all__ = ["TASKS", "Task", "make", "register_all"]
