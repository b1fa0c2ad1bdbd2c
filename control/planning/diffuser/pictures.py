"""Pictures of plans: over the floor of a maze, or as the courses of a robot's joints."""

from pathlib import Path

import numpy as np

from control.envs import make

COLOURS = {"as written": "tab:orange", "improved": "tab:blue", "driven": "tab:green"}


def watched(planner, task: str, seed: int, steps: int, at: int = 0) -> dict:
    """`steps` steps of an episode under a planner of one environment.

    Returns {"states": (steps + 1, S), "written": (C, H, S), "improved": (H, S) of the last plan made up to step `at`,
    "world"}; a planner that writes nothing has no "written".
    """
    env = make(task)
    observation, _ = env.reset(seed=seed)
    planner.reset([seed])
    states, found = [observation["state"]], {}
    for step in range(steps):
        action = planner.select_action({"state": observation["state"][None]})[0]
        if step <= at:
            found = {"written": getattr(planner, "first_plan", None), "improved": planner.current[0]}
        observation, reward, ended, cut, _ = env.step(action)
        if hasattr(planner, "rewarded"):
            planner.rewarded(np.array([reward]))
        states.append(observation["state"])
        if ended or cut:
            break
    world = env.unwrapped.world
    env.close()
    kept = {name: value for name, value in found.items() if value is not None}
    return {"states": np.array(states), "world": world, **kept}


def _axes(count: int, width: float, height: float):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    return plt, figure, axes[0]


def draw_maze(axis, world) -> None:
    """Walls and goal of a Maze2D world."""
    maze = world.maze
    for row, line in enumerate(maze.maze_map):
        for column, cell in enumerate(line):
            if cell == 1:
                x, y = maze.cell_rowcol_to_xy(np.array([row, column]))
                axis.add_patch(_square(x, y, maze.maze_size_scaling))
    axis.plot(*world.goal, marker="*", color="tab:red", markersize=14, linestyle="none", label="goal")
    half = np.array([len(maze.maze_map[0]), len(maze.maze_map)]) * maze.maze_size_scaling / 2
    axis.set(xlim=(-half[0], half[0]), ylim=(-half[1], half[1]), aspect="equal", xticks=[], yticks=[])


def _square(x: float, y: float, side: float):
    from matplotlib.patches import Rectangle

    return Rectangle((x - side / 2, y - side / 2), side, side, color="0.8", linewidth=0)


def maze_plans(shown: dict[str, dict], path: str | Path) -> Path:
    """A panel per title: what `watched` found, over the maze."""
    plt, figure, axes = _axes(len(shown), 4.4, 4.6)
    for axis, (title, found) in zip(axes, shown.items(), strict=True):
        draw_maze(axis, found["world"])
        for number, one in enumerate(found.get("written", ())):
            label = "as written" if number == 0 else None
            axis.plot(
                *one[:, :2].T, ".-", color=COLOURS["as written"], linewidth=1, markersize=4, alpha=0.6, label=label
            )
        axis.plot(*found["improved"][:, :2].T, ".-", color=COLOURS["improved"], linewidth=1.4, label="improved")
        axis.plot(*found["states"][:, :2].T, color=COLOURS["driven"], linewidth=2, alpha=0.6, label="driven")
        axis.plot(*found["states"][0, :2], "ko", markersize=5)
        axis.set_title(title, fontsize=10)
    axes[0].legend(fontsize=8, loc="upper left")
    return _saved(plt, figure, path)


def joint_plans(found: dict, path: str | Path, stride: int = 1, names: tuple[str, ...] = (), most: int = 6) -> Path:
    """The first `most` numbers of the state over a plan's steps, as written, improved and driven."""
    count = min(most, found["states"].shape[1])
    plt, figure, axes = _axes(count, 2.6, 2.6)
    steps = stride * np.arange(len(found["improved"]))
    for number, axis in enumerate(axes):
        for one in found.get("written", ())[:1]:
            axis.plot(steps, one[:, number], ".-", color=COLOURS["as written"], label="as written")
        axis.plot(steps, found["improved"][:, number], ".-", color=COLOURS["improved"], label="improved")
        driven = found["states"][: steps[-1] + 1, number]
        axis.plot(np.arange(len(driven)), driven, color=COLOURS["driven"], linewidth=2, alpha=0.6, label="driven")
        axis.set_title(names[number] if number < len(names) else f"state {number}", fontsize=9)
        axis.set_xlabel("steps")
    axes[0].legend(fontsize=7)
    return _saved(plt, figure, path)


def _saved(plt, figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
