"""The `tutelage` command: verbs only. Each verb's module has `main(argv) -> int` and is imported when it is called."""

import os
import re
import sys
import traceback
from difflib import get_close_matches
from importlib import import_module

from common.errors import CheckpointError, ConfigError, DataError

# verb: (module with main(argv), what it does, the extra that brings its dependencies)
VERBS = {
    "simulate-driving": ("perception.simulation.generate", "write a simulated nuScenes data set", "perception"),
    "train": ("common.engine.train", "train a config", "perception"),
    "test": ("common.engine.test", "evaluate a checkpoint of a config", "perception"),
    "collect": ("control.demonstrations.collect", "record data of scripted experts and trained agents", "control"),
    "export": ("deploy.export_command", "write ONNX, manifest and parity report", "perception"),
    "rollout": ("deploy.rollout", "an exported policy in closed loop with its task", "control"),
    "bench": ("deploy.bench_command", "latency, jitter, parity and memory of an export", "deploy"),
    "doctor": ("common.engine.doctor", "check versions, ops, libraries, GPU, data sets, names", "perception"),
}
OWN_PACKAGES = ("common", "perception", "control", "deploy")


def usage() -> str:
    verbs = "\n".join(f"  {verb:<18}{what}" for verb, (_, what, _) in VERBS.items())
    return f"usage: tutelage [--debug] VERB ...\n\n{verbs}\n\n`tutelage VERB --help` explains a verb."


def main(argv: list[str] | None = None) -> int:
    """Run one verb. Returns its exit code; 1 after an error of the user's input, 2 for a verb that does not exist."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args or os.environ.get("TUTELAGE_DEBUG", "0") not in ("", "0")
    args = [arg for arg in args if arg != "--debug"]
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    verb, *rest = args
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f" (verbs: {', '.join(VERBS)})"
        print(f"tutelage: no verb {verb!r}{hint}", file=sys.stderr)
        return 2
    try:
        return _verb_main(verb)(rest) or 0
    except (ConfigError, CheckpointError, DataError, FileNotFoundError) as error:
        if debug:
            traceback.print_exc()
        print(f"tutelage {verb}: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tutelage {verb}: interrupted", file=sys.stderr)
        return 130


def _verb_main(verb: str):
    module, _, extra = VERBS[verb]
    try:
        return import_module(module).main
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in OWN_PACKAGES:
            raise
        raise ConfigError(f"needs the module {missing!r}: pip install 'tutelage[{extra}]'") from error


def _one_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename}: no such file"
    text = str(error)
    if text.startswith("Caught "):  # torch hands over a loader worker's whole traceback; its last lines are the message
        text = re.split(r"^(?:\w+\.)*\w*(?:Error|Exception): ", text, flags=re.MULTILINE)[-1]
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())


if __name__ == "__main__":
    sys.exit(main())
