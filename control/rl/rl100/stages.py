"""The supervised stages: imitation, critics, warm-up of the head. Each is a function of what it is given and of a
generator, so that a stage that was killed begins again and ends the same.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.engine.hooks import ema_update
from common.errors import ConfigError, DataError
from control.rl.rl100.critics import Critics
from control.rl.rl100.decisions import Decisions
from control.rl.rl100.head import same_noise, solver_step
from control.rl.rl100.policy import Policy, Reconstruction


@dataclass(frozen=True)
class ImitationSettings:
    """learning_rate falls along a cosine after `warm_up` iterations; reconstruction and bottleneck: weights of their
    terms; ema: most decay of the averaged weights, which the policy ends with."""

    iterations: int = 3000
    batch: int = 256
    learning_rate: float = 5e-4
    weight_decay: float = 1e-6
    warm_up: int = 100
    reconstruction: float = 0.0
    bottleneck: float = 1e-4
    ema: float = 0.999
    most_gradient: float = 1.0


def imitate(
    policy: Policy, data: Decisions, settings: ImitationSettings, generator: torch.Generator, progress: bool = False
) -> dict[str, float]:
    """Train encoder and denoiser on the decisions' actions. The data's ranges are taken only by a policy that has none.

    Raises: DataError without decisions.
    """
    if not len(data):
        raise DataError("imitation: no decisions to imitate; were there no successes?")
    if bool(torch.isnan(policy.actions.low).any()):
        policy.fit(data.observation, data.action)
    policy.train()
    decoder = _decoder(policy, data) if settings.reconstruction else None
    parts = [policy.encoder, policy.denoiser, *(one for one in (policy.bottleneck, decoder) if one is not None)]
    weights = [p for part in parts for p in part.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(
        weights, settings.learning_rate, betas=(0.95, 0.999), weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.SequentialLR(adam, [
        torch.optim.lr_scheduler.LinearLR(adam, 0.01, total_iters=settings.warm_up),
        torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, settings.iterations - settings.warm_up)),
    ], [settings.warm_up])  # fmt: skip
    averaged = [w.detach().clone() for w in weights]
    action, steps = policy.actions(data.action), policy.denoiser.process.steps
    losses: list[float] = []
    for i in tqdm(range(settings.iterations), desc="imitation", disable=not progress, dynamic_ncols=True):
        rows = torch.randint(len(data), (settings.batch,), generator=generator)
        seen = {name: values[rows] for name, values in data.observation.items()}
        x0 = action[rows]
        t = torch.randint(1, steps + 1, (len(rows), 1, 1), generator=generator) / steps
        eps = torch.randn(x0.shape, generator=generator)
        features, extra = policy.encoder(seen), 0.0
        if policy.bottleneck is not None:
            noise = torch.randn(features.shape, generator=generator)
            features, kl = policy.bottleneck(features, noise)
            extra = settings.bottleneck * kl.mean()
        loss = policy.imitation_loss(features, x0, t, eps)
        losses.append(float(loss.detach()))
        if decoder is not None:
            extra = extra + settings.reconstruction * decoder(features, **_targets(policy, seen))
        adam.zero_grad()
        (loss + extra).backward()
        nn.utils.clip_grad_norm_(weights, settings.most_gradient)
        adam.step()
        schedule.step()
        decay = min(settings.ema, 1 - (1 + i) ** -0.75)
        for slow, fast in zip(averaged, weights, strict=True):
            slow.lerp_(fast.detach(), 1 - decay)
    with torch.no_grad():
        for slow, fast in zip(averaged, weights, strict=True):
            fast.copy_(slow)
    policy.eval()
    return {"imitation_loss": sum(losses[-100:]) / len(losses[-100:])}


def _decoder(policy: Policy, data: Decisions) -> Reconstruction:
    encoders = policy.encoder.encoders
    if not {"state", "points"} & set(encoders):
        raise ConfigError(f"imitation.reconstruction: of {', '.join(encoders)} nothing is rebuilt; set it to 0")
    return Reconstruction(policy.width, encoders["state"].width if "state" in encoders else None,
                          data.observation["points"].shape[-2] if "points" in encoders else None)  # fmt: skip


def _targets(policy: Policy, seen: dict[str, Tensor]) -> dict[str, Tensor]:
    """The last step's state and points as their encoders see them."""
    found, encoders = {}, policy.encoder.encoders
    if "state" in encoders:
        found["state"] = policy.encoder.encoders["state"](seen["state"][:, -1:])[:, 0].detach()
    if "points" in encoders:
        found["points"] = policy.encoder.encoders["points"].normaliser(seen["points"][:, -1])
    return found


