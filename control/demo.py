"""`make demo-control`: demonstrations, one network, three ways to run it, an ONNX file, a robot's loop, a report."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from common.engine.experiments import Job, run
from control.demonstrations.collect import EVALUATION_SEEDS, Settings, collect
from control.envs import make
from control.pictures import latency_plot, save_png, strip
from control.policies.model import build
from control.policies.policy import DiffusionPolicy
from control.policies.streaming import chunk_plan, ladder_plan
from control.rollout import rollout, summary

CONFIG = "configs/control/sdp/streaming_metaworld_state.py"
PLANS = {
    "Diffusion Policy, DDPM-100": lambda T: chunk_plan(T, 8, 100, eta=1.0),
    "Diffusion Policy, DDIM-10": lambda T: chunk_plan(T, 8, 10),
    "Streaming Diffusion Policy": lambda T: ladder_plan(T, 8, 50, eta=1.0),
    "ladder, one evaluation per call": lambda T: ladder_plan(T, 2),
}
DEPLOYED = "ladder, one evaluation per call"


def train(work_dir: Path, task: str, data: Path, iterations: int, seed: int):
    """Train, or find trained, and return config and model with the averaged weights."""
    from common.engine.checkpoint import load_weights
    from common.engine.config import load_config

    options = {"task": task, "demonstrations": str(data)}
    job = Job("policy", CONFIG, work_dir / "policy", iterations, options, seed)
    run([job])
    config = load_config(CONFIG, options)
    model = build(config.model)
    load_weights(model, str(job.checkpoint))
    return job, model.eval()


def step_times(policy: DiffusionPolicy, task: str, steps: int) -> np.ndarray:
    """Milliseconds of each control step of one environment, simulation excluded, after a warm-up."""
    env = make(task)
    for count in (8, steps):
        observation, _ = env.reset(seed=EVALUATION_SEEDS)
        policy.reset([0])
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            action = policy.select_action({"state": observation["state"][None]})[0]
            times.append(1e3 * (time.perf_counter() - begin))
            observation, _, ended, cut, _ = env.step(action)
            if ended or cut:
                observation, _ = env.reset(seed=EVALUATION_SEEDS)
    return np.array(times)


def frames(policy: DiffusionPolicy, task: str, seed: int) -> list[np.ndarray]:
    """Pictures of one episode."""
    env, pictures = make(task, render_mode="rgb_array"), []
    observation, info = env.reset(seed=seed)
    policy.reset([seed])
    ended = cut = False
    while not (ended or cut or info["success"]):
        pictures.append(env.unwrapped.world.frame(180, 240))
        observation, _, ended, cut, info = env.step(policy.select_action({"state": observation["state"][None]})[0])
    return [*pictures, env.unwrapped.world.frame(180, 240)]


def tutelage(*arguments: str) -> str:
    """Run the command as a user would, showing its output. Raises RuntimeError when it fails."""
    print(f"$ tutelage {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "common.cli", *arguments], stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode:
        raise RuntimeError(f"tutelage {arguments[0]} failed with exit code {done.returncode}; see above")
    return done.stdout


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m control.demo", description=__doc__)
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo_control"))
    parse.add_argument("--task", default="MetaWorld-drawer-open-v3")
    parse.add_argument("--demonstrations", type=int, default=50)
    parse.add_argument("--iterations", type=int, default=3000)
    parse.add_argument("--episodes", type=int, default=20, help="held-out layouts per way of running")
    parse.add_argument("--seed", type=int, default=0)
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    begun, work_dir = time.time(), args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    data = work_dir / "demonstrations"
    print("1/5 collect demonstrations", flush=True)
    if not data.exists():
        print(json.dumps(collect(Settings(args.task), data, args.demonstrations)), flush=True)
    print("2/5 train one network on a mixture of noise levels", flush=True)
    job, model = train(work_dir, args.task, data, args.iterations, args.seed)
    print("3/5 roll it out as Diffusion Policy, as Streaming Diffusion Policy and as a ladder", flush=True)
    rows, times, pictures = [], {}, []
    seeds = range(EVALUATION_SEEDS, EVALUATION_SEEDS + args.episodes)
    for name, plan in PLANS.items():
        policy = DiffusionPolicy(model, plan(model.horizon))
        found = summary(rollout(policy, args.task, seeds, progress=True))
        times[name] = step_times(policy, args.task, 64)
        pictures.append(save_png(strip(frames(policy, args.task, EVALUATION_SEEDS)), work_dir / f"{len(rows)}.png"))
        rows.append(_row(name, plan(model.horizon), found, times[name]))
        print(rows[-1], flush=True)
    rate = make(args.task).unwrapped.control_hz
    latency_plot(times, 1e3 / rate, work_dir / "latency.png")
    print("4/5 export and check the closed loop", flush=True)
    onnx = work_dir / "policy.onnx"
    options = [f"task={args.task}", f"demonstrations={data}"]
    exported = tutelage(
        "export", CONFIG, str(job.checkpoint), str(onnx), "--plan", "streaming", "--cfg-options", *options
    )
    print("5/5 drive the task by the ONNX file through deploy.runtime", flush=True)
    driven = tutelage("rollout", str(onnx), args.task, "--episodes", str(args.episodes))
    driven += tutelage("rollout", str(onnx), args.task, "--episodes", "2", "--hz", f"{rate:g}")
    path = _report(work_dir, args, rows, pictures, exported + driven, time.time() - begun)
    print(path.read_text())
    return 0


def _row(name: str, plan, found: dict, times: np.ndarray) -> str:
    interval = f"{found['success']:.2f} [{found['success_low']:.2f}, {found['success_high']:.2f}]"
    per_action = plan.evaluations / plan.execute
    return (
        f"| {name} | {interval} | {plan.evaluations} | {per_action:g} | {times.mean():.2f} | "
        f"{np.percentile(times, 99):.2f} | {times.max():.2f} |"
    )


def _report(work_dir: Path, args, rows: list[str], pictures: list[Path], output: str, seconds: float) -> Path:
    lines = [
        "# Demo: one policy, three ways to run it",
        "",
        f"    python -m control.demo --task {args.task} --iterations {args.iterations} --seed {args.seed}",
        "",
        f"{args.demonstrations} demonstrations, {args.iterations} iterations, {args.episodes} held-out layouts; "
        f"{seconds / 60:.1f} minutes in this run. Success with its 95 % Wilson interval. One seed proves no ordering: "
        "benchmarks/metaworld_streaming.py is made for that.",
        "",
        "| way of running | success | evaluations per call | per action | mean ms per control step | p99 | worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        "![time of every control step](latency.png)",
        "",
        "## The ONNX file",
        "",
        "```",
        output.strip(),
        "```",
        "",
        "## One layout",
        "",
    ]
    for name, picture in zip(PLANS, pictures, strict=True):
        lines += [f"{name}:", "", f"![{name}]({picture.name})", ""]
    path = work_dir / "report.md"
    path.write_text("\n".join(lines))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
