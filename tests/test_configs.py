"""Every config loads, dumps and loads again to the same thing, and says what the engine needs to train it."""

import functools
from pathlib import Path

import pytest
from mmengine.config import Config

from common.engine.config import load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    file for file in (ROOT / "configs").rglob("*.py") if "_base_" not in file.parts and file.name != "__init__.py"
)
if not CONFIGS:
    pytest.skip("no configs yet", allow_module_level=True)

load = functools.cache(load_config)
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))


@every_config
def test_the_resolved_config_loads_again_to_itself(path, tmp_path):
    cfg = load(path)
    dumped = tmp_path / path.name
    cfg.dump(str(dumped))
    assert Config.fromfile(str(dumped)).to_dict() == cfg.to_dict()


@every_config
def test_the_classes_that_the_config_names_exist(path):
    """A lazily imported class is resolved only when it is built; here every `type` is resolved at once."""
    missing = []

    def walk(node, where):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            if key == "type" and not isinstance(value, str) and not callable(value):
                missing.append(f"{where}.type = {value!r}")
            if isinstance(value, dict | list | tuple):
                walk(value, f"{where}.{key}")

    walk(load(path)._cfg_dict, path.stem)
    assert not missing, missing


@every_config
def test_checkpoints_are_kept_in_twos(path):
    hook = (load(path).get("default_hooks") or {}).get("checkpoint") or {}
    assert hook.get("max_keep_ckpts", -1) != 1
