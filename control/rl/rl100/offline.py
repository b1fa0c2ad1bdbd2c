"""Offline improvement: PPO over denoising steps on a data set's conditions, kept only where a gate lets it pass.

Chains are drawn from the behaviour policy, which is the last accepted one; a candidate that the gate refuses is
reverted, weights and optimiser, bit for bit. The encoder does not take part: conditions are given.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from control.rl.rl100.chain import divergence
from control.rl.rl100.gate import Decision, Draws, Gate, Step, Value, estimate
from control.rl.rl100.policy import Policy
from control.rl.rl100.surrogate import normalised, surrogate


@dataclass(frozen=True)
class OfflineSettings:
    """updates of `batch` conditions; clip falls linearly to clip_end; a gate every `gate_every` updates compares over
    `gate_batch` conditions and `horizon` steps of the model."""

    updates: int = 500
    batch: int = 256
    learning_rate: float = 3e-5
    clip: float = 0.2
    clip_end: float = 0.02
    most_gradient: float = 0.5
    gate_every: int = 50
    gate_batch: int = 512
    horizon: int = 5


class OfflineImprovement:
    """Args:
    policy, whose denoiser is trained; conditions (R, C) of the data set; advantage, value: (condition, action) -> (B,);
    step: the learned model's; elites of it; disagreement: (condition, action) -> (B,), None for no such veto.

    `run` goes on from wherever `state_dict` was taken.
    """

    def __init__(
        self,
        policy: Policy,
        conditions: Tensor,
        advantage: Callable[[Tensor, Tensor], Tensor],
        value: Value,
        step: Step,
        elites: int,
        gate: Gate,
        settings: OfflineSettings,
        seed: int = 0,
        disagreement: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.policy, self.conditions, self.settings, self.gate = policy.eval(), conditions, settings, gate
        self.advantage, self.value, self.step = advantage, value, step
        self.elites, self.disagreement = elites, disagreement
        self.generator = torch.Generator().manual_seed(seed)
        self.behaviour = frozen_copy(policy)
        self.first = frozen_copy(policy)  # the round's start, for the divergence
        self.adam = torch.optim.Adam(self.trained(), settings.learning_rate, fused=True)
        self.kept = self._snapshot()
        self.done, self.logs = 0, []

    def trained(self) -> list[nn.Parameter]:
        """What the updates change: the denoiser alone."""
        return list(self.policy.denoiser.parameters())

    def run(self, until: int | None = None) -> list[dict]:
        """Updates up to `until`, by default all. Returns the log: a row per update and one per gate."""
        while self.done < (self.settings.updates if until is None else until):
            self.logs.append({"update": self.done, **self.update()})
            self.done += 1
            if self.done % self.settings.gate_every == 0:
                self.logs.append({"update": self.done, **asdict(self.judge())})
        return self.logs

    def update(self) -> dict:
        """One clipped step on fresh chains of the behaviour policy; none where all advantages are alike."""
        given = self._rows(self.settings.batch)
        start, noise = self._noise(len(given))
        with torch.no_grad():
            path = self.behaviour.explore(given, start, noise)
            raw = self.advantage(given, self.policy.executed(path.action))
        shown = {"advantage_mean": float(raw.mean()), "advantage_std": float(raw.std())}
        advantage = normalised(raw)
        if advantage is None:
            return {**shown, "skipped": True}
        new, mean, deviation = self.policy.chain.evaluate(self.policy.predict(given), path.states)
        loss, ppo = surrogate(new, path.log_prob, advantage, self.clip)
        self.adam.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained(), self.settings.most_gradient)
        if not torch.isfinite(norm):
            return {**shown, "skipped": True}
        self.adam.step()
        kl = float(divergence(path.mean, mean.detach(), deviation).mean())
        return {**shown, **asdict(ppo), "kl_exact": kl, "loss": float(loss.detach())}

    @property
    def clip(self) -> float:
        """The clip of now."""
        share = self.done / max(1, self.settings.updates - 1)
        return self.settings.clip + share * (self.settings.clip_end - self.settings.clip)

    def judge(self) -> Decision:
        """Accept the candidate, or go back to the last accepted policy and its optimiser."""
        begin = self._rows(self.settings.gate_batch)
        draws = Draws.of(self.settings.horizon, len(begin), self.policy.shape, begin.shape[1], self.policy.chain.steps,
                         self.elites, self.generator)  # fmt: skip

        def acts(policy: Policy):
            return lambda condition, start, noise: policy.executed(policy.explore(condition, start, noise).action)

        found = [estimate(acts(one), self.step, self.value, begin, draws) for one in (self.behaviour, self.policy)]
        vetoes = {"kl": self._divergence(begin, draws), "disagreement": self._disagreement(begin, draws)}
        decision = self.gate(*found, **vetoes)
        if decision.accepted:
            self.behaviour.load_state_dict(self.policy.state_dict())
            self.kept = self._snapshot()
        else:
            self._revert(self.kept)
        return decision

    @torch.no_grad()
    def _divergence(self, given: Tensor, draws: Draws) -> float | None:
        """Mean KL per denoising step from the round's start to the candidate; None where the gate does not ask."""
        if self.gate.most_kl is None:
            return None
        path = self.first.explore(given, draws.starts[0], draws.chains[0])
        _, mean, deviation = self.policy.chain.evaluate(self.policy.predict(given), path.states)
        return float(divergence(path.mean, mean, deviation).mean())

    @torch.no_grad()
    def _disagreement(self, given: Tensor, draws: Draws) -> float | None:
        if self.disagreement is None or self.gate.most_disagreement is None:
            return None
        action = self.policy.explore(given, draws.starts[0], draws.chains[0]).action
        return float(self.disagreement(given, self.policy.executed(action)).mean())

    def _rows(self, count: int) -> Tensor:
        return self.conditions[torch.randint(len(self.conditions), (count,), generator=self.generator)]

    def _noise(self, count: int) -> tuple[Tensor, Tensor]:
        shape = (count, *self.policy.shape)
        start = torch.randn(shape, generator=self.generator)
        return start, torch.randn((self.policy.chain.steps, *shape), generator=self.generator)

    def _snapshot(self) -> dict:
        return copy.deepcopy({"denoiser": self.policy.denoiser.state_dict(), "adam": self.adam.state_dict()})

    def _revert(self, kept: dict) -> None:
        kept = copy.deepcopy(kept)
        self.policy.denoiser.load_state_dict(kept["denoiser"])
        self.adam.load_state_dict(kept["adam"])

    def state_dict(self) -> dict:
        """All that `run` goes on from; tensors, numbers and strings alone."""
        return copy.deepcopy({
            "policy": self.policy.state_dict(), "behaviour": self.behaviour.state_dict(),
            "first": self.first.state_dict(), "adam": self.adam.state_dict(), "kept": self.kept,
            "generator": self.generator.get_state(), "done": self.done, "logs": self.logs,
        })  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        state = copy.deepcopy(state)
        for name in ("policy", "behaviour", "first", "adam"):
            getattr(self, name).load_state_dict(state[name])
        self.kept, self.done, self.logs = state["kept"], state["done"], state["logs"]
        self.generator.set_state(state["generator"])


def frozen_copy(policy: Policy) -> Policy:
    """A copy that no optimiser changes."""
    return copy.deepcopy(policy).requires_grad_(False).eval()
