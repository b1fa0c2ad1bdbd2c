"""`tutelage export CONFIG CHECKPOINT OUT.onnx`: the exporter of whatever the config's model is."""

import argparse
from importlib import import_module

EXPORTERS = {"DiffusionPolicyModel": "deploy.policy_export_command"}  # model class -> module; else the detector's


def exporter(config: str) -> str:
    """Module that exports the config's model."""
    from common.engine.config import load_config

    kind = load_config(config).get("model", {}).get("type", "")
    name = kind if isinstance(kind, str) else kind.__name__
    return EXPORTERS.get(name.rsplit(".", 1)[-1], "deploy.export")


def main(argv: list[str] | None = None) -> int:
    """Hand over to the exporter of the model; --help without a config is the detector's, with one its own."""
    parse = argparse.ArgumentParser(prog="tutelage export", add_help=False)
    parse.add_argument("config", nargs="?")
    known, _ = parse.parse_known_args(argv)
    module = exporter(known.config) if known.config else "deploy.export"
    return import_module(module).main(argv)
