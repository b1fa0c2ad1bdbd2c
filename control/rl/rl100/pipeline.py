"""The order of RL-100: imitation, rounds of offline improvement and collection, online improvement; a head beside them.

A stage is a function of the pipeline's state before it and of a seed of its own, so a killed pipeline begins its stage
again and ends the same; the online stage keeps every iteration.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import CheckpointError, ConfigError
from control.demonstrations.store import Episode
from control.rl.rl100.collect import TaskSpec, play_spread
from control.rl.rl100.critics import Critics
from control.rl.rl100.decisions import Decisions, decisions_of
from control.rl.rl100.demonstrations import noisy_demonstrations
from control.rl.rl100.dynamics import Ensemble
from control.rl.rl100.gate import Gate
from control.rl.rl100.offline import OfflineImprovement, OfflineSettings
from control.rl.rl100.online import OnlineImprovement, OnlineSettings
from control.rl.rl100.policy import Policy
from control.rl.rl100.stages import (
    HEAD_TARGETS,
    CriticSettings,
    ImitationSettings,
    conditions_of,
    imitate,
    learn_critics,
    warm_head,
)
from control.workers import Pool

IMITATED = ("all", "successes")


@dataclass(frozen=True)
class Settings:
    """rounds of offline improvement, each with `collect` episodes of the stochastic chain on layouts of its own and an
    imitation of retrain_iterations on `imitated` episodes: "all" or "successes" (demonstrations always). head_target:
    of the head's warm-up, as `warm_head`. gamma is per step of the environment."""

    gamma: float = 0.99
    rounds: int = 2
    collect: int = 100
    imitated: str = "successes"
    retrain_iterations: int = 1500
    head_iterations: int = 1500
    head_target: str = "same_noise"
    demonstrations: int = 5
    noise: float = 0.5
    first_layout: int = 0
    imitation: ImitationSettings = field(default_factory=ImitationSettings)
    critic: CriticSettings = field(default_factory=CriticSettings)
    critics: dict = field(default_factory=dict)
    dynamics: dict = field(default_factory=dict)
    dynamics_iterations: int = 2500
    gate: Gate = field(default_factory=Gate)
    offline: OfflineSettings = field(default_factory=OfflineSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)

    def __post_init__(self):
        if self.demonstrations > 250 or self.collect > 1000 or self.rounds > 9 or not 0 <= self.first_layout < 10_000:
            raise ConfigError(
                "pipeline: at most 250 demonstrations, 1,000 episodes a round, 9 rounds, first_layout below 10,000: "
                "beyond begin the layouts of other rounds and of the evaluation"
            )
        if self.imitated not in IMITATED:
            raise ConfigError(f"imitated={self.imitated!r}: choose one of {', '.join(IMITATED)}")
        if self.head_target not in HEAD_TARGETS:
            raise ConfigError(f"head_target={self.head_target!r}: choose one of {', '.join(HEAD_TARGETS)}")

    def stages(self) -> list[str]:
        """All stages in their order; "demonstrations" first, "online" last where there is one."""
        found = ["demonstrations", "imitation"]
        for number in range(self.rounds):
            found += [f"{part}/{number}" for part in ("critics", "improve", "collect", "retrain")]
        return [*found, "critics/last", "head", *(["online"] if self.online.iterations else [])]


