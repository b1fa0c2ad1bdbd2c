"""Tables, claims and the picture of the planners' benchmark, from its records."""

from pathlib import Path

import numpy as np
from _policies import interval
from _report import table

from common.statistics import Z95, paired_difference
from control.envs.scores import headline, normalised_score

WRITTEN, IMPROVED, RULE = "plans as written", "improved", "improved, level by the rule"
BEST_OF, STUDENT = "improved, best of 8", "student, 1 evaluation"
FAMILIES = {
    "from noise": "tab:gray", "improved": "tab:blue", "plans as written": "tab:orange", "student": "tab:green",
    "habit": "tab:olive", "Diffuser": "tab:red", "warm start": "tab:brown", "cloning": "tab:purple",
}  # fmt: skip
MEASURES = {
    "walls": ("plans that touch a wall, %", 100, 0),
    "residual": ("residual", 1, 3),
    "roughness": ("roughness", 1, 5),
    "ends": ("plans that end at the goal, %", 100, 0),
}


def scores(records: list[dict], title: str, task: str) -> np.ndarray:
    """(trainings, starts) points, by the task's own references where there are any."""
    returns = np.array([one["ways"][title]["returns"] for one in records], float)
    return normalised_score(task, returns, headline(task))


def value(records: list[dict], title: str, key: str) -> float:
    """Mean over the trainings; nan where it was not measured."""
    return float(np.mean([one["ways"][title].get(key, np.nan) for one in records]))


def calls(records: list[dict], title: str) -> float:
    """Network evaluations per decision, those of the inverse dynamics left out; nan for a policy without plans."""
    found = [sum(one["ways"][title]["calls"].values()) if "calls" in one["ways"][title] else np.nan for one in records]
    return float(np.mean(found))


def shown(number: float, digits: int = 1) -> str:
    return "" if np.isnan(number) else f"{number:.{digits}f}"


def spread(found: np.ndarray, digits: int = 1) -> str:
    """Mean with its 95 % interval over trainings and starts."""
    low, high = ends(found)
    return f"{found.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def ends(found: np.ndarray) -> tuple[float, float]:
    """95 % interval of (trainings, starts); where all agree, that value twice."""
    return interval(found) if np.ptp(found) else (float(found.mean()), float(found.mean()))


def as_good(mean: float, low: float, high: float) -> bool:
    """Whether a paired difference, its 95 % interval low to high, is no more than a standard error below 0."""
    return mean >= -(high - low) / (2 * Z95)


def gain(records: list[dict], first: str, second: str, task: str) -> tuple[float, float, float]:
    """Points of `second` less those of `first`, paired by training and start, with the 95 % interval."""
    return paired_difference(scores(records, first, task), scores(records, second, task))


def signed(mean: float, low: float, high: float) -> str:
    """A difference with its interval."""
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def result_table(records: list[dict], task: str) -> str:
    """A line per way of planning."""
    titles = [title for title in records[0]["ways"] if ":" not in title]
    measures = [key for key in MEASURES if any(key in one["data"] for one in records)]
    lines = []
    for title in titles:
        row = [title, spread(scores(records, title, task))]
        row.append("" if title == WRITTEN else signed(*gain(records, WRITTEN, title, task)))
        row += [shown(MEASURES[key][1] * value(records, title, key), MEASURES[key][2]) for key in measures]
        row += [
            shown(calls(records, title)),
            shown(value(records, title, "ms")),
            shown(value(records, title, "ms_step"), 2),
        ]
        lines.append(row)
    data = [shown(MEASURES[key][1] * float(np.mean([one["data"][key] for one in records])), MEASURES[key][2])
            for key in measures]  # fmt: skip
    lines.append(["the data's own windows", "", "", *data, "", "", ""])
    kind = "random policy 0, controller that knows the goal 100" if headline(task) == "own" else "D4RL's points"
    heads = [f"score ({kind})", "less that of plans as written", *(MEASURES[key][0] for key in measures),
             "evaluations per decision", "ms per decision", "ms per step"]  # fmt: skip
    starts = len(records[0]["ways"][WRITTEN]["returns"])
    said = (f"{len(records)} trainings, {starts} starts each, the same for every way; 95 % bootstrap intervals over "
            "both; CPU time of one thread, one environment, PyTorch.")  # fmt: skip
    if len({one["data"]["roughness"] for one in records}) > 1:  # it depends on the data alone
        said += " The trainings are not all of the same data, which were collected more than once."
    return f"{said}\n\n{table(['', *heads], lines)}"


