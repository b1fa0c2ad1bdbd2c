"""What a plan costs at the paper's sizes: the released loop against ours, in PyTorch and through the exported graphs.

Trajectory Diffuser's networks as published (a transformer of width 512, a temporal U-Net of 16 million parameters) with
random weights, which do not matter here; five levels with classifier-free guidance. The released loop writes 32 copies
of one plan without a cache, asks the U-Net twice a level, and refines all 32. All are asked in turns in one run, on one
thread. Writes benchmarks/results/planner_latency.md.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _report import RESULTS, table, write_report
from tqdm import tqdm

from common.diffusion.process import vp_linear
from common.distill.states import guided
from common.nn.unet1d import ConditionalUNet1D
from control.demonstrations.store import Episode
from control.planning.diffuser.habit import HabitModel
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.refine import refine
from control.planning.diffuser.windows import PlanWindows
from deploy.habit_export_command import Decision
from deploy.planner_export import export_planner
from deploy.reactive_export import export_graph
from deploy.runtime.planner import PlannerPolicy
from deploy.runtime.policy_manifest import ObservationSpec
from deploy.runtime.reactive import ReactivePolicy

TASKS = {  # name: (horizon, state, action), as published
    "halfcheetah": (8, 17, 6),
    "hopper": (16, 11, 3),
    "walker2d": (32, 17, 6),
    "kitchen": (32, 60, 9),
}
COPIES, LEVEL, GUIDANCE, TARGET = 32, 5, 1.2, 10.0
PAPER = {"widths": (64, 128, 256, 512), "level_width": 64, "width": 512, "depth": 4}
SMALL = {"widths": (32, 64), "level_width": 32, "width": 128, "depth": 3}  # as our configs' generator, and a U-Net


def model_of(task: str, sizes: dict, causal: bool = True) -> TrajectoryDiffuserModel:
    """A planner with ranges of random data."""
    H, S, A = TASKS[task]
    torch.manual_seed(0)
    model = TrajectoryDiffuserModel(
        S, A, H,
        {"type": ConditionalUNet1D, "widths": sizes["widths"], "level_width": sizes["level_width"]},
        vp_linear(100, 1e-3, 2e-2),
        {"width": sizes["width"], "depth": sizes["depth"], "heads": 4, "hidden": sizes["width"], "causal": causal},
    )  # fmt: skip
    random = np.random.default_rng(0)
    states = random.standard_normal((4 * H + 1, S)).astype(np.float32)
    episode = Episode({"state": states}, random.uniform(-1, 1, (4 * H, A)).astype(np.float32), np.ones(4 * H))
    model.fit(PlanWindows([episode], H))
    model.generator_error.fill_(0.1)
    return model.eval()


def released(model: TrajectoryDiffuserModel) -> Callable[[np.ndarray], None]:
    """A decision as the released code makes it; the generator has no mask, so every token is read anew."""
    H, S = model.horizon, model.state_dim

    @torch.no_grad()
    def decide(state: np.ndarray) -> None:
        now = model.states(torch.from_numpy(state))[None, None].repeat(COPIES, 1, 1)
        asked = torch.full((COPIES, 1), TARGET / float(model.return_scale))
        x = torch.cat([now, model.generator.rollout(now, asked, H - 1)], 1)
        condition = model.condition(asked[:, 0])
        empty = torch.zeros_like(condition)
        denoise = guided(
            lambda x, t: model.denoiser(x, t, condition), lambda x, t: model.denoiser(x, t, empty), GUIDANCE
        )
        x = refine(denoise, model.process, x, LEVEL, noise=torch.randn(LEVEL, COPIES, H, S))
        worth = model.plan_value(x.flatten(1))[:, 0].softmax(0)
        model.act(x[:, 0], x[:, 1], torch.ones(COPIES))[torch.multinomial(worth, 1)].numpy()

    return decide


def ours(model: TrajectoryDiffuserModel, candidates: int = 1, **settings) -> Callable[[np.ndarray], None]:
    """A decision of `Planner` in PyTorch."""
    planner = model.actor(
        {"level": LEVEL, "guidance": GUIDANCE, "target": TARGET, "candidates": candidates, **settings}
    )
    planner.reset([0])
    return lambda state: planner.select_action({"state": state[None]})


def in_onnx(model: TrajectoryDiffuserModel, path: Path, **settings) -> Callable[[np.ndarray], None]:
    """The same through the runtime."""
    planner = model.actor({"level": LEVEL, "guidance": GUIDANCE, "target": TARGET, **settings})
    export_planner(planner, path, rate_hz=50)
    runtime = PlannerPolicy(path)
    runtime.reset(0)
    return lambda state: runtime.select_action({"state": state})


def habit(task: str, path: Path) -> Callable[[np.ndarray], None]:
    """A planner's habit through the runtime: one small network."""
    _, S, A = TASKS[task]
    model, states = HabitModel(S, A), torch.randn(100, S)
    model.fit(type("Decisions", (), {"states": states, "actions": torch.rand(100, A) * 2 - 1}))
    low, high = tuple(model.actions.low.tolist()), tuple(model.actions.high.tolist())
    spec = ObservationSpec(name="state", shape=(S,), dtype="float32")
    export_graph(Decision(model.eval()), path, spec, low, high, rate_hz=50.0)
    policy = ReactivePolicy(path)
    return lambda state: policy.select_action({"state": state})


