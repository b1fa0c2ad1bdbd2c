"""Every config of a policy is read, built, and gives a finite loss with gradients on windows of its own shape."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.engine.config import load_config
from control.demonstrations.store import Episode
from control.policies.cloning import CloningModel
from control.policies.evaluation import actor
from control.policies.model import build
from control.policies.windows import WindowDataset

CONFIGS = sorted(Path("configs/control/sdp").glob("*.py"))
SHAPES = {"points": (64, 3), "rgb": (96, 96, 3)}
PARAMETERS = {"dp_pusht_state_paper": 65.8e6, "sdp_pusht_state_paper": 70.8e6}  # as published


def episode(cfg, names):
    random = np.random.default_rng(0)
    observations = {}
    for name in names:
        shape = SHAPES.get(name) or (cfg.model.encoders[name].width,)
        values = (
            random.integers(0, 256, (30, *shape)).astype(np.uint8)
            if name == "rgb"
            else random.normal(size=(30, *shape))
        )
        observations[name] = values if name == "rgb" else values.astype(np.float32)
    actions = random.normal(size=(29, cfg.model.action_dim)).astype(np.float32)
    return Episode(observations, actions, np.zeros(29, np.float32), True, 0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_windows_end_as_published_or_let_every_step_of_a_demonstration_act(path):
    settings = load_config(str(path)).train_dataloader.dataset
    published = path.stem.startswith(("sdp_pusht", "dp_pusht"))
    assert settings.after == (7 if published else settings.horizon - 1)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_trains_and_its_plans_fit_its_model(path):
    cfg = load_config(str(path))
    if path.stem in PARAMETERS:
        model = build(cfg.model)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(PARAMETERS[path.stem], rel=2e-3)
        cfg.model.net.update(widths=(16, 32, 64), level_width=16)
    torch.manual_seed(0)
    model = build(cfg.model)
    settings = {k: v for k, v in cfg.train_dataloader.dataset.items() if k not in ("type", "path")}
    names = tuple(model.encoder.encoders)
    assert tuple(settings.pop("names", ("state",))) == names
    data = WindowDataset([episode(cfg, names)], names=names, **settings)
    model.fit(data)
    losses = model(**data.batch(range(4)), mode="loss")
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"]) and losses["loss"] > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.parameters()) or names == ("state",)
    for plan in cfg.val_cfg.plans.values():
        policy = actor(model, plan)
        policy.reset([0])
        if not isinstance(model, CloningModel) and policy.plan.evaluations > 1:
            continue  # the plan fits the model; the streaming ones are also called
        observation = {name: data.observations[name][:1].numpy() for name in names}
        assert policy.select_action(observation).shape == (1, cfg.model.action_dim)
