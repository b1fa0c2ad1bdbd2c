"""What a decision costs: chains of 10 and of 5 steps and the one-step head, in PyTorch and through the exported graphs.

Networks of the configs' size and of the paper's U-Net, whose weights do not matter here; all are asked in turns in one
run, one observation at a time, on one thread. Writes benchmarks/results/rl100_latency.md.
"""

import argparse
import functools
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

from common.diffusion.process import vp_cosine
from common.nn.skip_net import SkipNet
from common.nn.unet1d import ConditionalUNet1D
from control.policies.encoders import StandardStateEncoder
from control.rl.rl100.policy import Policy
from deploy.rl100_export import export_policy
from deploy.runtime.policy import StreamingPolicy

STATE, ACTIONS, WARM_UP = 39, 4, 10
NETWORKS = {  # name: (actions per chunk, network)
    "Skip-Net, chunk of 4": (4, functools.partial(SkipNet, horizon=4, width=192, blocks=2)),
    "U-Net, chunk of 16": (16, functools.partial(ConditionalUNet1D, widths=(256, 512, 1024))),
}
WAYS = {"chain, 10 steps": ("mean", 10), "chain, 5 steps": ("mean", 5), "head, 1 step": ("one_step", 5)}


def policy_of(chunk: int, net: Callable, steps: int) -> Policy:
    """A policy of state observations, with ranges of random data."""
    torch.manual_seed(0)
    policy = Policy({"state": StandardStateEncoder(STATE)}, 1, ACTIONS, chunk, net, vp_cosine(100), {"steps": steps})
    policy.fit({"state": torch.randn(100, STATE)}, torch.rand(100, ACTIONS) * 2 - 1)
    return policy.eval()


def in_torch(policy: Policy, way: str) -> Callable[[np.ndarray], None]:
    """A decision: observation to robot actions."""

    @torch.no_grad()
    def decide(state: np.ndarray) -> None:
        condition = policy.condition({"state": torch.from_numpy(state)[None, None]})
        policy.to_robot(getattr(policy, way)(condition, torch.randn(1, *policy.shape))).numpy()

    return decide


def in_onnx(policy: Policy, way: str, path: Path) -> Callable[[np.ndarray], None]:
    """The same through the runtime."""
    export_policy(policy, {"state": np.zeros(STATE, np.float32)}, path, way=way, rate_hz=80)
    runtime = StreamingPolicy(path, margin=float("inf"))  # random weights: any action will do
    runtime.warm_up()
    runtime.reset(0)
    return lambda state: runtime.step({"state": state})


def contenders(folder: Path, names: list[str]) -> dict[tuple[str, str, str], Callable]:
    """(network, way, engine) -> decision."""
    made = {}
    for network in names:
        chunk, net = NETWORKS[network]
        for way, (kind, steps) in WAYS.items():
            policy = policy_of(chunk, net, steps)
            made[network, way, "PyTorch"] = in_torch(policy, kind)
            made[network, way, "ONNX"] = in_onnx(policy, kind, folder / f"{len(made)}.onnx")
    return made


def measure(made: dict, decisions: int) -> dict[tuple, np.ndarray]:
    """Milliseconds of every decision; the order of the contenders is drawn anew for each."""
    random, found = np.random.default_rng(0), {key: [] for key in made}
    keys = list(made)
    for i in tqdm(range(decisions + WARM_UP), desc="decisions", dynamic_ncols=True):
        state = random.standard_normal(STATE).astype(np.float32)
        for number in random.permutation(len(keys)):
            begun = time.perf_counter()
            made[keys[number]](state)
            if i >= WARM_UP:
                found[keys[number]].append(1e3 * (time.perf_counter() - begun))
    return {key: np.array(values) for key, values in found.items()}


def body(found: dict[tuple, np.ndarray], names: list[str]) -> str:
    rows, ratios = [], []
    for (network, way, engine), times in found.items():
        chunk = NETWORKS[network][0]
        rows.append([network, way, engine, f"{np.median(times):.3f}", f"{np.percentile(times, 99):.3f}",
                     f"{1e3 / np.median(times):,.0f}", f"{chunk * 1e3 / np.median(times):,.0f}"])  # fmt: skip
    for network in names:
        for engine in ("PyTorch", "ONNX"):
            head = np.median(found[network, "head, 1 step", engine])
            ten, five = (np.median(found[network, f"chain, {n} steps", engine]) / head for n in (10, 5))
            ratios.append([network, engine, f"{ten:.1f}", f"{five:.1f}", "yes" if ten >= 8 and five >= 4 else "no"])
    return "\n\n".join([
        "One observation at a time, one thread; observation to actions, normalisation included.",
        table(["network", "way", "engine", "median ms", "p99 ms", "decisions per second", "actions per second"], rows),
        table(["network", "engine", "10 steps over the head", "5 steps over the head", "at least 8 and 4"], ratios),
    ])  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--decisions", type=int, default=100)
    parse.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parse.add_argument("--results", type=Path, default=RESULTS, help="folder of the report")
    args = parse.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(contenders(Path(folder), args.networks), args.decisions)
    text = body(found, args.networks)
    path = write_report("rl100_latency", "RL-100: what a decision costs", text, seeds=[0], folder=args.results)
    print(f"{text}\n\nwritten to {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
