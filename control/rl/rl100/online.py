"""Online improvement: PPO over denoising steps on the task's own rewards, with GAE over decisions and a learnt value.

An iteration collects lanes of decisions with the stochastic chain and makes some epochs of clipped steps on them; the
head follows the policy's mean chain after every step. Episodes begin anew with every iteration, so an iteration is a
pure function of the state before it.
"""

import copy
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from control.rl.rl100.chain import divergence
from control.rl.rl100.collect import Lanes, TaskSpec, drive_lanes
from control.rl.rl100.head import same_noise
from control.rl.rl100.policy import Policy
from control.rl.rl100.surrogate import decision_advantages, normalised, surrogate, value_loss
from control.workers import Pool, in_order

LANES = 5  # side by side in a worker


@dataclass(frozen=True)
class OnlineSettings:
    """iterations of `lanes` environments times `decisions`; epochs over minibatches; learning rates of policy and value
    fall linearly to 0; the policy's steps of an iteration end where the mean KL per denoising step exceeds stop_kl.
    gamma is per step of the environment. head_rate: of the one-step head, constant; None to leave it."""

    iterations: int = 20
    lanes: int = 10
    decisions: int = 200
    epochs: int = 5
    minibatch: int = 500
    learning_rate: float = 5e-5
    value_rate: float = 3e-4
    head_rate: float | None = 3e-4
    clip: float = 0.2
    value_clip: float = 0.2
    stop_kl: float = 0.03
    most_gradient: float = 0.5
    gamma: float = 0.99
    lam: float = 0.95
    train_encoder: bool = True


class ValueNet(nn.Module):
    """V of observations, with an encoder of its own: the policy's may move without it. encoder: as the policy's,
    copied; v: (B, C) -> (B, 1), copied too, e.g. that of the offline critics."""

    def __init__(self, policy: Policy, v: nn.Module):
        super().__init__()
        self.encoder, self.bottleneck, self.v = (copy.deepcopy(one) for one in (policy.encoder, policy.bottleneck, v))
        self.requires_grad_(True)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """(B,)."""
        features = self.encoder(observation)
        return self.v(features if self.bottleneck is None else self.bottleneck(features)[0]).squeeze(-1)


