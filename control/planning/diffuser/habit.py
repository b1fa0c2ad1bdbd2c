"""A habit: a planner's decisions distilled into a small encoder and decoder, for control at a CPU's full rate.

After Habi (arXiv 2502.06401): a prior p(z | s) and a decoder a(s, z) learn, with a posterior q(z | s, a), what the
planner does; of a few z a critic takes the best. What is exported decodes the prior's mean.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.engine.checkpoint import load_checkpoint, load_weights, save_atomic
from common.errors import ConfigError
from control.demonstrations.load import read_episodes
from control.planning.diffuser.model import TrajectoryDiffuserModel
from control.planning.diffuser.networks import mlp
from control.planning.diffuser.plans import PlanMaker, PlanSettings
from control.planning.diffuser.student import draws
from control.policies.noise import NoiseSource
from control.policies.normaliser import MeanStdNormaliser, MinMaxNormaliser


class Decisions(Dataset):
    """States (K, S) of a data set, what a planner does there, actions (K, A), and how it judges its plans, worth (K,).

    Args: path of the data set; teacher: config of a `TrajectoryDiffuserModel`; checkpoint; plan: its settings; count K
        states, drawn by `seed`; cache: file to keep them in, by default beside the data set; batch: plans at a time.
    `dataset.__getitems__(indices)` gives {"states", "actions", "worth"}.
    """

    def __init__(self, path: str, teacher: dict, checkpoint: str, plan: dict, count: int = 10_000, seed: int = 0,
                 cache: str | None = None, batch: int = 256):  # fmt: skip
        if not checkpoint:
            raise ConfigError("no checkpoint of the planner: --cfg-options train_dataloader.dataset.checkpoint=CKPT")
        wanted = {"weights": hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest(),
                  "plan": {key: str(value) for key, value in plan.items()}, "count": count, "seed": seed}  # fmt: skip
        cache = Path(cache or f"{path.rstrip('/')}.decisions.pth")
        kept = load_checkpoint(cache) if cache.is_file() else {}
        if kept.get("of") != wanted:
            kept = {"of": wanted, **self._decide(path, teacher, checkpoint, plan, count, seed, batch)}
            save_atomic(kept, cache)
        self.states, self.actions, self.worth = kept["states"], kept["actions"], kept["worth"]

    @staticmethod
    def _decide(path, teacher: dict, checkpoint: str, plan: dict, count: int, seed: int, batch: int) -> dict:
        model = TrajectoryDiffuserModel(**{key: value for key, value in teacher.items() if key != "type"})
        load_weights(model, checkpoint)
        make = PlanMaker(model.eval(), PlanSettings(**plan))
        seen = np.concatenate([one.observations["state"] for one in read_episodes(path)])
        chosen = np.random.default_rng(seed).permutation(len(seen))[:count]
        states = torch.from_numpy(seen[chosen].astype(np.float32))
        acts, worth = [], []
        torch.manual_seed(seed)
        with torch.no_grad():
            for part in tqdm(states.split(batch), desc="decisions", unit="batch", dynamic_ncols=True):
                now = model.states(part)
                asked = make.settings.asked(model, now, make.settings.wanted(model))
                plans = make(now[:, None], asked[:, None], draws(now))
                acts.append(model.act(now, plans[:, 1], torch.full((len(now),), float(model.stride))))
                worth.append(model.plan_value(plans.flatten(1))[:, 0])
        return {"states": states, "actions": torch.cat(acts), "worth": torch.cat(worth)}

    def __len__(self) -> int:
        return len(self.states)

    def __getitems__(self, indices: list[int]) -> dict:
        rows = torch.as_tensor(indices)
        return {"states": self.states[rows], "actions": self.actions[rows], "worth": self.worth[rows]}

    def __getitem__(self, index: int) -> dict:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


@dataclass(frozen=True)
class HabitSettings:
    """candidates: z drawn per decision, of which the critic takes the best; 1 takes the prior's mean."""

    candidates: int = 1