@torch.no_grad()
def conditions_of(policy: Policy, seen: dict[str, Tensor], batch: int = 1024) -> Tensor:
    """(R, C) of observations (R, O, ...) by the frozen encoder, `batch` at a time."""
    count = len(next(iter(seen.values())))
    parts = [{name: values[i : i + batch] for name, values in seen.items()} for i in range(0, count, batch)]
    return torch.cat([policy.condition(part) for part in parts])


@dataclass(frozen=True)
class CriticSettings:
    """iterations of `batch` decisions."""

    iterations: int = 4000
    batch: int = 256
    learning_rate: float = 3e-4


def learn_critics(
    critics: Critics, given: tuple[Tensor, Tensor, Tensor], data: Decisions, settings: CriticSettings,
    generator: torch.Generator, progress: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Implicit Q-learning. given: conditions before and after every decision, (R, C) each, and its normalised action
    (R, T, A). Returns the last losses and the largest Q seen of late."""
    before, after, action = given
    adam = torch.optim.Adam([p for p in critics.parameters() if p.requires_grad], settings.learning_rate, fused=True)
    logs: list[dict[str, float]] = []
    for _ in tqdm(range(settings.iterations), desc="critics", disable=not progress, dynamic_ncols=True):
        rows = torch.randint(len(action), (settings.batch,), generator=generator)
        found = critics.losses(before[rows], action[rows], data.reward[rows], after[rows], data.discount[rows])
        adam.zero_grad()
        (found["loss_v"] + found["loss_q"]).backward()
        adam.step()
        critics.follow()
        logs.append({key: float(value.detach()) for key, value in found.items()})
    late = logs[-100:]
    return {key: (max if key == "q_max" else lambda v: sum(v) / len(v))([one[key] for one in late]) for key in late[0]}


HEAD_TARGETS = ("same_noise", "solver_step")


def warm_head(
    policy: Policy, conditions: Tensor, actions: Tensor, iterations: int, generator: torch.Generator,
    target: str = "same_noise", batch: int = 256, learning_rate: float = 3e-4, average: float = 0.95, grid: int = 10,
    progress: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Teach the head on conditions (R, C); it begins as the denoiser of now.

    target: "same_noise": the mean chain from the same noise; "solver_step": on the normalised actions (R, T, A) of the
    data, the head's own average (of decay `average`) one solver step below (latent consistency models).
    """
    policy.make_head()
    policy.head.train()
    slow = copy.deepcopy(policy.head).requires_grad_(False)
    adam = torch.optim.AdamW(policy.head.parameters(), learning_rate, fused=True)
    losses: list[float] = []
    for _ in tqdm(range(iterations), desc="head", disable=not progress, dynamic_ncols=True):
        rows = torch.randint(len(conditions), (batch,), generator=generator)
        given = conditions[rows]
        with torch.no_grad():
            predict = policy.predict(given)
        noise = torch.randn((batch, *policy.shape), generator=generator)
        if target == "same_noise":
            loss = same_noise(policy.head, policy.chain, predict, noise, given)
        else:
            index = grid * torch.randint(1, policy.head.process_steps // grid + 1, (batch,), generator=generator) - 1
            loss = solver_step(policy.head, slow, policy.chain, predict, actions[rows], noise, given, index, grid)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if target == "solver_step":
            ema_update(slow.state_dict(), policy.head.state_dict(), average)
        losses.append(float(loss.detach()))
    policy.eval()
    return {"head_first": losses[0], "head_last": sum(losses[-50:]) / len(losses[-50:])} if losses else {}
