"""`tutelage collect TASK OUT`: roll a scripted expert out and keep its successes.

The executed actions carry noise, the stored ones do not (DART, arXiv 1703.09327): the data then hold recoveries. Layout
seeds below `EVALUATION_SEEDS` are for collection, the others for evaluation, so no layout is in both.

With --steps: data of offline reinforcement learning, failures and all, actions stored as executed: Maze2D by a waypoint
controller in pursuit of random targets (`mazes`), locomotion from trained agents (`mixes`).
"""

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import ConfigError, DataError
from control.demonstrations.lerobot import NO_STATE, write_lerobot
from control.demonstrations.store import Episode, read_minari, write_minari
from control.workers import Pool, local_pool, ray_pool

EVALUATION_SEEDS = 100_000
AFTER_SUCCESS = 8  # steps kept after the first success
SLACK = 4  # layouts tried per episode wanted


@dataclass(frozen=True)
class Settings:
    """What an episode depends on besides its seed."""

    task: str
    noise: float = 0.1
    observe: tuple[str, ...] = ("state",)
    max_steps: int | None = None


def roll_out(settings: Settings, seed: int) -> Episode:
    """One episode of the task's expert: noise `settings.noise` (in half action ranges) on what is executed, clean
    clipped actions stored, `AFTER_SUCCESS` steps after the first success."""
    from control.demonstrations.experts import expert_for
    from control.envs import make

    env = make(settings.task, settings.max_steps, observe=settings.observe)
    expert, draws = expert_for(settings.task)(seed), np.random.default_rng((seed, 0xDA27))
    low, high = env.action_space.low, env.action_space.high
    observation, info = env.reset(seed=seed)
    observations, actions, rewards, left = [observation], [], [], None
    success = bool(info["success"])
    while left is None or left > 0:
        clean = np.clip(expert(env.unwrapped), low, high).astype(np.float32)
        executed = clean + settings.noise * (high - low) / 2 * draws.standard_normal(clean.shape)
        observation, reward, ended, cut, info = env.step(executed)
        observations.append(observation)
        actions.append(clean)
        rewards.append(reward)
        success |= bool(info["success"])
        if left is not None:
            left -= 1
        elif success:
            left = AFTER_SUCCESS
        if ended or cut:
            break
    env.close()
    stacked = {name: np.stack([one[name] for one in observations]) for name in settings.observe}
    return Episode(stacked, np.stack(actions), np.asarray(rewards, np.float32), success, seed)


def save_attempt(folder: Path, seed: int, episode: Episode) -> None:
    """Keep a success as SEED.npz and a failure as SEED.failed, so that a second run need not repeat it."""
    if not episode.success:
        (folder / f"{seed}.failed").touch()
        return
    beside = folder / f"{seed}.partial.npz"
    arrays = {f"observations.{name}": values for name, values in episode.observations.items()}
    np.savez_compressed(beside, actions=episode.actions, rewards=episode.rewards, **arrays)
    beside.rename(folder / f"{seed}.npz")


def load_attempt(path: Path, seed: int) -> Episode:
    """The episode that `save_attempt` wrote."""
    with np.load(path) as stored:
        observations = {
            name.split(".", 1)[1]: stored[name] for name in stored.files if name.startswith("observations.")
        }
        return Episode(observations, stored["actions"], stored["rewards"], True, seed)


def collect(
    settings: Settings, out: Path, episodes: int, seed: int = 0, pool: Pool | None = None, progress: bool = True
) -> dict:
    """Collect `episodes` successes from the layouts seed, seed + 1, ... and write them as a Minari data set.

    The result is a pure function of the arguments, whatever the pool. A killed collection goes on where it stopped.
    Returns: a summary with the expert's success rate. Raises: ConfigError for seeds reserved for evaluation or a folder
    with another collection; DataError when its record of settings is damaged; RuntimeError when the expert fails too
    often.
    """
    from control.envs import make
    from control.envs.registry import task

    most = SLACK * episodes
    if seed < 0 or seed + most > EVALUATION_SEEDS:
        raise ConfigError(
            f"layout seeds {seed} to {seed + most - 1}: those from {EVALUATION_SEEDS} on are kept for evaluation; "
            f"choose a seed of at most {EVALUATION_SEEDS - most}"
        )
    name = task(settings.task).name
    work = out.with_name(out.name + ".collecting")
    work.mkdir(parents=True, exist_ok=True)
    claim(work, json.dumps({**asdict(settings), "task": name}))
    with pool or local_pool() as workers:
        kept = _successes(settings, work, range(seed, seed + most), episodes, workers, progress)
    if len(kept) < episodes:
        raise RuntimeError(f"the expert of {name} succeeded in {len(kept)} of {most} layouts; {episodes} were wanted")
    tried = kept[episodes - 1] - seed + 1
    found = [load_attempt(work / f"{one}.npz", one) for one in kept[:episodes]]
    for one in found:
        one.check(f"{work}/{one.seed}.npz")
    summary = {
        "task": name,
        "episodes": episodes,
        "steps": int(sum(len(one) for one in found)),
        "noise": settings.noise,
        "seeds": [seed, seed + tried - 1],
        "expert_success": round(episodes / tried, 3),
    }
    env = make(settings.task, observe=settings.observe)
    write_minari(out, found, env, identifier=f"tutelage/{name}", description={"description": json.dumps(summary)})
    shutil.rmtree(work)
    return summary


