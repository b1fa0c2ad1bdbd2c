"""Tables, gates and curves of the warehouses' benchmark."""

from pathlib import Path

import numpy as np
from _policies import rate
from _report import table

from common.engine.experiments import Job
from common.engine.workdir import read_metrics
from common.statistics import paired_difference

CURVES = {  # short: what the log calls it
    "success": "rollout/success_rate", "coverage": "rnd/coverage", "raw": "rnd/bonus_raw_mean",
    "first_goal": "rnd/first_goal_step",
}  # fmt: skip
WINDOW = 200  # episodes that a training's success is taken over


def curves(job: Job) -> dict[str, list[float]]:
    """Steps, and what the log of a training says at each; 0 for a success before the first episode has ended."""
    rows = read_metrics(job.work_dir)
    return {"steps": [row["step"] for row in rows],
            **{short: [row.get(name, 0.0) for row in rows] for short, name in CURVES.items()}}  # fmt: skip


def last(record: dict, variant: str, key: str) -> np.ndarray:
    """(trainings,) at the end of training."""
    return np.array([one[key][-1] for one in record["curves"][variant]])


def tests(record: dict, name: str, key: str = "is_success", condition: str = "") -> np.ndarray:
    """(trainings, episodes) of the mean policy, or (1, episodes) of a driver."""
    found = [one for one in record["tests"] if (one["name"], one["condition"]) == (name, condition)]
    return np.array([one["episodes"][key] for one in found], float)


def result_table(record: dict, study) -> str:
    """A line per variant: success in training by seed, first goal, coverage; and of the mean policy in unseen episodes
    success, collisions and SPL with intervals. Drivers below."""
    lines = []
    for variant in study.variants:
        won = " ".join(f"{100 * value:.0f}" for value in last(record, variant, "success"))
        first = [one["first_goal"][-1] for one in record["curves"][variant]]
        first = " ".join(f"{step / 1000:.0f}" if step > 0 else "-" for step in first)
        covered = f"{last(record, variant, 'coverage').mean():.2f}"
        lines.append([variant, won, first, covered, *_tested(record, variant)])
    lines += [[driver.replace("_", " "), "", "", "", *_tested(record, driver)] for driver in study.drivers]
    heads = ["success in training, %, per seed", "first goal, 1,000 steps", "coverage", "success", "collisions", "SPL"]
    return table(["", *heads], lines)


def _tested(record: dict, name: str, condition: str = "") -> list[str]:
    found = [tests(record, name, key, condition) for key in ("is_success", "is_collision", "spl")]
    return [rate(one) for one in found]


