"""`tutelage export CONFIG CHECKPOINT OUT.onnx`: the exporter of whatever the config's model is."""

import sys
from importlib import import_module

EXPORTERS = {  # class of the model, or of a runner that has none -> module; else the detector's
    "RNDRunner": "deploy.reactive_export_command",
    "RL100Runner": "deploy.rl100_export_command",
    "DiffusionPolicyModel": "deploy.policy_export_command",
    "TrajectoryDiffuserModel": "deploy.planner_export_command",
    "PlannerStudent": "deploy.planner_export_command",
    "HabitModel": "deploy.habit_export_command",
    "CompletionModel": "deploy.completion_export_command",
    "OnePassModel": "deploy.completion_export_command",
    "CompletionTuning": "deploy.completion_export_command",
    "CompletionDistillation": "deploy.completion_export_command",
}


def exporter(config: str) -> str:
    """Module that exports the config's model."""
    from common.engine.config import load_config

    loaded = load_config(config)
    kind = loaded.get("model", {}).get("type") or loaded.get("runner_type", "")
    name = kind if isinstance(kind, str) else kind.__name__
    return EXPORTERS.get(name.rsplit(".", 1)[-1], "deploy.export")


def exporter_of(arguments: list[str]) -> str:
    """Module for a command line: the config is its first argument that ends as config files do, options may stand
    before it."""
    config = next((argument for argument in arguments if argument.endswith((".py", ".json", ".yaml", ".yml"))), None)
    return exporter(config) if config else "deploy.export"


def main(argv: list[str] | None = None) -> int:
    """Hand over to the exporter of the model; --help without a config is the detector's, with one its own."""
    return import_module(exporter_of(sys.argv[2:] if argv is None else argv)).main(argv)
