"""Optimisers of a model's parts that are updated in turn."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from common.engine.optim import OptimisersInTurn
from common.errors import ConfigError


def config(**parts):
    return dict(constructor=OptimisersInTurn, **{
        name: dict(modules=modules, optimizer=dict(type=torch.optim.SGD, lr=rate), clip_grad=dict(max_norm=1.0))
        for name, (modules, rate) in parts.items()
    })  # fmt: skip


def model():
    return nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.ModuleDict({"c": nn.Linear(2, 1), "d": nn.Linear(2, 1)})})


def test_each_name_updates_its_own_modules_with_its_own_rate():
    net = model()
    wrappers = build_optim_wrapper(net, config(one=(["a"], 0.1), two=(["b.c", "b.d"], 0.5)))
    assert [wrappers[name].get_lr()["lr"] for name in ("one", "two")] == [[0.1], [0.5]]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    wrappers["two"].update_params(sum(layer(torch.ones(1, 2)).sum() for layer in net["b"].values()))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"b.c.weight", "b.c.bias", "b.d.weight", "b.d.bias"}
    step = before["b.c.weight"] - net["b"]["c"].weight
    assert step.norm() < 0.5, "clipped: six gradients of one have norm 2.4"


def test_missing_modules_and_shared_parameters_are_refused():
    with pytest.raises(ConfigError, match=r"optim_wrapper\.one\.modules: 'b\.x' is no module"):
        build_optim_wrapper(model(), config(one=(["b.x"], 0.1)))
    with pytest.raises(ConfigError, match="one and two share parameters"):
        build_optim_wrapper(model(), config(one=(["b"], 0.1), two=(["b.c"], 0.1)))
