"""What RL-100 trains: an encoder with its bottleneck, a denoiser of chunks, a one-step head. All noise is given from
outside: every forward pass of reinforcement learning is repeatable, so that ratios are exact.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.diffusion.denoiser import Denoiser
from common.diffusion.process import Process
from common.errors import ConfigError
from control.policies.encoders import ObservationEncoder
from control.policies.normaliser import MinMaxNormaliser
from control.rl.rl100.chain import Chain, Path, Predict, predictor
from control.rl.rl100.head import ConsistencyHead


class Bottleneck(nn.Module):
    """Variational information bottleneck on features (B, C): mean and log-variance heads of the same width."""

    def __init__(self, width: int):
        super().__init__()
        self.mean, self.log_var = nn.Linear(width, width), nn.Linear(width, width)
        with torch.no_grad():
            self.mean.weight.copy_(torch.eye(width))
            nn.init.zeros_(self.mean.bias)
            nn.init.zeros_(self.log_var.weight)
            self.log_var.bias.fill_(-4.0)

    def forward(self, features: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, C), the mean where noise (B, C) is None; and KL to a standard normal (B,)."""
        mean, log_var = self.mean(features), self.log_var(features)
        kl = gaussian_kl(mean, log_var)
        return (mean if noise is None else mean + (log_var / 2).exp() * noise), kl


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """(B,) KL(N(mean, var) || N(0, I))."""
    return ((mean**2 + log_var.exp() - 1 - log_var) / 2).sum(-1)


def chamfer(first: Tensor, second: Tensor) -> Tensor:
    """(B,) sum of the mean distances from each cloud (B, P, 3) to its nearest points of the other, in their units."""
    distance = torch.cdist(first, second)
    return distance.amin(2).mean(1) + distance.amin(1).mean(1)


class Policy(nn.Module):
    """Args:
    encoders: name -> observation encoder; observed O steps; action_dim A; chunk T actions; net: a function (action_dim,
    condition_dim) -> network with `project` and `forward(x, t, projected)`; process; chain: steps, s_min, s_max as
    `Chain`; bottleneck: whether features pass a VIB.

    `condition` is what critics and models see, too. The head is a copy of the network, made by `make_head`.
    """

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        observed: int,
        action_dim: int,
        chunk: int,
        net,
        process: Process,
        chain: dict,
        bottleneck: bool = False,
    ):
        super().__init__()
        if chunk < 1:
            raise ConfigError(f"policy.chunk={chunk}: wanted at least one action per decision")
        self.encoder = ObservationEncoder(encoders, observed)
        self.width = self.encoder.width
        self.bottleneck = Bottleneck(self.width) if bottleneck else None
        self.actions = MinMaxNormaliser(action_dim)
        self.denoiser = Denoiser(net(action_dim, self.width), process, "eps", clip=1.0)
        self.head = ConsistencyHead(copy.deepcopy(self.denoiser.net), process.steps)
        self.chain, self.shape = Chain(process, **chain), (chunk, action_dim)

    def make_head(self) -> None:
        """The head begins as the denoiser of now."""
        self.head.net.load_state_dict(self.denoiser.net.state_dict())

    def fit(self, observations: dict[str, Tensor], actions: Tensor) -> None:
        """Take the data's ranges, once in a policy's life. Raises: DataError."""
        self.encoder.fit(observations)
        self.actions.fit(actions)

    def condition(self, observation: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """(B, C) of observations (B, O, ...); noise (B, C): of the bottleneck, None for its mean."""
        features = self.encoder(observation)
        return features if self.bottleneck is None else self.bottleneck(features, noise)[0]

    def predict(self, condition: Tensor) -> Predict:
        """The chain's network under a condition (B, C)."""
        return predictor(self.denoiser, self.denoiser.net.project(condition), rederived=not self.chain.released)

    def imitation_loss(self, condition: Tensor, action: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Mean squared error of the noise at levels t (B, 1, 1) of normalised actions (B, T, A)."""
        return self.denoiser.loss(action, t, eps, self.denoiser.net.project(condition))

    def explore(self, condition: Tensor, start: Tensor, noise: Tensor) -> Path:
        """The stochastic chain; noise (K, B, T, A)."""
        return self.chain.sample(self.predict(condition), start, noise)

    def mean(self, condition: Tensor, start: Tensor) -> Tensor:
        """The mean chain, normalised (B, T, A) within [-1, 1]."""
        return self.chain.mean(self.predict(condition), start).clamp(-1, 1)

    def one_step(self, condition: Tensor, start: Tensor, steps: int = 1, noise: Tensor | None = None) -> Tensor:
        """The head's action, normalised (B, T, A)."""
        return self.head.act(start, condition, self.denoiser.process, steps, noise)

    def to_robot(self, normalised: Tensor) -> Tensor:
        """Actions in the robot's units, clipped to the data's range."""
        return self.actions.inverse(normalised.clamp(-1, 1))

    def executed(self, normalised: Tensor) -> Tensor:
        """What the robot makes of a normalised action, normalised again as the data are: within [-1, 1], and nothing
        where the data do not vary. Critics and models know no other actions."""
        return self.actions(self.to_robot(normalised)).clamp(-1, 1)


class Reconstruction(nn.Module):
    """What features have to keep: the state, or the points (Chamfer), decoded from the bottleneck's output.

    Args: width C of the condition; state: width of the last step's state; points: number of the last step's points.
    """

    def __init__(self, width: int, state: int | None = None, points: int | None = None):
        super().__init__()
        self.state = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, state)) if state else None
        self.points = None
        if points:
            self.points = nn.Sequential(
                nn.Linear(width, 512), nn.LayerNorm(512), nn.ReLU(), nn.Linear(512, 1024), nn.LayerNorm(1024),
                nn.ReLU(), nn.Linear(1024, 3 * points), nn.Unflatten(1, (points, 3)),
            )  # fmt: skip

    def forward(self, condition: Tensor, state: Tensor | None = None, points: Tensor | None = None) -> Tensor:
        """Mean loss over the batch; state (B, q) and points (B, P, 3), normalised as the encoder sees them."""
        total = condition.new_zeros(())
        if self.state is not None:
            total = total + F.mse_loss(self.state(condition), state)
        if self.points is not None:
            total = total + chamfer(self.points(condition), points).mean()
        return total
