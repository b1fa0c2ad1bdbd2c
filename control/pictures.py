"""Pictures of rollouts: strips of frames, latency over control steps, success over delay. All written as PNG."""

from pathlib import Path

import numpy as np

from control.envs import make
from control.rollout import decides


def episode_frames(
    policy, task: str, seed: int, observe: tuple[str, ...] = ("state",), every: int = 5, image_hw=(180, 240)
) -> list[np.ndarray]:
    """Pictures (H, W, 3) of a policy's episode on layout `seed`: of every fifth step and of the last."""
    env, pictures, step = make(task, observe=observe), [], 0
    observation, info = env.reset(seed=seed)
    policy.reset([seed])
    ended = cut = False
    while not (ended or cut or decides(info)):
        if step % every == 0:
            pictures.append(env.unwrapped.world.frame(*image_hw))
        action = policy.select_action({name: observation[name][None] for name in observe})[0]
        observation, reward, ended, cut, info = env.step(action)
        if hasattr(policy, "rewarded"):
            policy.rewarded(np.array([reward]))
        step += 1
    pictures.append(env.unwrapped.world.frame(*image_hw))
    env.close()
    return pictures


def strip(frames: list[np.ndarray], count: int = 6, gap: int = 4) -> np.ndarray:
    """(H, W', 3): `count` frames of an episode at even distances, the first and the last included, white between."""
    chosen = [frames[round(i)] for i in np.linspace(0, len(frames) - 1, count)]
    between = np.full((len(chosen[0]), gap, 3), 255, np.uint8)
    return np.concatenate([part for one in chosen for part in (one, between)][:-1], 1)


def save_png(image: np.ndarray, path: str | Path) -> Path:
    """Write an (H, W, 3) uint8 image."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def _figure(width: float = 7.0, height: float = 3.4):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def curves_plot(panels: dict[str, dict[str, tuple]], path: str | Path, xlabel: str) -> Path:
    """A panel per title, in it a curve (x, y) per name; y is a share."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.4), layout="constrained", squeeze=False)
    for axis, (title, series) in zip(axes[0], panels.items(), strict=True):
        for name, (x, y) in series.items():
            axis.plot(x, y, label=name, linewidth=1.4)
        axis.set(xlabel=xlabel, ylabel=title, ylim=(-0.02, 1.02))
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return Path(path)


def latency_plot(series: dict[str, np.ndarray], period_ms: float, path: str | Path, steps: int = 64) -> Path:
    """Milliseconds of every control step for each way of running, with the control period as a line; log scale."""
    figure, axes = _figure()
    for name, milliseconds in series.items():
        shown = np.asarray(milliseconds)[:steps]
        axes.step(np.arange(len(shown)), np.maximum(shown, 1e-3), where="mid", label=name, linewidth=1.2)
    axes.axhline(period_ms, color="black", linestyle="--", linewidth=0.8, label=f"control period, {period_ms:.1f} ms")
    axes.set(xlabel="control step", ylabel="time of the step, ms", yscale="log")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    return Path(path)


def success_over_delay(rates: dict[str, list[tuple[float, float, float]]], delays: list[int], path: str | Path) -> Path:
    """Success (rate, low, high) over the delay in control steps, one line with its band per way of running."""
    figure, axes = _figure(6.0, 3.6)
    for name, rows in rates.items():
        rate, low, high = np.asarray(rows).T
        axes.plot(delays, rate, marker="o", label=name)
        axes.fill_between(delays, low, high, alpha=0.15)
    axes.set(xlabel="inference delay, control steps", ylabel="success", ylim=(-0.02, 1.02), xticks=delays)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    return Path(path)
