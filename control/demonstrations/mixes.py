"""Locomotion's data in D4RL's mixes (arXiv 2004.07219), drawn from agents: `hopper-medium-like`, `-expert-like`,
`-medium-expert-like`, `-medium-replay-like`. Like D4RL's, not D4RL's: other agents, other simulator version.

Actions are drawn, not the mean ones, and stored as executed. Falls terminate, the 1000-step limit cuts.
medium-replay approximates a replay buffer up to the medium agent: equally many steps each of up to ten agents evenly
spread over that training, where a buffer holds one of every moment (and PPO, the default, has none to keep).
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import ConfigError
from control.demonstrations.agent import Agent, load_agent, noise_of
from control.demonstrations.collect import EVALUATION_SEEDS, claim
from control.demonstrations.store import Episode, write_minari
from control.workers import Pool, local_pool

MIXES = ("medium", "expert", "medium-expert", "medium-replay")
AGENT_STEPS = 1_000_000
STAGES = 10  # agents of a medium-replay
PART = 4  # episodes of one piece of work
SEEDS = EVALUATION_SEEDS - 1000  # the seeds from there on judge agents in training


def agent_episode(agent: Agent, task: str, seed: int, env=None) -> Episode:
    """One episode of an agent with drawn actions; starts and draws by the seed. env: to be used again."""
    from control.envs import make

    mine = env or make(task)
    draws, width = noise_of(seed), len(agent.low)
    observation, info = mine.reset(seed=seed)
    states, actions, rewards = [observation["state"]], [], []
    ended = cut = False
    while not (ended or cut):
        action = agent.act(states[-1][None], draws.standard_normal((1, width)))[0]
        observation, reward, ended, cut, info = mine.step(action)
        states.append(observation["state"])
        actions.append(action)
        rewards.append(reward)
    if env is None:
        mine.close()
    paid = np.asarray(rewards, np.float32)
    return Episode({"state": np.stack(states)}, np.stack(actions), paid, bool(info["success"]), seed, terminated=ended)


def _episodes(number: int, agent: Agent, task: str, seeds: range) -> tuple[int, list[Episode]]:
    from control.envs import make

    env = make(task)
    return number, [agent_episode(agent, task, seed, env) for seed in seeds]


def record(
    agent: Agent, task: str, steps: int, seeds: range, workers: Pool, bar: tqdm, work: Path | None = None
) -> list[Episode]:
    """Whole episodes of the seeds in order until there are `steps` steps; the same whatever the pool, entered.

    work: a folder (made here) where finished pieces are kept and found again.
    """
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    parts, running, kept, length, following, given = {}, 0, [], 0, 0, 0
    while length < steps:
        if following in parts:
            for one in parts.pop(following):
                if length < steps:
                    bar.update(min(len(one), steps - length))
                    kept.append(one)
                    length += len(one)
            following += 1
        elif running < workers.workers and given * PART < len(seeds):
            if work is not None and (work / f"{given}.npz").is_file():
                parts[given] = _load_part(work / f"{given}.npz")
            else:
                workers.submit(_episodes, given, agent, task, seeds[given * PART : (given + 1) * PART])
                running += 1
            given += 1
        elif running:
            number, parts[number] = workers.next()
            running -= 1
            if work is not None:
                _save_part(work / f"{number}.npz", parts[number])
        else:
            raise ConfigError(
                f"{len(seeds)} episodes are only {length} of {steps} steps: fewer steps, or another agent"
            )
    for _ in range(running):
        workers.next()
    return kept


def _save_part(path: Path, episodes: list[Episode]) -> None:
    """Whole or not at all."""
    beside = path.with_name(f"{path.stem}.partial.npz")
    np.savez(
        beside,
        lengths=[len(one) for one in episodes],
        states=np.concatenate([one.observations["state"] for one in episodes]),
        actions=np.concatenate([one.actions for one in episodes]),
        rewards=np.concatenate([one.rewards for one in episodes]),
        **{name: [getattr(one, name) for one in episodes] for name in ("success", "seed", "terminated")},
    )
    beside.rename(path)


def _load_part(path: Path) -> list[Episode]:
    with np.load(path) as stored:
        one = {name: stored[name] for name in stored.files}
    ends = np.cumsum(one["lengths"])
    states = np.split(one["states"], (ends + np.arange(1, len(ends) + 1))[:-1])
    columns = [states, np.split(one["actions"], ends[:-1]), np.split(one["rewards"], ends[:-1])]
    told = [one[name].tolist() for name in ("success", "seed", "terminated")]
    return [
        Episode({"state": state}, actions, rewards, success, seed, terminated=terminated)
        for state, actions, rewards, success, seed, terminated in zip(*columns, *told, strict=True)
    ]


def stages(medium: int, saved: list[int]) -> list[int]:
    """Up to `STAGES` of the saved steps, evenly spread from the first to the medium agent's, both included."""
    before = sorted(step for step in saved if step <= medium)
    chosen = np.linspace(0, len(before) - 1, min(STAGES, len(before))).round().astype(int)
    return [before[i] for i in chosen]