STUDENT = {"steps": 1, "eta": 0.0, "guidance": 1.0}


def contenders(task: str, folder: Path) -> dict[str, Callable]:
    """Way -> decision."""
    paper, small = model_of(task, PAPER), model_of(task, SMALL)
    return {
        "released loop: 32 copies, no cache, two calls a level": released(model_of(task, PAPER, causal=False)),
        "ours, 32 candidates": ours(paper, COPIES),
        "ours": ours(paper),
        "ours, a plan for 4 steps": ours(paper, execute=4),
        "ours, ONNX": in_onnx(paper, folder / f"{task}_paper.onnx"),
        "ours, student of one evaluation, ONNX": in_onnx(paper, folder / f"{task}_student.onnx", **STUDENT),
        "ours, small networks, ONNX": in_onnx(small, folder / f"{task}_small.onnx"),
        "ours, small networks, student, ONNX": in_onnx(small, folder / f"{task}_small_student.onnx", **STUDENT),
        "habit, ONNX": habit(task, folder / f"{task}_habit.onnx"),
    }


def measure(made: dict[str, Callable], width: int, decisions: int, title: str) -> dict[str, np.ndarray]:
    """Milliseconds of every decision; the order of the contenders is drawn anew for each."""
    random, found = np.random.default_rng(0), {key: [] for key in made}
    keys = list(made)
    for i in tqdm(range(decisions + 2), desc=title, unit="round", dynamic_ncols=True):
        state = random.standard_normal(width).astype(np.float32)
        for number in random.permutation(len(keys)):
            begun = time.perf_counter()
            for _ in range(4):  # of which a plan for 4 steps is made once
                made[keys[number]](state)
                if i < 2:
                    break
            if i >= 2:
                found[keys[number]].append(1e3 * (time.perf_counter() - begun) / 4)
    return {key: np.array(values) for key, values in found.items()}


def body(found: dict[str, dict[str, np.ndarray]]) -> str:
    ways = list(next(iter(found.values())))
    rows, ratios = [], []
    for way in ways:
        medians = [float(np.median(found[task][way])) for task in found]
        first = [float(np.median(found[task][ways[0]])) for task in found]
        rows.append([way, *(f"{value:.2f}" for value in medians)])
        ratios.append([way, *(f"{b / a:.1f}" for a, b in zip(medians, first, strict=True))])
    heads = [f"{task}, H {TASKS[task][0]}" for task in found]
    return "\n\n".join([
        "Milliseconds per decision, medians; an observation in, an action out, normalisation included. Levels: 5, with "
        "guidance. Small networks: transformer of width 128, U-Net of widths 32 and 64.",
        table(["", *heads], rows),
        "How many times as quick as the released loop:",
        table(["", *heads], ratios),
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--decisions", type=int, default=20, help="rounds; each asks every contender four times")
    parse.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    args = parse.parse_args(argv)
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks:
            made = contenders(task, Path(folder))
            found[task] = measure(made, TASKS[task][1], args.decisions, task)
    text = body(found)
    path = write_report("planner_latency", "Planners: what a decision costs", text, seeds=[0], folder=args.results)
    print(f"{text}\n\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
