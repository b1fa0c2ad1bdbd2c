"""Records of parts of a benchmark, so that it may be measured part by part: each holds the recipe that made it."""

import argparse
import json
from pathlib import Path


def keep(path: Path, value: dict) -> None:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(value) + "\n")
    beside.rename(path)


def load(path: Path, recipe: dict) -> dict | None:
    """What `keep` left; None where there is nothing, or where its "recipe" is another one."""
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    wanted = json.loads(json.dumps(recipe))
    if record["recipe"] != wanted:
        changed = [key for key in wanted if record["recipe"].get(key) != wanted[key]]
        print(f"{path}: made with other {', '.join(changed)}; measured anew")
        return None
    return record


def parts_asked(parse: argparse.ArgumentParser, given: list[str] | None, parts: list[tuple[str, int]], every: dict):
    """(task, seed) of `--now TASK/SEED ..`, without `--now` all of `parts`; every: all tasks, with the seeds of each.
    Anything else is an error of the command line."""
    named = {f"{task}/{seed}": (task, seed) for task, seeds in every.items() for seed in seeds}
    for one in given or ():
        if one not in named:
            parse.error(f"--now {one}: choose of {', '.join(named)}")
    return parts if given is None else [named[one] for one in given]


def keep_records(parse: argparse.ArgumentParser, tried: str, results: Path, standard: Path) -> None:
    """An error of the command line where a try, by the options `tried`, would leave its records among the measured
    ones; tried: "" where nothing is."""
    if tried and results == standard:
        parse.error(f"{tried}: a try would replace the records; give it its own --results")


def rounded(value, digits: int = 5):
    """Numbers of a tree to so many digits after the point."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value