def claim(work: Path, identity: str) -> None:
    """Record once which settings the episodes in `work` belong to, and refuse those of others."""
    record = work / "settings.json"
    if not record.is_file():
        beside = work / "settings.partial"
        beside.write_text(identity)
        beside.rename(record)
        return
    try:
        found = json.loads(record.read_text())
    except ValueError as error:
        raise DataError(
            f"{record} is damaged ({error}); the episodes beside it are fine. If they were collected with {identity}, "
            "remove that one file and start again: the collection goes on where it stopped. Else choose another folder"
        ) from error
    if found != json.loads(identity):
        raise ConfigError(
            f"{work} holds another collection, of {json.dumps(found)}, wanted {identity}: go on with its settings, "
            "choose another folder, or remove it with its episodes"
        )


def _successes(settings, work: Path, seeds: range, wanted: int, pool: Pool, progress: bool) -> list[int]:
    """The first `wanted` successful seeds in order; a few more may have been tried."""
    outcome = {seed: True for seed in seeds if (work / f"{seed}.npz").is_file()}
    outcome |= {seed: False for seed in seeds if (work / f"{seed}.failed").is_file()}
    bar = tqdm(total=wanted, desc=settings.task, unit="episode", disable=not progress, dynamic_ncols=True)
    pending = iter(seed for seed in seeds if seed not in outcome)

    def complete() -> bool:
        """Whether the first successes are known: as many as wanted, and no gap among the seeds before them."""
        row = list(takewhile(outcome.__contains__, seeds))
        return sum(outcome[seed] for seed in row) >= wanted

    running = 0
    while not complete():
        while running < pool.workers and (seed := next(pending, None)) is not None:
            pool.submit(roll_out, settings, seed)
            running += 1
        if not running:
            break
        episode = pool.next()
        running -= 1
        save_attempt(work, episode.seed, episode)
        outcome[episode.seed] = bool(episode.success)
        bar.update(min(wanted, sum(outcome.values())) - bar.n)
        bar.set_postfix(success=f"{sum(outcome.values())}/{len(outcome)}")
    bar.close()
    return sorted(number for number, success in outcome.items() if success)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="tutelage collect",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Record a data set: successes of a task's scripted expert (--episodes), or (--steps) Maze2D by a\n"
        "controller in pursuit of random targets and locomotion from agents, which are trained first.",
        epilog="  tutelage collect MetaWorld-reach-v3 data/reach\n"
        "  tutelage collect Maze2D-UMaze-v0 data/maze --steps 100000\n"
        "  tutelage collect Hopper-v5 data/hopper-medium-expert-like --mix medium-expert --steps 100000 \\\n"
        "      --agents data/agents/hopper",
    )
    parse.add_argument("task", help="e.g. MetaWorld-reach-v3, TwoRoutes-v0, FetchPush-v4, Maze2D-UMaze-v0, Hopper-v5")
    parse.add_argument("out", type=Path, help="folder of the Minari data set to write")
    parse.add_argument("--episodes", type=int, help="successes of the scripted expert; default: 50")
    parse.add_argument(
        "--noise", type=float,
        help="of executed actions, in half action ranges; default: 0.1; with --steps 0, and D4RL's option is 0.5",
    )  # fmt: skip
    parse.add_argument("--seed", type=int, default=0, help="first layout seed")
    parse.add_argument("--observe", nargs="+", default=["state"], choices=["state", "rgb", "points"])
    parse.add_argument("--workers", type=int, help="processes; default: one per core")
    parse.add_argument(
        "--ray", metavar="ADDRESS", help="run the episodes as Ray tasks; 'local' starts a Ray of its own"
    )
    parse.add_argument(
        "--lerobot", type=Path, metavar="FOLDER",
        help="also write state and actions as a LeRobot v3.0 data set; a finished collection in OUT is exported",
    )  # fmt: skip
    offline = parse.add_argument_group("Maze2D, Hopper, HalfCheetah, Walker2d: data of offline reinforcement learning")
    offline.add_argument("--steps", type=int, help="at least so many environment steps, in whole episodes")
    offline.add_argument(
        "--mix", choices=["medium", "expert", "medium-expert", "medium-replay"], help="whose episodes, of locomotion"
    )
    offline.add_argument(
        "--agents", type=Path, metavar="FOLDER",
        help="trained agents; those that are missing are trained first, which may be killed and started again; ready "
        "ones of stable-baselines3 lie there as medium.zip, expert.zip (statistics: control/demonstrations/agent.py); "
        "default: agents/TASK beside OUT",
    )  # fmt: skip
    offline.add_argument("--agent-steps", type=int, help="environment steps of their training; default: 1000000")
    offline.add_argument("--algorithm", choices=["ppo", "sac"], help="of their training; default: ppo")
    offline.add_argument(
        "--medium", type=float, metavar="RETURN", help="mean return of a medium agent; default: 1400, 4700, 2800"
    )
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if _offline(args):
        return _collect_steps(args)
    args.episodes = 50 if args.episodes is None else args.episodes
    args.noise = 0.1 if args.noise is None else args.noise
    if args.out.exists() and not args.lerobot:
        print(f"{args.out} exists: remove it, or choose another folder", file=sys.stderr)
        return 2
    if args.lerobot and args.lerobot.exists():
        print(f"--lerobot {args.lerobot} exists: remove it, or choose another folder", file=sys.stderr)
        return 2
    if args.lerobot and "state" not in args.observe:
        raise ConfigError(f"--lerobot: {NO_STATE}")
    if args.out.exists():
        summary = _collected(args)
    else:
        settings = Settings(args.task, args.noise, tuple(args.observe))
        pool = ray_pool(args.ray, args.workers) if args.ray else local_pool(args.workers)
        summary = collect(settings, args.out, args.episodes, args.seed, pool)
    if args.lerobot:
        from control.envs import make

        rate = make(args.task).unwrapped.control_hz
        write_lerobot(args.lerobot, read_minari(args.out), rate, task=summary["task"])
    print(json.dumps(summary))
    return 0