@MODELS.register_module()
class HabitModel(BaseModel):
    """Args: state_dim S; action_dim A; latent Z; widths of the networks; divergence: nats that the weight of the
    Kullback-Leibler term is tuned for; rate: of that tuning."""

    def __init__(self, state_dim: int, action_dim: int, latent: int = 8, widths: tuple[int, ...] = (256, 256),
                 divergence: float = 1.0, rate: float = 0.01, data_preprocessor: dict | None = None):  # fmt: skip
        super().__init__(data_preprocessor)
        self.state_dim, self.action_dim, self.latent = state_dim, action_dim, latent
        self.divergence, self.rate = divergence, rate
        self.states, self.actions = MeanStdNormaliser(state_dim), MinMaxNormaliser(action_dim)
        self.prior, self.posterior = mlp(state_dim, 2 * latent, widths), mlp(state_dim + action_dim, 2 * latent, widths)
        self.decoder = mlp(state_dim + latent, action_dim, widths)
        self.critic = mlp(state_dim + action_dim, 1, widths)
        self.register_buffer("weight", torch.ones(()))

    def fit(self, decisions: Decisions) -> None:
        """Take statistics from the decisions."""
        self.states.fit(decisions.states)
        self.actions.fit(decisions.actions)

    @property
    def observes(self) -> tuple[str, ...]:
        return ("state",)

    def actor(self, plan: dict) -> "Habit":
        """What rolls it out, with the settings of `plan`."""
        try:
            return Habit(self, HabitSettings(**plan))
        except TypeError as error:
            raise ConfigError(f"plan: {error}") from error

    def decide(self, observation: Tensor) -> Tensor:
        """(B, S) in the environment's units -> (B, A): the decoder at the prior's mean."""
        now = self.states(observation)
        return self.decode(now, self.prior(now)[:, : self.latent])

    def decode(self, now: Tensor, z: Tensor) -> Tensor:
        """(B, A) in the environment's units of normalised states (B, S)."""
        return self.actions.inverse(self.decoder(torch.cat([now, z], -1)).clamp(-1, 1))

    def forward(self, states: Tensor, actions: Tensor, worth: Tensor, mode: str = "tensor") -> dict[str, Tensor]:
        """mode "loss": reconstruction, the divergence of the posterior from the prior, its weight tuned so that it
        stays near `divergence`, and the critic's error."""
        if mode != "loss":
            raise ConfigError(f"forward(mode={mode!r}): a habit is evaluated by rollouts")
        now, acts = self.states(states), self.actions(actions)
        prior, posterior = gaussian(self.prior(now)), gaussian(self.posterior(torch.cat([now, acts], -1)))
        z = posterior[0] + posterior[1].exp() * torch.randn_like(posterior[0])
        apart = divergence(posterior, prior).mean()
        if self.training:
            self.weight.mul_(torch.exp(self.rate * (apart.detach() - self.divergence).clamp(-1, 1)).clamp(0.5, 2))
            self.weight.clamp_(1e-4, 1e2)
        rebuilt = self.decoder(torch.cat([now, z], -1))
        judged = self.critic(torch.cat([now, acts], -1))[:, 0]
        return {
            "loss_action": (rebuilt - acts).square().mean(),
            "loss_divergence": 0.01 * self.weight * apart,
            "loss_critic": (judged - worth).square().mean(),
            "nats": apart.detach(),
        }


def gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log deviation (B, Z), the latter within -5 to 2, of a network's output (B, 2 Z)."""
    mean, log_deviation = out.chunk(2, -1)
    return mean, log_deviation.clamp(-5, 2)


def divergence(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """(B,) KL(q | p) of diagonal Gaussians, each (mean, log deviation) of (B, Z)."""
    (mean_q, log_q), (mean_p, log_p) = q, p
    ratio = (2 * (log_q - log_p)).exp() + ((mean_q - mean_p) / log_p.exp()) ** 2
    return (log_p - log_q + 0.5 * (ratio - 1)).sum(-1)


class Habit:
    """An `Actor` of `control.rollout`. plans: decisions; calls: network evaluations."""

    def __init__(self, model: HabitModel, settings: HabitSettings):
        model.states.check()
        self.model, self.settings, self.plans, self.calls = model.eval(), settings, 0, {"decoder": 0}

    def reset(self, seeds: list[int] | None = None, mask: np.ndarray | None = None) -> None:
        """Begin episodes; the seeds are of the noise."""
        if mask is None:
            self.noise = NoiseSource([0] if seeds is None else seeds)
        elif seeds is not None:
            for row in np.flatnonzero(mask):
                self.noise.restart(int(row), int(seeds[row]))

    @torch.no_grad()
    def select_action(self, observation: dict[str, np.ndarray], active: np.ndarray | None = None) -> np.ndarray:
        """(B, A)."""
        model, C = self.model, self.settings.candidates
        seen = torch.from_numpy(np.asarray(observation["state"], np.float32))
        self.plans += len(seen)
        self.calls["decoder"] += len(seen)
        if C == 1:
            return model.decide(seen).numpy()
        now = model.states(seen)
        mean, log_deviation = gaussian(model.prior(now))
        z = mean[:, None] + log_deviation.exp()[:, None] * self.noise.draw(C, model.latent)
        wide = now[:, None].expand(-1, C, -1).flatten(0, 1)
        acts = model.decode(wide, z.flatten(0, 1))
        worth = model.critic(torch.cat([wide, model.actions(acts)], -1)).unflatten(0, (len(seen), C))[..., 0]
        return acts.unflatten(0, (len(seen), C))[torch.arange(len(seen)), worth.argmax(1)].numpy()
