"""`tutelage export` for a planner's habit: CONFIG CHECKPOINT OUT.onnx, one graph, state in, action out."""

import numpy as np
import torch
from torch import Tensor, nn

from deploy.onnx_common import export_parser, onnx_path, provenance
from deploy.policy_export_command import load_policy
from deploy.reactive_export import difference, export_graph
from deploy.runtime.policy_manifest import ObservationSpec
from deploy.runtime.reactive import ReactivePolicy

TOLERANCE = 1e-5


class Decision(nn.Module):
    """Observations (B, S) -> the habit's actions (B, A), normalisation and clamp inside."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, obs: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(self.model.decide(obs), self.model.actions.low), self.model.actions.high)


def main(argv: list[str] | None = None) -> int:
    """Export, then compare on states as the data have them; 1 if an action differs by more than 1e-5."""
    args = export_parser("Export a habit: one graph.", "OUT.onnx; OUT.json is written beside it").parse_args(argv)
    from common.engine.config import load_config, parse_options
    from control.envs import make

    out = onnx_path(args.out)
    config = load_config(args.config, parse_options(args.cfg_options))
    model, task = load_policy(config, args.checkpoint).eval(), config.val_cfg.task
    env = make(task)
    rate = env.unwrapped.control_hz
    env.close()
    graph = Decision(model)
    export_graph(
        graph, out, ObservationSpec(name="state", shape=(model.state_dim,), dtype="float32"),
        tuple(model.actions.low.tolist()), tuple(model.actions.high.tolist()), rate_hz=float(rate), task=task,
        source=provenance(args.config, args.checkpoint),
    )  # fmt: skip
    drawn = torch.randn(1024, model.state_dim, generator=torch.Generator().manual_seed(0))
    states = model.states.inverse(2 * drawn).numpy()

    def torch_act(observations: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return graph(torch.from_numpy(observations)).numpy()

    worst = difference(torch_act, ReactivePolicy(out).act, states)
    print(f"{out}: {out.stat().st_size / 1024:.1f} kB")
    print(f"actions differ by at most {worst:.2e} on {len(states)} observations (limit {TOLERANCE:g})")
    return 0 if worst <= TOLERANCE else 1
