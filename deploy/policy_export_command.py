"""`tutelage export` for policies: CONFIG CHECKPOINT OUT.onnx, one of the config's plans."""

import argparse

from common.errors import ConfigError
from deploy.onnx_common import export_parser, onnx_path, provenance
from deploy.policy_export import closed_loop_parity, export_policy

TOLERANCE = 1e-4


def load_policy(config, checkpoint: str):
    """The config's model with a checkpoint's (averaged) weights, in evaluation mode."""
    from common.engine.checkpoint import load_weights
    from control.policies.model import build

    model = build(config.model)
    load_weights(model, checkpoint)
    return model.eval()


def plans(config) -> dict[str, dict]:
    """The plans that the config evaluates, by name."""
    return dict((config.get("test_cfg") or {}).get("plans") or {})


def exportable(known: dict[str, dict], name: str | None) -> dict:
    """Config of the plan of that name. Raises ConfigError for a primer that the step graph does not have."""
    if name not in known:
        raise ConfigError(f"--plan {name}: the config has the plans {', '.join(known) or 'none'} (test_cfg.plans)")
    chosen = dict(known[name])
    primer = chosen.pop("primer", "zero")
    if primer != "zero":
        raise ConfigError(
            f"test_cfg.plans.{name}.primer={primer!r}: an exported graph begins an episode with the primer 'zero'; set "
            "that and test it so, or export another plan"
        )
    return chosen


def parser() -> argparse.ArgumentParser:
    parse = export_parser("Export a policy: step, encoder, manifest.")
    parse.add_argument("--plan", help="one of the config's test_cfg.plans; default: the last")
    parse.add_argument("--episodes", type=int, default=2, help="whole episodes of the parity check; 0: none")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Export, then roll both out; 1 if their actions differ by more than 1e-4 of the action range."""
    args = parser().parse_args(argv)
    from common.engine.config import load_config, parse_options
    from control.demonstrations.collect import EVALUATION_SEEDS
    from control.envs import make
    from control.policies.model import build

    out = onnx_path(args.out)
    config = load_config(args.config, parse_options(args.cfg_options))
    known = plans(config)
    name = args.plan or next(reversed(known), None)
    chosen = exportable(known, name)
    model = load_policy(config, args.checkpoint)
    plan = build(chosen, horizon=model.horizon)
    task, names = config.test_cfg.task, tuple(model.encoder.encoders)
    env = make(task, observe=names)
    observation, _ = env.reset(seed=EVALUATION_SEEDS)
    manifest = export_policy(
        model, plan, observation, out, rate_hz=env.unwrapped.control_hz, task=task,
        source=provenance(args.config, args.checkpoint, plan=name),
    )  # fmt: skip
    size = sum(path.stat().st_size for path in (out, out.with_name(manifest.encoder))) / 2**20
    print(f"{out}: plan {name}, {plan.evaluations} evaluations per call of {plan.execute} actions, {size:.1f} MiB")
    if not args.episodes:
        return 0
    seeds = list(range(EVALUATION_SEEDS, EVALUATION_SEEDS + args.episodes))
    steps = env.spec.max_episode_steps if env.spec else 10_000
    limit = TOLERANCE * max(1.0, float((model.actions.high - model.actions.low).max()) / 2)
    found = closed_loop_parity(model, plan, out, lambda: make(task, observe=names), seeds, steps, limit)
    print(
        f"closed loop over {args.episodes} episodes: actions differ by at most {found.beside:.2e} (limit {limit:.2e})"
    )
    print(
        f"in environments of their own by {found.apart:.2e}; within the limit for {found.agree} of {found.steps} steps"
        + ("" if found.agree == found.steps else ", then contact has made the rounding larger")
    )
    return 0 if found.beside <= limit else 1
