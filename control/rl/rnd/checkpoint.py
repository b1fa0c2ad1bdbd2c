"""A training's whole state as tensors, arrays and strings: loaded without running code, resumed bit for bit."""

import json
import os
from collections import deque
from pathlib import Path

import numpy as np
import torch

from common.engine.checkpoint import load_checkpoint, save_atomic
from common.errors import CheckpointError
from control.rl.rnd import warehouses
from control.rl.rnd.ppo import RNDPPO

COUNTERS = ("num_timesteps", "_n_updates", "first_goal_step", "_current_progress_remaining")


def save(model: RNDPPO, path: str | os.PathLike, extra: dict | None = None) -> Path:
    """Write a checkpoint, whole or not at all. extra: arrays and numbers of the caller."""
    path = Path(path)
    modules, _ = model._get_torch_save_params()
    state = {
        "layout": _inputs_of(model),
        "state": {name: _of(model, name).state_dict() for name in modules},
        "counters": {name: getattr(model, name) for name in COUNTERS},
        "random": {"torch": torch.get_rng_state(), "numpy": _numpy_state()},
        "environments": warehouses.state_of(model.env),
        "last": {"obs": model._last_obs, "starts": np.asarray(model._last_episode_starts)},
        "episodes": {"info": [dict(one) for one in model.ep_info_buffer],
                     "success": [bool(one) for one in model.ep_success_buffer]},
        "extra": extra or {},
    }  # fmt: skip
    save_atomic(_mapped(state, _plain), path)
    return path


def load(model: RNDPPO, path: str | os.PathLike, resume: bool = True, modules: tuple[str, ...] = ("policy",)) -> dict:
    """Load a checkpoint into a model of the same config; resume: all modules, counters, random states and running
    episodes; else `modules` alone.

    Returns `extra`. Raises: FileNotFoundError, CheckpointError that says what differs; ConfigError where running
    episodes are of another number, backend or layout.
    """
    state = load_checkpoint(path)
    if not isinstance(state, dict) or "layout" not in state or "policy" not in state.get("state", {}):
        raise CheckpointError(f"{path}: no checkpoint of a warehouse training")
    mine = _inputs_of(model)
    if state["layout"]["observed"] != mine["observed"]:
        raise CheckpointError(f"{path}: its observations have {state['layout']['observed']} numbers, the config's "
                              f"environments give {mine['observed']}: set observe_pose as in its training")  # fmt: skip
    if (resume or "bonus" in modules) and state["layout"] != mine:
        raise CheckpointError(f"{path}: trained with {state['layout']}, the config says {mine}: set features, bonus "
                              "and environment.layout as in its training")  # fmt: skip
    if resume:
        warehouses.load_state(model.env, _mapped(state["environments"], _array))
    for name in state["state"] if resume else modules:
        try:
            _of(model, name).load_state_dict(state["state"][name])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path}: {name} does not fit the config: {str(error).splitlines()[0]}") from error
    if not resume:
        return state["extra"]
    for name, value in state["counters"].items():
        setattr(model, name, value)
    torch.set_rng_state(state["random"]["torch"])
    _set_numpy_state(state["random"]["numpy"])
    model._last_obs, model._last_episode_starts = (_array(state["last"][key]).copy() for key in ("obs", "starts"))
    window = model._stats_window_size
    model.ep_info_buffer = deque(state["episodes"]["info"], maxlen=window)
    model.ep_success_buffer = deque(state["episodes"]["success"], maxlen=window)
    return state["extra"]


def _inputs_of(model: RNDPPO) -> dict:
    """What a checkpoint's networks see."""
    return {"observed": model.observation_space.shape[0], "features": model.feature_kind, "bonus": model.bonus_kind,
            "extent": float(model.extent)}  # fmt: skip


def _mapped(tree, change):
    """A tree of dictionaries and lists with its leaves changed."""
    if isinstance(tree, dict):
        return {key: _mapped(one, change) for key, one in tree.items()}
    return [_mapped(one, change) for one in tree] if isinstance(tree, list) else change(tree)


def _plain(leaf):
    """numpy's arrays as tensors, its numbers as Python's."""
    if isinstance(leaf, np.ndarray):
        return torch.from_numpy(leaf.copy())
    return leaf.item() if isinstance(leaf, np.generic) else leaf


def _array(leaf):
    return leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf


def _of(model: RNDPPO, name: str):
    for part in name.split("."):
        model = getattr(model, part)
    return model


def _numpy_state() -> str:
    """numpy's global generator, which stable-baselines3 shuffles with."""
    kind, keys, *rest = np.random.get_state()
    return json.dumps([kind, keys.tolist(), *rest])


def _set_numpy_state(text: str) -> None:
    kind, keys, *rest = json.loads(text)
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