def sources(
    task: str, mix: str, folder: Path, agent_steps: int | None = None, progress: bool = True, **training
) -> list[tuple[str, Path]]:
    """The agents of a mix, (name, file) with equal shares of the steps, trained first where they are missing.

    A ready agent of stable-baselines3 lies in the folder as medium.zip or expert.zip. training: as `Training`, without
    the task; agent_steps: length of the training, by default 1,000,000 (for `medium` alone at most).
    Raises: ConfigError when training ends before the agent is medium.
    """
    if mix not in MIXES:
        raise ConfigError(f"mix {mix!r}: choose one of {', '.join(MIXES)}")
    names = {"medium-expert": ["medium", "expert"], "medium-replay": ["medium"]}.get(mix, [mix])
    ready = {name: folder / f"{name}.zip" for name in names if (folder / f"{name}.zip").is_file()}
    if len(ready) == len(names) and mix != "medium-replay":
        return list(ready.items())
    from control.demonstrations.agents import Training, train_agent

    wanted, length = Training(task, **training), AGENT_STEPS if agent_steps is None else agent_steps
    alone = "expert" not in names or "expert" in ready
    found = train_agent(wanted, folder, length, until_medium=alone, progress=progress)
    if "medium" in names and "medium" not in ready and found["medium"] is None:
        best = max(mean for _, mean, _ in found["evaluations"])
        raise ConfigError(
            f"{folder}: the best agent of {found['steps']} steps returns {best:.0f}, medium is {wanted.target:g}: "
            "train longer (--agent-steps), or take --medium and another folder"
        )
    if mix == "medium-replay":
        saved = [int(path.stem.split("_")[1]) for path in folder.glob("step_*.pth")]
        return [(f"step {step}", folder / f"step_{step}.pth") for step in stages(found["medium"], saved)]
    return [(name, ready.get(name, folder / f"{name}.pth")) for name in names]


def collect_mix(
    task: str,
    out: Path,
    mix: str,
    steps: int,
    agents: Path,
    seed: int = 0,
    agent_steps: int | None = None,
    pool: Pool | None = None,
    progress: bool = True,
    **training,
) -> dict:
    """Write at least `steps` steps of a mix, in whole episodes, as a Minari data set that appears whole or not at all.

    agents: folder of agents, trained where they are missing (`sources`). seed: of the first episode. A killed training
    goes on, and so does a killed recording, from the pieces beside `out`. The result is a pure function of the agents
    and the arguments. Returns a summary. Raises: as `sources`; ConfigError for pieces of another recording.
    """
    from control.envs import make
    from control.envs.registry import task as find_task
    from control.envs.scores import normalised_score, references

    found = find_task(task)
    if not found.world.endswith(":Locomotion"):
        raise ConfigError(f"{found.name} has no mixes: those are of Hopper, HalfCheetah and Walker2d")
    if steps < 1 or not 0 <= seed < SEEDS // 2:
        raise ConfigError(f"steps={steps}, seed={seed}: wanted at least one step and a seed of 0 to {SEEDS // 2 - 1}")
    given = sources(found.name, mix, Path(agents), agent_steps, progress, **training)
    name = f"{found.name.split('-')[0].lower()}-{mix}-like"
    bar = tqdm(total=steps, desc=name, unit="step", disable=not progress, dynamic_ncols=True)
    each, part, kept, rows = (SEEDS - seed) // len(given), -(-steps // len(given)), [], {}
    work = out.with_name(out.name + ".collecting")
    work.mkdir(parents=True, exist_ok=True)
    digests = {kind: hashlib.sha256(_bytes(path)).hexdigest()[:16] for kind, path in given}
    claim(work, json.dumps({"task": found.name, "mix": mix, "seed": seed, "agents": digests}))
    with pool or local_pool() as workers:
        for number, (kind, path) in enumerate(given):
            seeds = range(seed + number * each, seed + (number + 1) * each)
            mine = record(load_agent(path, found.name), found.name, part, seeds, workers, bar, work / str(number))
            returns = np.array([one.rewards.sum() for one in mine])
            rows[kind] = {"file": path.name, "episodes": len(mine), "steps": sum(len(one) for one in mine),
                          "return_mean": round(float(returns.mean()), 1),
                          "score_d4rl": round(float(normalised_score(found.name, returns.mean())), 1)}  # fmt: skip
            kept += mine
    bar.close()
    for number, one in enumerate(kept):
        one.check(f"{name}, episode {number}")
    returns = np.array([one.rewards.sum() for one in kept])
    summary = {
        "task": found.name,
        "name": name,
        "episodes": len(kept),
        "steps": int(sum(len(one) for one in kept)),
        "terminated": int(sum(one.terminated for one in kept)),
        "seed": seed,
        "return_mean": round(float(returns.mean()), 1),
        "return_std": round(float(returns.std()), 1),
        "score_d4rl": round(float(normalised_score(found.name, returns.mean())), 1),
        "agents": rows,
    }
    low, high = references(found.name)
    description = {"description": json.dumps(summary), "algorithm_name": "stable-baselines3", "task": found.name,
                   "ref_min_score": low, "ref_max_score": high}  # fmt: skip
    write_minari(out, kept, make(found.name), identifier=f"tutelage/{name}-v0", description=description)
    shutil.rmtree(work)
    return summary


def _bytes(path: Path) -> bytes:
    """All that makes an agent."""
    beside = path.with_suffix(".npz")
    return path.read_bytes() + (beside.read_bytes() if path.suffix == ".zip" and beside.is_file() else b"")
