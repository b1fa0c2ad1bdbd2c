"""`tutelage export` for RL-100: CONFIG CHECKPOINT OUT.onnx, the one-step head or the mean chain."""

import argparse

from common.errors import ConfigError
from deploy.onnx_common import export_parser, onnx_path, provenance
from deploy.rl100_export import WAYS, closed_loop_difference, export_policy

TOLERANCE = 1e-4  # of half the widest action range, or of 1 where that is less


def load_policy(config, checkpoint: str):
    """The config's policy with a checkpoint's weights; (policy, spec, stages done). Raises: CheckpointError,
    ConfigError for another task or sampler."""
    from control.rl.rl100.pipeline import Pipeline
    from control.rl.rl100.runner import policy_of, read, settings_of, spec_of
    from control.workers import local_pool

    spec, settings = spec_of(config.task), settings_of(dict(config.pipeline))
    pipeline = Pipeline(policy_of(dict(config.policy), spec, 0), spec, settings, local_pool(1))
    pipeline.load_state_dict(read(checkpoint))
    return pipeline.policy.eval(), spec, pipeline.done


def parser() -> argparse.ArgumentParser:
    parse = export_parser("Export an RL-100 policy: step, encoder.")
    parse.add_argument("--way", choices=WAYS, default="one_step", help="the head, or the K-step mean chain")
    parse.add_argument("--episodes", type=int, default=2, help="whole episodes of the parity check; 0: none")
    return parse


def main(argv: list[str] | None = None) -> int:
    """Export, then drive episodes with both; 1 if their actions differ by more than `TOLERANCE`."""
    args = parser().parse_args(argv)
    from common.engine.config import load_config, parse_options
    from control.demonstrations.collect import EVALUATION_SEEDS

    out = onnx_path(args.out)
    config = load_config(args.config, parse_options(args.cfg_options))
    policy, spec, done = load_policy(config, args.checkpoint)
    if args.way == "one_step" and "head" not in done:
        raise ConfigError(f"{args.checkpoint} has no trained head yet (done: {', '.join(done)}): --way mean")
    env = spec.make()
    observation, _ = env.reset(seed=EVALUATION_SEEDS)
    manifest = export_policy(policy, observation, out, way=args.way, rate_hz=env.unwrapped.control_hz, task=spec.task,
                             source=provenance(args.config, args.checkpoint, stages=list(done)))  # fmt: skip
    env.close()
    size = sum(path.stat().st_size for path in (out, out.with_name(manifest.encoder))) / 2**20
    print(f"{out}: {args.way}, {manifest.evaluations} evaluations per {manifest.execute} actions, {size:.1f} MiB")
    if not args.episodes:
        return 0
    seeds = list(range(EVALUATION_SEEDS, EVALUATION_SEEDS + args.episodes))
    limit = TOLERANCE * max(1.0, float((policy.actions.high - policy.actions.low).max()) / 2)
    worst = closed_loop_difference(policy, out, args.way, spec.make, seeds, spec.max_steps)
    print(f"closed loop over {args.episodes} episodes: actions differ by at most {worst:.2e} (limit {limit:.2e})")
    return 0 if worst <= limit else 1