def held_out_table(records: dict, conditions: dict) -> str:
    """Success, collisions and SPL in unseen random warehouses, by condition, and the difference of the two learners."""
    rows = []
    for condition in conditions:
        for study, names in (("random", ("RND", "PPO")), ("distilled", ("distilled planner",)),
                             ("random", ("pure_pursuit", "dynamic_window"))):  # fmt: skip
            for name in names:
                shown = name.replace("_", " ") + (", knows the map" if study == "random" and "_" in name else "")
                rows.append([condition, shown, *_tested(records[study], name, condition)])
    gaps = []
    for condition in conditions:
        a = tests(records["random"], "RND", condition=condition)
        b = tests(records["distilled"], "distilled planner", condition=condition)
        mean, low, high = paired_difference(a, b)
        gaps.append([condition, f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"])
    return "\n\n".join([
        table(["warehouse", "", "success", "collisions", "SPL"], rows),
        table(["warehouse", "distilled planner - RND, success, paired by warehouse"], gaps),
    ])  # fmt: skip


def bonus_fall(one: dict) -> tuple[float, int]:
    """How often the mean raw bonus fits from the first tenth of a training into its last tenth, and in how many
    rollouts it rose by more than half over the one before."""
    raw = np.array(one["raw"])
    tenth = max(1, len(raw) // 10)
    rises = int((raw[1:] > 1.5 * raw[:-1]).sum())
    return float(raw[:tenth].mean() / raw[-tenth:].mean()), rises


def gates(records: dict) -> str:
    """What the plan says must hold, what was measured, and whether it does."""
    lines: list[list[str]] = []

    def add(text: str, shown: str, holds: bool | None) -> None:
        lines.append([text, shown, {True: "yes", False: "no", None: ""}[holds]])

    def percent(values: np.ndarray) -> str:
        return " ".join(f"{100 * value:.0f}" for value in values)

    simple, twin = records["simple"], records["simple_twin"]
    won, plain = last(simple, "RND", "success"), last(simple, "PPO", "success")
    add("G1a. Simple: RND at least 85 % at 250k steps in 4 of 5 seeds", percent(won), int((won >= 0.85).sum()) >= 4)
    add("G1b. Simple: median PPO at most 5 %", percent(plain), float(np.median(plain)) <= 0.05)
    covered = last(simple, "RND", "coverage") - last(simple, "PPO", "coverage")
    mean, low, high = paired_difference(np.zeros_like(covered), covered)
    add("G1c. Simple: coverage RND - PPO at least 0.15", f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]", mean >= 0.15)
    won, plain = (last(records["complex10"], name, "success") for name in ("RND", "PPO"))
    add("G2a. Complex10: RND at least 80 % at 1M steps in 3 of 5 seeds", percent(won), int((won >= 0.8).sum()) >= 3)
    add("G2b. Complex10: PPO at most 5 % in 4 of 5 seeds", percent(plain), int((plain <= 0.05).sum()) >= 4)
    won, full = (last(records["simple_dynamic"], name, "success") for name in ("RND", "full observation"))
    add("G3a. SimpleDynamic: median RND at least 70 % at 800k steps", percent(won), float(np.median(won)) >= 0.7)
    add("G3b. SimpleDynamic: the full observation as input is not better", percent(full), full.mean() <= won.mean())
    ours = last(twin, "RND", "success")
    for name in ("paper's sum", "paper's sum, raw pose"):
        theirs = last(twin, name, "success")
        add(f"G4. Simple, twin: {name} stays below the full recipe ({percent(ours)})", percent(theirs),
            theirs.mean() < ours.mean())  # fmt: skip
    theirs = last(twin, "raw pose", "success")
    add("G4. Simple, twin: raw pose as input stays below it", percent(theirs), theirs.mean() < ours.mean())
    falls = [bonus_fall(one) for one in simple["curves"]["RND"]]
    add("G5. Simple: the mean raw bonus falls 5-fold from the first to the last tenth, and rises again on the way",
        ", ".join(f"{fall:.1f}-fold, {rises} rises" for fall, rises in falls),
        all(fall >= 5 and rises for fall, rises in falls))  # fmt: skip
    solved = {name: last(records["complex"], name, "success") for name in records["complex"]["curves"]}
    add("Complex: at least 80 % in 4 of 5 seeds within 2M steps, by one of the variants",
        "; ".join(f"{name}: {percent(values)}" for name, values in solved.items()),
        any(int((values >= 0.8).sum()) >= 4 for values in solved.values()))  # fmt: skip
    return table(["gate", f"measured (training, last {WINDOW} episodes)", "holds"], lines)


def plot(records: dict, studies: dict, path: Path) -> Path:
    """Success and coverage over steps: means over the seeds, and from the worst to the best of them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [name for name, study in studies.items() if study.layout != "Random"]
    figure, axes = plt.subplots(2, len(shown), figsize=(4.2 * len(shown), 6.4), layout="constrained", sharey="row")
    for column, name in enumerate(shown):
        for panel in axes[:, column]:
            panel.set_prop_cycle(color=plt.get_cmap("tab20" if len(records[name]["curves"]) > 10 else "tab10").colors)
        for variant, runs in records[name]["curves"].items():
            steps = np.array(runs[0]["steps"]) / 1000
            for row, key in enumerate(("success", "coverage")):
                values, panel = np.array([one[key] for one in runs]), axes[row, column]
                (line,) = panel.plot(steps, values.mean(0), label=variant, linewidth=1.4)
                if len(records[name]["curves"]) <= 4:
                    panel.fill_between(steps, values.min(0), values.max(0), alpha=0.15, color=line.get_color())
        axes[0, column].set_title(studies[name].title, fontsize=9)
        axes[1, column].set_xlabel("1,000 steps")
        axes[1, column].legend(fontsize=6, loc="lower right", ncols=1 + (len(records[name]["curves"]) > 4))
    axes[0, 0].set_ylabel("success in training")
    axes[1, 0].set_ylabel("coverage")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