def claims(records: list[dict], task: str) -> str:
    """What the paper and the design say, each with what was measured."""
    rows = []

    def row(text: str, found: str, holds: bool) -> None:
        rows.append([text, found, "yes" if holds else "no"])

    mean, low, high = gain(records, WRITTEN, IMPROVED, task)
    each = (scores(records, IMPROVED, task) - scores(records, WRITTEN, task)).mean(1)
    row("improving beats the written plans",
        f"{signed(mean, low, high)}; by training {', '.join(f'{one:+.1f}' for one in each)}", low > 0)  # fmt: skip
    mean, low, high = gain(records, WRITTEN, RULE, task)
    row("the level by the rule makes nothing worse", signed(mean, low, high),
        as_good(mean, low, high))  # fmt: skip
    noise = sorted((title for title in records[0]["ways"] if title.startswith("from noise, ")), key=_steps)
    ours = calls(records, IMPROVED)
    equal = min(noise, key=lambda title: abs(calls(records, title) - ours))
    ratio = value(records, equal, "residual") / value(records, IMPROVED, "residual")
    row(f"more feasible than {equal} at {calls(records, equal):.0f} evaluations, ours {ours:.0f} (residuals' ratio)",
        f"{ratio:.2f}", ratio > 1)  # fmt: skip
    equals = [title for title in noise if as_good(*gain(records, IMPROVED, title, task))]
    if equals:
        quicker = value(records, equals[0], "ms") / value(records, IMPROVED, "ms")
        row(f"3 times as quick as {equals[0]}, the quickest from noise with as good a score", f"{quicker:.1f}",
            quicker >= 3)  # fmt: skip
    else:
        best = max(noise, key=lambda title: scores(records, title, task).mean())
        mean, low, high = gain(records, best, IMPROVED, task)
        row(f"better than any from noise (the best: {best})", signed(mean, low, high), low > 0)
    if "Diffuser" in records[0]["ways"]:
        for text, way, cost in (
            ("a decision 10 times as quick as Diffuser's", IMPROVED, "ms"),
            ("best of 8: per step 10 times as quick as Diffuser's best of 8", BEST_OF, "ms_step"),
        ):
            mean, low, high = gain(records, "Diffuser", way, task)
            quicker = value(records, "Diffuser", cost) / value(records, way, cost)
            row(f"{text}, at as good a score", f"{quicker:.1f} times; {signed(mean, low, high)}",
                quicker >= 10 and as_good(mean, low, high))  # fmt: skip
    if STUDENT in records[0]["ways"]:
        mean, low, high = gain(records, IMPROVED, STUDENT, task)
        quicker = value(records, IMPROVED, "ms") / value(records, STUDENT, "ms")
        row("the student is quicker than its teacher, at as good a score",
            f"{quicker:.2f} times; {signed(mean, low, high)}",
            quicker > 1 and as_good(mean, low, high))  # fmt: skip
    levels = sorted((int(title.split(": ")[1]), title) for title in records[0]["ways"]
                    if title.startswith("level: ") and title.endswith("noised to it"))  # fmt: skip
    if levels:
        curve = [(0, value(records, WRITTEN, "residual")), *((k, value(records, t, "residual")) for k, t in levels)]
        k = min(curve, key=lambda one: one[1])[0]
        row("noised to its level and improved, a plan's residual falls at first and rises again",
            ", ".join(f"{level}: {found:.3f}" for level, found in curve), 0 < k < levels[-1][0])  # fmt: skip
    return table(["", "measured", "holds"], rows)


def _steps(title: str) -> int:
    return int(title.rsplit(" ", 1)[1])


def ablations(records: list[dict], task: str) -> str:
    """A table per group of titles "group: value: way"; where plans as written are among a value's ways, what the others
    gain over them, paired by training and start."""
    groups: dict[str, list[str]] = {}
    for title in records[0]["ways"]:
        if title.count(": ") == 2:
            groups.setdefault(title.split(": ")[0], []).append(title)
    parts = []
    for group, titles in groups.items():
        paired = any(title.endswith(f": {WRITTEN}") for title in titles)
        lines = []
        for title in titles:
            _, setting, way = title.split(": ")
            row = [f"{setting}, {way}", spread(scores(records, title, task))]
            if paired:
                written = f"{group}: {setting}: {WRITTEN}"
                row.append("" if way == WRITTEN else signed(*gain(records, written, title, task)))
            row += [shown(100 * value(records, title, "walls"), 0), shown(value(records, title, "residual"), 3)]
            lines.append(row)
        gains = ["less that of plans as written"] if paired else []
        parts.append(table([group, "score", *gains, MEASURES["walls"][0], MEASURES["residual"][0]], lines))
    return "\n\n".join(parts)


def plot(found: dict[str, tuple[str, list[dict]]], path: Path) -> Path:
    """Score against milliseconds per decision, a panel per task (title -> (task, records))."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(4.4 * len(found), 4.0), layout="constrained", squeeze=False)
    for axis, (title, (task, records)) in zip(axes[0], found.items(), strict=True):
        for family, colour in FAMILIES.items():
            names = [name for name in records[0]["ways"] if ":" not in name and name.startswith(family)]
            if not names:
                continue
            cost = [value(records, name, "ms") for name in names]
            mean = [scores(records, name, task).mean() for name in names]
            error = np.abs(np.array([ends(scores(records, name, task)) for name in names]).T - np.array(mean))
            axis.errorbar(cost, mean, yerr=error, fmt="o", markersize=4, color=colour, capsize=2, label=family)
        axis.set(title=title, xscale="log", xlabel="ms per decision")
    axes[0, 0].set_ylabel("score")
    handles = {  # a family's, once
        label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4 * len(found), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