class Pipeline:
    """Args: policy; spec; settings; seed; pool of workers, entered.

    `advance` runs the next stage and returns its log. `done`: stages that are.
    """

    def __init__(self, policy: Policy, spec: TaskSpec, settings: Settings, pool: Pool, seed: int = 0):
        self.policy, self.spec, self.settings, self.pool, self.seed = policy.eval(), spec, settings, pool, seed
        self.episodes: list[Episode] = []
        self.critics: Critics | None = None
        self.ensemble: Ensemble | None = None
        self.online: OnlineImprovement | None = None
        self.done: list[str] = []
        self.env_steps = 0

    @property
    def next(self) -> str | None:
        """The stage that comes, None after the last."""
        left = self.settings.stages()[len(self.done) :]
        return left[0] if left else None

    @property
    def judged(self) -> bool:
        """Whether the critics were trained on conditions of the encoder of now."""
        changes = [one.split("/")[0] for one in self.done]
        last = [one for one in changes if one in ("imitation", "retrain", "critics", "online")][-1:]
        return last == ["critics"] or (last == ["online"] and not self.settings.online.train_encoder)

    def advance(self, progress: bool = False, keep: Callable[[], None] = lambda: None) -> dict:
        """Run the next stage. keep: called where a long stage may be resumed in its middle.

        Returns what it has to log. Raises: ConfigError after the last stage; DataError.
        """
        stage = self.next
        if stage is None:
            raise ConfigError("the pipeline has ended: there is no stage left")
        kind = stage.split("/")[0]
        generator = self._seeded(stage)
        found = getattr(self, f"_{kind}")(generator, progress, keep)
        self.done.append(stage)
        return {"stage": stage, "env_steps": self.env_steps, **found}

    def _seeded(self, stage: str) -> torch.Generator:
        """A generator of the stage; torch's own, which initialises networks, is set as well."""
        number = 1000 * (self.seed + 1) + self.settings.stages().index(stage)
        torch.manual_seed(number)
        return torch.Generator().manual_seed(number)

    @property
    def first_layout(self) -> int:
        """Of nine blocks of layouts, below those kept for evaluation: demonstrations come from its first thousand, a
        round's episodes from one of the next."""
        return self.settings.first_layout + 10_000 * (self.seed % 9)

    def _demonstrations(self, generator, progress, keep) -> dict:
        s, first = self.settings, self.first_layout
        self.episodes = noisy_demonstrations(self.spec, s.demonstrations, s.noise, self.pool, first, progress)
        return {"demonstrations": len(self.episodes), "demonstration_steps": sum(map(len, self.episodes))}

    def _decisions(self, episodes: list[Episode], stride: int | None = None) -> Decisions:
        chunk, observed = self.policy.shape[0], self.policy.encoder.steps
        return decisions_of(episodes, chunk, observed, self.settings.gamma, stride, self.spec.observe)

    def _imitation(self, generator, progress, keep) -> dict:
        return imitate(self.policy, self._decisions(self.episodes, 1), self.settings.imitation, generator, progress)

    def _retrain(self, generator, progress, keep) -> dict:
        s = self.settings
        chosen = [one for one in self.episodes if one.success or s.imitated == "all"]
        settings = replace(s.imitation, iterations=s.retrain_iterations)
        return imitate(self.policy, self._decisions(chosen, 1), settings, generator, progress)

    def _critics(self, generator, progress, keep) -> dict:
        """Critics and the model, both from scratch on all episodes; behind the last round no gate asks the model."""
        data, s = self._decisions(self.episodes), self.settings
        before, after = (conditions_of(self.policy, seen) for seen in (data.observation, data.following))
        action = self.policy.actions(data.action).clamp(-1, 1)
        numbers = self.policy.shape[0] * self.policy.shape[1]
        self.critics = Critics(self.policy.width, numbers, **s.critics)
        found = learn_critics(self.critics, (before, after, action), data, s.critic, generator, progress)
        found["decisions"] = len(data)
        if self.next == "critics/last":
            self.ensemble = None
            return found
        self.ensemble = Ensemble(self.policy.width, numbers, **s.dynamics)
        alive = data.discount > 0  # where an episode terminated there is nothing to be led to
        fit = self.ensemble.fit(before[alive], action[alive], after[alive], s.dynamics_iterations, generator=generator)
        return {**found, "model_error": float(fit.held_out[fit.elites].mean())}

    def _improve(self, generator, progress, keep) -> dict:
        s = self.settings
        before = conditions_of(self.policy, self._decisions(self.episodes).observation)
        seed = int(torch.randint(2**31, (), generator=generator))
        run = OfflineImprovement(
            self.policy, before, self.critics.advantage, self.critics.least, self.ensemble.step,
            len(self.ensemble.elites), s.gate, s.offline, seed, self.ensemble.disagreement,
        )  # fmt: skip
        rows = run.run()
        self.policy.load_state_dict(run.behaviour.state_dict())
        gates = [row for row in rows if "accepted" in row]
        updates = [row for row in rows if "ratio_gap" in row]
        found = {"gates": len(gates), "accepted": sum(row["accepted"] for row in gates), "gate_log": gates}
        if updates:
            found |= {key: sum(row[key] for row in updates) / len(updates) for key in ("clip_fraction", "kl_exact")}
            found["first_ratio_gap"] = updates[0]["ratio_gap"]
        return found

    def _collect(self, generator, progress, keep) -> dict:
        s, number = self.settings, len([one for one in self.done if one.startswith("collect")])
        first = self.first_layout + 1000 * (number + 1)
        new = play_spread(self.policy, self.spec, list(range(first, first + s.collect)), self.pool, "explore")
        self.episodes = [*self.episodes, *new]
        self.env_steps += sum(map(len, new))
        return {"collected": len(new), "collected_success": sum(one.success for one in new) / len(new)}

    def _head(self, generator, progress, keep) -> dict:
        data, s = self._decisions(self.episodes), self.settings
        before, action = conditions_of(self.policy, data.observation), self.policy.actions(data.action).clamp(-1, 1)
        return warm_head(self.policy, before, action, s.head_iterations, generator, s.head_target, progress=progress)

    def _online(self, generator, progress, keep) -> dict:
        run = self.begin_online()
        offline = self.env_steps - run.steps
        total = self.settings.online.iterations
        with tqdm(total=total, initial=run.done, desc="online", unit="iteration", disable=not progress) as bar:
            while run.done < total:
                row = run.iterate(self.pool)
                self.env_steps = offline + run.steps
                keep()
                bar.update()
                bar.set_postfix(success=f"{row['success']:.2f}", kl=f"{row.get('kl', 0.0):.3f}")
        return {"online_log": run.logs, "online_success": run.logs[-1]["success"]}

    def begin_online(self) -> OnlineImprovement:
        """The online stage, where it stands."""
        if self.online is None:
            self.online = OnlineImprovement(self.policy, self.critics.v, self.spec, self.settings.online, self.seed,
                                            self.critics.bounds)  # fmt: skip
        return self.online

    def state_dict(self) -> dict:
        """All of it as tensors, numbers and strings."""

        def state(part):
            return None if part is None else copy.deepcopy(part.state_dict())

        return {
            "task": self.spec.task, "family": self.family(), "seed": self.seed, "done": list(self.done),
            "env_steps": self.env_steps, "policy": state(self.policy), "critics": state(self.critics),
            "ensemble": state(self.ensemble), "online": state(self.online),
            "episodes": [_packed(one) for one in self.episodes],
        }  # fmt: skip

    def family(self) -> str:
        """What decides whether a chain's log-probabilities mean the same."""
        chain, shape = self.policy.chain, self.policy.shape
        return (f"eps, {chain.process.steps} levels, {chain.steps} steps, deviations {chain.s_min:g} to {chain.s_max:g}"
                f"{', as released' if chain.released else ''}, chunks of {shape[0]} x {shape[1]}")  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`. Raises: ConfigError for another task, sampler family, or order of stages."""
        for key, mine in (("task", self.spec.task), ("family", self.family())):
            if state[key] != mine:
                raise ConfigError(f"the checkpoint's {key} is {state[key]!r}, the config's {mine!r}")
        if self.settings.stages()[: len(state["done"])] != state["done"]:
            raise ConfigError(f"the checkpoint has done {', '.join(state['done'])}; the config's order is "
                              f"{', '.join(self.settings.stages())}")  # fmt: skip
        numbers = self.policy.shape[0] * self.policy.shape[1]
        try:
            self.policy.load_state_dict(state["policy"])
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint's policy is not the config's: {str(error).splitlines()[1].strip()}"
            ) from error
        if state["critics"] is not None:
            self.critics = Critics(self.policy.width, numbers, **self.settings.critics)
            self.critics.load_state_dict(state["critics"])
        if state["ensemble"] is not None:
            self.ensemble = Ensemble(self.policy.width, numbers, **self.settings.dynamics)
            self.ensemble.load_state_dict(state["ensemble"])
        self.episodes = [_unpacked(one) for one in state["episodes"]]
        self.done, self.env_steps = list(state["done"]), state["env_steps"]
        self.online = None
        if state["online"] is not None:
            self.begin_online().load_state_dict(state["online"])


def _packed(episode: Episode) -> dict:
    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.require(values, requirements="W"))  # what Ray shares may only be read

    return {
        "observations": {name: tensor(values) for name, values in episode.observations.items()},
        "actions": tensor(episode.actions), "rewards": tensor(episode.rewards), "success": bool(episode.success),
        "seed": episode.seed, "terminated": episode.terminated,
    }  # fmt: skip


def _unpacked(one: dict) -> Episode:
    observations = {name: values.numpy() for name, values in one["observations"].items()}
    arrays = (one["actions"].numpy(), one["rewards"].numpy())
    return Episode(observations, *arrays, one["success"], one["seed"], terminated=one["terminated"])
