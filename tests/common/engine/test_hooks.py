"""The average, the switches and what a checkpoint keeps of them."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.engine.checkpoint import load_checkpoint, load_weights
from common.engine.hooks import CallAtHook, EMAHook, SetAtHook, ema_decay, ema_update
from common.engine.train import train
from common.errors import CheckpointError, ConfigError


def test_the_decay_is_nought_at_the_start_and_reaches_its_limit():
    assert ema_decay(0) == 0
    assert ema_decay(2000) == pytest.approx(0.999 * (1 - math.exp(-1)))
    assert ema_decay(1e9) == 0.999


def test_with_the_released_offset_the_decay_runs_from_0_9939_to_0_9990():
    assert ema_decay(10_560) == pytest.approx(0.9939, abs=5e-5)
    assert ema_decay(10_560 + 39_980) == pytest.approx(0.9990, abs=5e-5)


def test_it_is_the_exponential_momentum_average_of_mmdet_with_a_step_offset():
    for steps in (0, 7, 3000):
        momentum = (1 - 0.001) * math.exp(-(1 + steps + 10_560) / 2000) + 0.001
        assert 1 - ema_decay(1 + steps + 10_560) == pytest.approx(momentum)


def test_integers_are_copied_and_floats_are_averaged():
    average = {"w": torch.zeros(2), "n": torch.tensor(0)}
    ema_update(average, {"w": torch.ones(2), "n": torch.tensor(9)}, 0.75)
    assert average["w"].tolist() == [0.25, 0.25] and average["n"] == 9


class Recorder(EMAHook):
    """Also keeps every raw state, for an average by hand."""

    def before_train(self, runner):
        super().before_train(runner)
        self.states = [{key: value.clone() for key, value in runner.model.state_dict().items()}]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self.states.append({key: value.clone() for key, value in runner.model.state_dict().items()})


@pytest.mark.parametrize("offset", [0, 500])
def test_training_averages_parameters_and_buffers_as_a_loop_by_hand_does(tiny, offset):
    cfg = tiny.config("run", {"train_cfg.max_iters": 10})
    cfg.custom_hooks = [{"type": Recorder, "offset": offset, "gamma": 50.0}]
    hook = next(hook for hook in train(cfg).hooks if isinstance(hook, Recorder))
    by_hand = {key: value.double() for key, value in hook.states[0].items()}
    for n, state in enumerate(hook.states[1:], 1):
        decay = 0.999 * (1 - math.exp(-(n + offset) / 50.0))
        for key, value in state.items():
            by_hand[key] = decay * by_hand[key] + (1 - decay) * value.double()
    for key in ("first.weight", "last.bias", "norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(hook.average[key].double(), by_hand[key], rtol=1e-5, atol=1e-6)
        assert not torch.equal(hook.average[key], hook.states[-1][key])


def test_a_checkpoint_holds_the_average_as_state_dict_and_the_raw_weights_beside_it(tiny):
    runner = train(tiny.config("run", {"train_cfg.max_iters": 8}))
    hook = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
    checkpoint = load_checkpoint(tiny.folder / "run" / "iter_8.pth")
    raw = runner.model.state_dict()
    for key, value in checkpoint["state_dict"].items():
        assert torch.equal(value, hook.average[key]), key
        assert torch.equal(checkpoint["ema_state_dict"][f"module.{key}"], raw[key]), key
    for ema, expected in ((True, hook.average), (False, raw)):
        load_weights(runner.model, tiny.folder / "run" / "iter_8.pth", ema=ema)
        assert all(torch.equal(value, expected[key]) for key, value in runner.model.state_dict().items())


def test_evaluation_sees_the_average_and_training_gets_its_weights_back():
    model = nn.Linear(1, 1)
    runner = SimpleNamespace(model=model)
    hook = EMAHook()
    hook.before_train(runner)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        model.weight.add_(1)
    hook.before_val_epoch(runner)
    assert torch.equal(model.weight, before["weight"])
    hook.after_val_epoch(runner)
    assert torch.equal(model.weight, before["weight"] + 1)
    assert torch.equal(hook.average["weight"], before["weight"])


def test_a_teacher_outside_the_module_tree_is_not_averaged():
    model = nn.Linear(1, 1)
    model.__dict__["teacher"] = [nn.Linear(1000, 1000)]
    hook = EMAHook()
    hook.before_train(SimpleNamespace(model=model))
    assert sorted(hook.average) == ["bias", "weight"]


def test_resuming_a_run_without_an_average_with_the_hook_is_an_error_that_says_what_to_do(tiny):
    short = {"train_cfg.max_iters": 4}
    cfg = tiny.config("run", short)
    cfg.custom_hooks = []
    train(cfg)
    with pytest.raises(CheckpointError, match="written without EMAHook; start from it with load_from"):
        train(tiny.config("run", short), resume=True)


@pytest.mark.parametrize("arguments", [{"decay": 1.0}, {"gamma": 0}, {"offset": -1}])
def test_an_average_with_impossible_numbers_is_refused(arguments):
    with pytest.raises(ConfigError, match="0 < decay < 1"):
        EMAHook(**arguments)


class Switched(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = []
        self.head = nn.Module()
        self.head.scale = 1.0

    def enable(self, **arguments):
        self.calls.append(arguments)


def iterate(hook, model, first, last):
    """Training iterations [first, last) as the loop runs the hook; returns the iterations that acted."""
    acted = []
    runner = SimpleNamespace(model=model, iter=first)
    hook.before_train(runner)
    if model.calls:
        acted.append("before")
    for iteration in range(first, last):
        runner.iter, before = iteration, len(model.calls)
        hook.before_train_iter(runner, iteration)
        if len(model.calls) > before:
            acted.append(iteration)
    return acted


@pytest.mark.parametrize(
    ("first", "acted"), [(0, [5]), (4, [5]), (5, [5]), (6, ["before"]), (20, ["before"])], ids=lambda value: str(value)
)
def test_a_switch_acts_once_at_its_iteration_or_at_once_in_a_run_resumed_beyond_it(first, acted):
    model = Switched()
    assert iterate(CallAtHook(5, "enable", {"k": 1}), model, first, 30) == acted
    assert model.calls == [{"k": 1}]


def test_a_switch_sets_an_attribute_by_its_dotted_path():
    model = Switched()
    hook = SetAtHook(0, "head.scale", 0.5)
    hook.before_train_iter(SimpleNamespace(model=model, iter=0), 0)
    assert model.head.scale == 0.5


@pytest.mark.parametrize(
    "hook", [CallAtHook(0, "enabel"), SetAtHook(0, "head.scael", 1), SetAtHook(0, "neck.scale", 1)]
)
def test_a_switch_for_something_that_the_model_lacks_is_an_error(hook):
    with pytest.raises(ConfigError, match=r"has no '(enabel|scael|neck)'"):
        hook.before_train_iter(SimpleNamespace(model=Switched(), iter=0), 0)
