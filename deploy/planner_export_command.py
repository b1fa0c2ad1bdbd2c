"""`tutelage export` for planners: CONFIG CHECKPOINT OUT.onnx --plan NAME."""

import argparse

from common.errors import ConfigError
from deploy.onnx_common import export_parser, onnx_path, provenance
from deploy.planner_export import export_planner, graph_differences, planner_parity, random_episodes
from deploy.policy_export_command import load_policy, plans

GRAPH_TOLERANCE = 1e-4
TOLERANCE = 1e-3  # of half the action range, and of 1 where that is less


def exportable(known: dict[str, dict], name: str | None) -> dict:
    """Config of the plan of that name. Raises ConfigError where it is none, or a cloned policy, which does not plan."""
    planners = [key for key, plan in known.items() if plan is not None and plan.get("kind", "planner") == "planner"]
    if name not in planners:
        told = "that plan is no planner" if name in known else "the config has no such plan"
        raise ConfigError(f"--plan {name}: {told}; the config's planners are {', '.join(planners) or 'none'} "
                          "(test_cfg.plans)")  # fmt: skip
    return known[name]


def parser() -> argparse.ArgumentParser:
    beside = "names the export: OUT.json and the graphs OUT.act.onnx, OUT.generator.onnx, .. that the plan needs"
    parse = export_parser("Export a planner: a graph per network, manifest.", beside)
    parse.add_argument("--plan", metavar="NAME", help="one of the config's test_cfg.plans")
    parse.add_argument("--steps", type=int, default=300, help="control steps of the parity check; 0: graphs alone")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Export, then compare; 1 if a graph differs by more than 1e-4 or an action by more than 1e-3 of half the range."""
    args = parser().parse_args(argv)
    from common.engine.config import load_config, parse_options
    from control.demonstrations.collect import EVALUATION_SEEDS
    from control.envs import make

    out = onnx_path(args.out)
    config = load_config(args.config, parse_options(args.cfg_options))
    chosen, task = exportable(plans(config), args.plan), config.val_cfg.task
    model = load_policy(config, args.checkpoint)
    planner = model.actor(chosen)
    env = make(task, observe=model.observes)
    rate = env.unwrapped.control_hz
    env.close()
    source = provenance(args.config, args.checkpoint, plan=args.plan)
    manifest = export_planner(planner, out, rate_hz=rate, task=task, source=source)
    size = sum(out.with_name(name).stat().st_size for name in manifest.files.values()) / 2**20
    print(f"{out.with_suffix('.json')}: plan {args.plan}, {', '.join(manifest.files.values())}, {size:.1f} MiB")
    print(f"{manifest.plan_evaluations} evaluations of generator and optimiser per plan of {manifest.settings.execute} "
          f"steps, {manifest.settings.candidates} candidates")  # fmt: skip
    gaps = graph_differences(model, manifest, out)
    told = ", ".join(f"{role} {gap:.2e}" for role, gap in gaps.items())
    print(f"graphs differ from PyTorch by at most {told} (limit {GRAPH_TOLERANCE:g})")
    good = max(gaps.values()) <= GRAPH_TOLERANCE
    if args.steps > 0:
        limit = TOLERANCE * max(1.0, float((model.actions.high - model.actions.low).max()) / 2)
        episodes = random_episodes(lambda: make(task, observe=model.observes), args.steps, EVALUATION_SEEDS)
        found = planner_parity(planner, out, episodes)
        print(f"actions differ by at most {found.worst:.2e} (limit {limit:.2e}) on {found.steps} observations, "
              f"{found.plans} plans by {found.plan:.2e}")  # fmt: skip
        good &= found.worst <= limit
    return 0 if good else 1