AGENTS = ("mix", "agents", "agent_steps", "algorithm", "medium")


def _offline(args: argparse.Namespace) -> bool:
    """Whether steps are wanted rather than successes. Raises ConfigError for options that do not go together."""
    from control.envs.registry import task

    found = task(args.task)
    kind = {":Maze2D": "maze", ":Locomotion": "runner"}.get(found.world[found.world.index(":") :])
    set_here = [f"--{name.replace('_', '-')}" for name in AGENTS if getattr(args, name) is not None]
    if args.steps is None:
        if kind == "runner":
            raise ConfigError(f"{found.name} is recorded in steps: give --steps 100000 --mix medium-expert")
        if set_here:
            raise ConfigError(f"{', '.join(set_here)}: only together with --steps, of Hopper, HalfCheetah, Walker2d")
        return False
    if kind is None:
        raise ConfigError(f"--steps: {found.name} is recorded in successes; give --episodes")
    if args.episodes is not None or args.lerobot or args.observe != ["state"]:
        raise ConfigError("--steps: episodes of the state alone, as many as it takes; leave out --episodes, --lerobot, "
                          "--observe")  # fmt: skip
    if kind == "maze" and set_here:
        raise ConfigError(f"{', '.join(set_here)}: {found.name} is recorded by a controller, without agents")
    if kind == "runner" and (args.mix is None or args.noise is not None):
        raise ConfigError(
            f"{found.name}: give --mix, one of medium, expert, medium-expert, medium-replay; and no --noise"
        )
    return True


def _collect_steps(args: argparse.Namespace) -> int:
    if args.out.exists():
        print(f"{args.out} exists: remove it, or choose another folder", file=sys.stderr)
        return 2
    pool = ray_pool(args.ray, args.workers) if args.ray else local_pool(args.workers)
    if args.mix is None:
        from control.demonstrations.mazes import collect_maze

        summary = collect_maze(args.task, args.out, args.steps, args.noise or 0.0, args.seed, pool)
    else:
        from control.demonstrations.mixes import collect_mix

        folder = args.agents or args.out.parent / "agents" / args.task.removeprefix("tutelage/")
        training = {"algorithm": args.algorithm or "ppo", "medium": args.medium}
        summary = collect_mix(args.task, args.out, args.mix, args.steps, folder, args.seed, args.agent_steps, pool,
                              **training)  # fmt: skip
    print(json.dumps(summary))
    return 0


def _collected(args: argparse.Namespace) -> dict:
    """Summary of the collection in `args.out`. Raises ConfigError unless it is what the arguments ask for."""
    from control.envs.registry import task

    try:
        summary = json.loads(json.loads((args.out / "data" / "metadata.json").read_text())["description"])
        found = {**{key: summary[key] for key in ("task", "episodes", "noise")}, "seed": summary["seeds"][0]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{args.out} exists and is no collection of this command ({error!r}): choose another folder"
        ) from error
    wanted = {"task": task(args.task).name, "episodes": args.episodes, "noise": args.noise, "seed": args.seed}
    if found != wanted:
        raise ConfigError(f"{args.out} holds {found}, wanted {wanted}: give its options, or choose another folder")
    return summary


if __name__ == "__main__":
    raise SystemExit(main())
