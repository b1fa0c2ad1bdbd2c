"""What is trained: observation encoder, action normaliser, denoising network, and the levels it learns.

One model serves every way of running (`streaming.Plan`): only the level vector differs.
"""

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from torch import Tensor, nn

from common.diffusion.denoiser import Denoiser
from common.diffusion.levels import LevelMixture
from common.diffusion.process import Process
from common.engine.loops import unwrap
from common.errors import ConfigError
from control.policies.encoders import ObservationEncoder
from control.policies.normaliser import MinMaxNormaliser
from control.policies.windows import WindowDataset


def build(config, **defaults):
    """An object from a config that names its class or function; what is already built passes through."""
    if not isinstance(config, dict):
        return config
    arguments = {**defaults, **config}
    kind = arguments.pop("type")
    return kind(**arguments) if callable(kind) else MODELS.build({"type": kind, **arguments})


@MODELS.register_module()
class DiffusionPolicyModel(BaseModel):
    """Denoiser of action sequences under observations.

    Args:
        action_dim A; horizon T; observed O.
        encoders: observation name -> encoder config.
        net: config of a network with `project(observation)` and `forward(x, t, projected)`; action_dim and
            condition_dim are filled in.
        process: config or `Process`, e.g. dict(type=vp_cosine, steps=100).
        patterns: name -> (weight, config of a level pattern); `per_batch` draws one for a whole batch.
        prediction: "eps", "x0" or "v".
        offset: position 0 of the buffer is the action of step now - offset (0, or O - 1 in Diffusion Policy).
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        encoders: dict,
        net: dict,
        process: dict | Process,
        patterns: dict,
        observed: int = 2,
        offset: int = 0,
        prediction: str = "eps",
        per_batch: bool = False,
        data_preprocessor: dict | None = None,
    ):
        super().__init__(data_preprocessor)
        if offset not in (0, observed - 1):
            raise ConfigError(f"offset={offset}: choose 0 (buffer begins now) or observed - 1 = {observed - 1}")
        self.horizon, self.observed, self.offset = horizon, observed, offset
        self.encoder = ObservationEncoder({name: build(encoder) for name, encoder in encoders.items()}, observed)
        self.actions = MinMaxNormaliser(action_dim)
        self.process = build(process)
        self.denoiser = Denoiser(
            build(net, action_dim=action_dim, condition_dim=self.encoder.width), self.process, prediction, clip=1.0
        )
        self.mixture = LevelMixture(
            {name: (weight, build(pattern)) for name, (weight, pattern) in patterns.items()}, per_batch
        )

    def fit(self, dataset: WindowDataset) -> None:
        """Take the ranges of observations and actions from the training data."""
        self.actions.fit(dataset.actions)
        self.encoder.fit(dataset.observations)

    def forward(self, observation: dict[str, Tensor], action: Tensor | None = None, mode: str = "tensor"):
        """mode "loss": {"loss": mean squared error over the noisy positions}; "tensor": the projected condition."""
        if mode == "tensor":
            return self.condition(observation)
        if mode != "loss":
            raise ConfigError(f"forward(mode={mode!r}): a policy is evaluated by rollouts (control/rollout.py)")
        levels, choice = self.mixture.draw(len(action), self.horizon)
        t = levels.to(action)[..., None]
        x0 = self.actions(action)
        eps = torch.randn_like(x0)
        error = self.denoiser.error(x0, t, eps, self.condition(observation)).mean(-1)
        noisy = (t[..., 0] > 0).to(error)  # a clean prefix is given, not learnt
        per_sample = (error * noisy).sum(1) / noisy.sum(1).clamp_min(1)
        losses = {"loss": (error * noisy).sum() / noisy.sum().clamp_min(1)}
        for number, name in enumerate(self.mixture.names):  # logged, not added: keys without "loss"
            mine = (choice == number).to(error.device)
            if mine.any():
                losses[f"mse_{name}"] = per_sample[mine].mean().detach()
        return losses

    def condition(self, observation: dict[str, Tensor]) -> Tensor:
        """What depends on the observation alone, once per call: {name: (B, O, ...)} -> (B, C)."""
        return self.denoiser.net.project(self.encoder(observation))

    def check(self) -> None:
        """Raises DataError while a normaliser has no statistics."""
        for module in self.modules():
            if isinstance(module, MinMaxNormaliser):
                module.check()


@HOOKS.register_module()
class FitNormalisers(Hook):
    """Takes the data ranges from the training set before the first iteration; a resumed run keeps its own."""

    priority = "VERY_HIGH"

    def before_train(self, runner) -> None:
        model: nn.Module = unwrap(runner.model)
        if runner.iter == 0 and bool(torch.isnan(model.actions.low).any()):
            model.fit(runner.train_dataloader.dataset)
