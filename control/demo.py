"""`make demo-control`: demonstrations, one network, four ways to run it, an ONNX file, a robot's loop, a report."""

import argparse
import time
from pathlib import Path

import numpy as np

from common.engine.experiments import Job, run, tutelage
from common.statistics import wilson
from control.demonstrations.collect import EVALUATION_SEEDS
from control.envs import make
from control.pictures import episode_frames, latency_plot, save_png, strip
from control.policies.evaluation import actor
from control.timing import step_times, undisturbed_worst
from control.trainings import demonstrations, evaluation_options, state_options, trained

CONFIG = "configs/control/sdp/streaming_metaworld_state.py"
TITLES = {  # the config's plans
    "DDPM100": "Diffusion Policy, DDPM-100",
    "DDIM10": "Diffusion Policy, DDIM-10",
    "SDP": "Streaming Diffusion Policy's ladder",
    "streaming": "ladder, one evaluation per call",
}
DEPLOYED = "streaming"


def training(work_dir: Path, task: str, data: Path, iterations: int, episodes: int, seed: int) -> Job:
    """One network for all plans; its training ends with the rollouts on the held-out layouts."""
    folder = work_dir / "policy"
    options = {**state_options(task, data), **evaluation_options(folder, episodes), "val_cfg.plans.DDIM10x1": None}
    return Job("policy", CONFIG, folder, iterations, options, seed)


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(prog="python -m control.demo", description=__doc__)
    parse.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo_control"))
    parse.add_argument("--task", default="MetaWorld-drawer-open-v3")
    parse.add_argument("--demonstrations", type=int, default=50)
    parse.add_argument("--iterations", type=int, default=4000)
    parse.add_argument("--episodes", type=int, default=20, help="held-out layouts per way of running")
    parse.add_argument("--steps", type=int, default=200, help="timed control steps per way of running")
    parse.add_argument("--seed", type=int, default=0)
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    begun, work_dir = time.time(), args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    print("1/5 collect demonstrations", flush=True)
    data = demonstrations(work_dir, args.task, args.demonstrations)
    print("2/5 train one network on a mixture of noise levels, and roll it out with every plan", flush=True)
    job = training(work_dir, args.task, data, args.iterations, args.episodes, args.seed)
    metrics = run([job])[job.name]
    config, model = trained(job)
    print("3/5 time every control step, one environment at a time", flush=True)
    policies = {title: actor(model, config.val_cfg.plans[name]) for name, title in TITLES.items()}
    times = step_times(policies, args.task, args.steps)
    rows, pictures = [], {}
    for name, title in TITLES.items():
        pictures[title] = save_png(
            strip(episode_frames(policies[title], args.task, EVALUATION_SEEDS)), work_dir / f"{name}.png"
        )
        rows.append(_row(title, policies[title].plan, metrics, name, args.episodes, times[title]))
        print(rows[-1], flush=True)
    rate = make(args.task).unwrapped.control_hz
    latency_plot({title: found[0] for title, found in times.items()}, 1e3 / rate, work_dir / "latency.png")
    print("4/5 export and check the closed loop", flush=True)
    onnx = work_dir / "policy.onnx"
    options = [f"{key}={value}" for key, value in job.options.items() if key not in ("val_evaluator.out_dir",)]
    exported = tutelage("export", CONFIG, str(job.checkpoint), str(onnx), "--plan", DEPLOYED, "--cfg-options", *options)
    print("5/5 drive the task by the ONNX file through deploy.runtime", flush=True)
    driven = tutelage("rollout", str(onnx), args.task, "--episodes", str(args.episodes))
    driven += tutelage("rollout", str(onnx), args.task, "--episodes", "2", "--hz", f"{rate:g}")
    path = _report(work_dir, args, rows, pictures, exported + driven, time.time() - begun)
    print(path.read_text())
    return 0


def _row(title: str, plan, metrics: dict, name: str, episodes: int, times: np.ndarray) -> str:
    rate = metrics[f"{name}/success"]
    low, high = wilson(round(rate * episodes), episodes)
    return (
        f"| {title} | {rate:.2f} [{low:.2f}, {high:.2f}] | {plan.evaluations} | {plan.evaluations / plan.execute:g} | "
        f"{times.mean():.2f} | {np.percentile(times, 99):.2f} | {times.max():.2f} | {undisturbed_worst(times):.2f} |"
    )


def _report(work_dir: Path, args, rows: list[str], pictures: dict[str, Path], output: str, seconds: float) -> Path:
    lines = [
        "# Demo: one policy, four ways to run it",
        "",
        f"    python -m control.demo --task {args.task} --iterations {args.iterations} --seed {args.seed}",
        "",
        f"{args.demonstrations} demonstrations, {args.iterations} iterations, {args.episodes} held-out layouts; "
        f"{seconds / 60:.1f} minutes in this run. Success with its 95 % Wilson interval. One seed proves no ordering: "
        "benchmarks/metaworld_streaming.py is made for that.",
        "",
        "| way of running | success | evaluations per call | per action | mean ms | p99 | worst | worst, undisturbed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
        "",
        "Milliseconds per control step: PyTorch, one thread, one environment, observation to action. Undisturbed: each "
        "step at its quickest of three repeats, then the slowest step.",
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
    for title, picture in pictures.items():
        lines += [f"{title}:", "", f"![{title}]({picture.name})", ""]
    path = work_dir / "report.md"
    path.write_text("\n".join(lines))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