class OnlineImprovement:
    """`iterate` makes one iteration, `run` all that are left; both go on from wherever `state_dict` was taken.

    bounds: values are cut to them before anything is bootstrapped from them, None leaves them. Where a robot is stuck
    until the time limit, its value is learnt from itself alone and runs away without them.
    """

    def __init__(
        self, policy: Policy, v: nn.Module, spec: TaskSpec, settings: OnlineSettings, seed: int = 0,
        bounds: tuple[float, float] | None = None,
    ):  # fmt: skip
        self.policy, self.spec, self.settings, self.seed = policy.eval(), spec, settings, seed
        self.bounds = bounds
        self.value = ValueNet(policy, v)
        parts = [policy.denoiser, *([policy.encoder, policy.bottleneck] if settings.train_encoder else [])]
        self.actor = [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(self.actor, settings.learning_rate, eps=1e-5, fused=True)
        self.value_adam = torch.optim.Adam(self.value.parameters(), settings.value_rate, eps=1e-5, fused=True)
        self.head_adam = (
            torch.optim.AdamW(policy.head.parameters(), settings.head_rate, fused=True) if settings.head_rate else None
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.done, self.steps, self.logs = 0, 0, []

    def run(self, pool: Pool, until: int | None = None) -> list[dict]:
        """Iterations up to `until`, by default all. Returns the log, a row per iteration."""
        while self.done < (self.settings.iterations if until is None else until):
            self.iterate(pool)
        return self.logs

    def iterate(self, pool: Pool) -> dict:
        """Collect, learn, log."""
        share = 1 - self.done / self.settings.iterations
        for adam, rate in ((self.adam, self.settings.learning_rate), (self.value_adam, self.settings.value_rate)):
            for group in adam.param_groups:
                group["lr"] = share * rate
        lanes = self._collect(pool)
        self.done += 1
        self.steps += lanes.steps
        row = {"iteration": self.done, "steps": self.steps, "success": lanes.wins / max(1, lanes.ends),
               "episodes": lanes.ends, **self.learn(lanes)}  # fmt: skip
        self.logs.append(row)
        return row

    def _collect(self, pool: Pool) -> Lanes:
        """Lanes of this iteration, in parts of a fixed size, so that the number of workers changes nothing."""
        first = self.seed * 1_000_000 + self.done * self.settings.lanes
        seeds = list(range(first, first + self.settings.lanes))
        asked = (self.settings.decisions, self.settings.gamma)
        parts = [(self.policy, self.spec, seeds[i : i + LANES], *asked) for i in range(0, len(seeds), LANES)]
        return Lanes.joined(in_order(pool, drive_lanes, parts))

    def learn(self, lanes: Lanes) -> dict:
        """The epochs on an iteration's lanes."""
        s = self.settings
        values, advantage = self.advantages(lanes)
        target = torch.as_tensor((advantage + values).ravel(), dtype=torch.float32)
        old_value = torch.as_tensor(values.ravel())
        advantage = normalised(torch.as_tensor(advantage.ravel(), dtype=torch.float32))
        observation = {name: one.flatten(0, 1) for name, one in lanes.observation.items()}
        noise = None if lanes.noise is None else lanes.noise.flatten(0, 1)
        states, log_prob = lanes.states.flatten(1, 2), lanes.log_prob.flatten(1)
        old_mean = self._means(observation, noise, states)
        logs: dict[str, list[float]] = {}
        first, stopped = None, False
        for _ in range(s.epochs):
            for rows in torch.randperm(len(target), generator=self.generator).split(s.minibatch):
                seen = {name: one[rows] for name, one in observation.items()}
                shown = self._value_step(seen, old_value[rows], target[rows])
                if advantage is not None and not stopped:  # None: nothing but noise to follow
                    condition = self.policy.condition(seen, None if noise is None else noise[rows])
                    new, mean, deviation = self.policy.chain.evaluate(self.policy.predict(condition), states[:, rows])
                    loss, ppo = surrogate(new, log_prob[:, rows], advantage[rows], s.clip)
                    kl = float(divergence(old_mean[:, rows], mean.detach(), deviation).mean())
                    first = first or asdict(ppo)
                    stopped = not kl <= s.stop_kl  # nor where it is not finite
                    if not stopped:
                        self._step(self.adam, loss, self.actor)
                    shown |= {"clip_fraction": ppo.clip_fraction, "kl": kl}
                if self.head_adam is not None:
                    shown |= self._head_step(seen)
                for key, value in shown.items():
                    logs.setdefault(key, []).append(value)
        found = {key: float(np.mean(values)) for key, values in logs.items()}
        found["kl_last"] = logs.get("kl", [0.0])[-1]
        found["first_ratio_gap"] = first["ratio_gap"] if first else 0.0
        found["stopped"] = stopped
        found["explained_variance"] = explained_variance(values.ravel(), target.numpy())
        return found

    @torch.no_grad()
    def advantages(self, lanes: Lanes) -> tuple[np.ndarray, np.ndarray]:
        """Values and generalised advantages (S, N) of lanes' decisions."""
        values, following = (
            self.value({name: one.flatten(0, 1) for name, one in seen.items()}).view(lanes.reward.shape)
            for seen in (lanes.observation, lanes.following)
        )
        if self.bounds is not None:
            values, following = values.clamp(*self.bounds), following.clamp(*self.bounds)
        values, following = values.numpy(), following.numpy()
        return values, decision_advantages(lanes.reward, values, following, lanes.terminated, lanes.done,
                                           lanes.discount, self.settings.lam)  # fmt: skip

    @torch.no_grad()
    def _means(self, observation: dict[str, Tensor], noise: Tensor | None, states: Tensor) -> Tensor:
        condition = self.policy.condition(observation, noise)
        return self.policy.chain.evaluate(self.policy.predict(condition), states)[1]

    def _value_step(self, seen: dict[str, Tensor], old: Tensor, target: Tensor) -> dict[str, float]:
        loss = value_loss(self.value(seen), old, target, self.settings.value_clip)
        self._step(self.value_adam, loss, list(self.value.parameters()))
        return {"value_loss": float(loss.detach())}

    def _head_step(self, seen: dict[str, Tensor]) -> dict[str, float]:
        policy = self.policy
        with torch.no_grad():
            condition = policy.condition(seen)
            predict = policy.predict(condition)
        start = torch.randn((len(condition), *policy.shape), generator=self.generator)
        loss = same_noise(policy.head, policy.chain, predict, start, condition)
        self._step(self.head_adam, loss, list(policy.head.parameters()))
        return {"head_loss": float(loss.detach())}

    def _step(self, adam, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        adam.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.most_gradient)
        if torch.isfinite(norm):  # one bad minibatch shall not end a policy
            adam.step()

    def state_dict(self) -> dict:
        """All that `run` goes on from; tensors, numbers and strings alone."""
        parts = {name: getattr(self, name).state_dict() for name in ("policy", "value", "adam", "value_adam")}
        head = {"head_adam": self.head_adam.state_dict()} if self.head_adam else {}
        return copy.deepcopy({**parts, **head, "generator": self.generator.get_state(), "done": self.done,
                              "steps": self.steps, "logs": self.logs})  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        state = copy.deepcopy(state)
        for name in ("policy", "value", "adam", "value_adam", *(["head_adam"] if self.head_adam else [])):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.done, self.steps, self.logs = state["done"], state["steps"], state["logs"]


def explained_variance(value: np.ndarray, target: np.ndarray) -> float:
    """1 - Var(target - value) / Var(target); 0 where the target does not vary."""
    spread = float(np.var(target))
    return 1 - float(np.var(target - value)) / spread if spread else 0.0
