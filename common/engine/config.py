"""Configs: loaded with errors that name the file, overridden only where a key exists."""

import ast
import copy
import inspect
import os
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

import mmengine.config.config as mm_config
import mmengine.config.utils as mm_utils
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.config.utils import ConfigParsingError
from mmengine.runner import Runner

from common.errors import ConfigError

# Top-level keys that mmengine's Runner and ours read from the config, besides the Runner's arguments.
READ_FROM_CONFIG = {
    "activation_checkpointing",
    "compile",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "load_strict",
    "model_wrapper_cfg",
    "sync_bn",
}

_is_builtin_module = mm_utils._is_builtin_module


def _is_standard_library(module: str) -> bool:
    return module.split(".")[0] in sys.stdlib_module_names or _is_builtin_module(module)


# mmengine takes a module for a standard one by the place of its file; the modules frozen into Python 3.11, `os` among
# them, have none, and `os.environ` in a config would be imported lazily and fail.
mm_utils._is_builtin_module = mm_config._is_builtin_module = _is_standard_library


def load_config(path: str | os.PathLike, options: dict | None = None) -> Config:
    """The config of a file with `options` ({"a.b.0.c": value}) put over it; see `override`.

    Raises: FileNotFoundError; ConfigError naming the file or the key.
    """
    path = Path(path)
    if not path.is_file():
        near = get_close_matches(path.stem, [file.stem for file in path.parent.glob("*.py")], 1)
        hint = f"; did you mean {path.with_name(near[0] + '.py')}?" if near else ""
        raise FileNotFoundError(f"{path}: no such config{hint}")
    try:
        cfg = Config.fromfile(str(path))
    except (ConfigParsingError, SyntaxError, NameError, ImportError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error
    for name, value in list(dict.items(cfg._cfg_dict)):
        if isinstance(value, ModuleType):  # an `import os` of a base is no part of the config
            cfg._cfg_dict.pop(name)
    override(cfg, options or {})
    return cfg


def parse_options(pairs: list[str]) -> dict:
    """{"a.b": value} of the command line's `a.b=value`; values are Python literals, `[a,b]`, `true`, or strings.

    Raises: ConfigError for a pair without `=`.
    """
    options = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--cfg-options {pair}: write key=value")
        options[key] = _value(text)
    return options


def _value(text: str):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    if text.lower() in ("true", "false", "none", "null"):
        return {"true": True, "false": False}.get(text.lower())
    if text[:1] in ("[", "("):
        try:
            return DictAction._parse_iterable(text)  # [a,b] of bare words
        except (AssertionError, ValueError):
            pass
    return text


def override(cfg: Config, options: dict) -> None:
    """Set existing keys of a config in place.

    `{"model.backbone.depth": 18}` replaces a value, `"pipeline.0.scale"` steps into a list, a dictionary as value is
    merged key by key (`_delete_=True` in it replaces instead). A key that the config does not have is refused, because
    mmengine would add it in silence; `+a.b=value` adds one on purpose. The Runner's own arguments (`load_from`, ...)
    may always be set.

    A config may declare `linked = {variable: [keys]}`: setting the variable sets every key made of it. Such a config's
    other variables are ingredients already used up, so overriding one would change nothing and is refused.

    Raises: ConfigError with the nearest existing key.
    """
    for key, value in _with_linked(cfg, options).items():
        add = key.startswith("+")
        key = key.removeprefix("+")
        check_key(cfg, key, value, add=add or key in _runner_arguments())
        try:
            cfg.merge_from_dict({key: value})
        except (KeyError, TypeError, IndexError) as error:
            raise ConfigError(f"--cfg-options {key}: {error}") from error


def _with_linked(cfg: Config, options: dict) -> dict:
    linked = cfg.get("linked") or {}
    expanded = {}
    for key, value in options.items():
        root = key.split(".")[0]
        read = root in linked or root in _runner_arguments() or root in READ_FROM_CONFIG
        if linked and root in cfg._cfg_dict and not read:
            raise ConfigError(
                f"--cfg-options {key}: {root} is an ingredient of the config file, nothing reads it afterwards: set "
                f"the keys made of it, or one of the linked variables ({', '.join(linked)})"
            )
        expanded[key] = value
        expanded.update(dict.fromkeys(linked.get(key, ()), value))
    return expanded


def check_key(cfg: Config, key: str, value=None, *, add: bool = False) -> None:
    """Raise ConfigError unless the dotted key, and every key of a dictionary given as value, exists in the config.

    add: the last part may be new; its parents must exist.
    """
    node, walked = cfg._cfg_dict, []
    parts = key.split(".")
    for depth, part in enumerate(parts):
        place = ".".join(walked) or "the config"
        last = depth == len(parts) - 1
        if isinstance(node, dict):
            if part not in node:
                if last and add:
                    return
                raise ConfigError(_unknown(key, part, place, walked, node))
            node = dict.__getitem__(node, part)
        elif isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f"--cfg-options {key}: {place} is a list of {len(node)}: give an index below that")
            node = node[int(part)]
        else:
            kind = "a tuple, which is replaced as a whole" if isinstance(node, tuple) else f"{node!r}, not a dictionary"
            raise ConfigError(f"--cfg-options {key}: {place} is {kind}")
        walked.append(part)
    if isinstance(value, dict) and isinstance(node, dict) and not value.get("_delete_", False) and not add:
        for name, inner in value.items():
            check_key(cfg, f"{key}.{name}", inner)


def _unknown(key: str, part: str, place: str, walked: list[str], node: dict) -> str:
    near = get_close_matches(part, [str(name) for name in node], 1)
    if near:
        hint = f"did you mean {'.'.join([*walked, near[0]])}?"
    else:
        names = sorted(str(name) for name in node)
        hint = "it has " + ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"--cfg-options {key}: {place} has no key {part!r}; {hint} (+{key}=... adds a new key)"


def _runner_arguments() -> set[str]:
    return set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}


def default_work_dir(cfg: Config) -> str:
    """The config's work_dir, or work_dirs/<name of the config file>."""
    if cfg.get("work_dir"):
        return cfg.work_dir
    return os.path.join("work_dirs", Path(cfg.filename).stem if cfg.filename else "run")


def as_config(cfg: Config | dict) -> Config:
    """A copy that may be changed; classes given as objects are named by their path, so that a dump can be loaded."""
    cfg = copy.deepcopy(cfg) if isinstance(cfg, Config) else Config(ConfigDict(cfg))
    _name_classes(cfg._cfg_dict)
    return cfg


def _name_classes(node) -> None:
    items = list(dict.items(node)) if isinstance(node, dict) else list(enumerate(node))
    for key, value in items:
        if isinstance(value, dict | list):
            _name_classes(value)
        elif inspect.isclass(value) or inspect.isfunction(value):
            node[key] = f"{value.__module__}.{value.__qualname__}"
