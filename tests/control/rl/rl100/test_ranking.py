"""Off-policy estimates in a real task: they rank policies of known quality, in the task and in a learnt model."""

import numpy as np
import pytest
import torch
from metaworld.policies import ENV_POLICY_MAP
from scipy.stats import spearmanr

from control.policies.encoders import StandardStateEncoder
from control.rl.rl100.collect import TaskSpec
from control.rl.rl100.critics import Critics
from control.rl.rl100.decisions import decisions_of
from control.rl.rl100.demonstrations import attempt
from control.rl.rl100.dynamics import Ensemble
from control.rl.rl100.gate import Draws, estimate
from control.rl.rl100.stages import CriticSettings, learn_critics

SPEC = TaskSpec("MetaWorld-dial-turn-v3", max_steps=120)
NOISES = (0.0, 0.3, 0.6, 1.0)  # of the scripted expert, in half action ranges
EPISODES, HORIZON, BATCH = 20, 5, 256


@pytest.fixture(scope="module")
def played() -> dict[float, list]:
    """noise -> episodes of the expert under it."""
    return {noise: [attempt(SPEC, 100 * i + n, noise) for n in range(EPISODES)] for i, noise in enumerate(NOISES)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_estimates_rank_noisy_experts_as_their_success_does(played):
    torch.manual_seed(0)
    success = [np.mean([one.success for one in played[noise]]) for noise in NOISES]
    data = decisions_of([one for noise in NOISES for one in played[noise]], 1, 1, 0.99)
    encoder = StandardStateEncoder(39, most=50.0)
    encoder.fit(data.observation["state"])
    before, after = (encoder(seen["state"][:, 0]) for seen in (data.observation, data.following))
    generator = torch.Generator().manual_seed(0)
    critics = Critics(39, 4, omega=0.5, bounds=(0.0, 1.0))
    learn_critics(critics, (before, after, data.action), data, CriticSettings(iterations=3000), generator)
    model, alive = Ensemble(39, 4, members=3, elites=2), data.discount > 0
    model.fit(before[alive], data.action[alive], after[alive], 1500, generator=generator)
    expert = ENV_POLICY_MAP["dial-turn-v3"]()

    def noisy(noise: float):
        def act(condition, start, chain):
            states = encoder.normaliser.inverse(condition).numpy().astype(np.float64)
            clean = torch.tensor(np.stack([expert.get_action(one) for one in states]), dtype=torch.float32)
            return (clean.clamp(-1, 1)[:, None] + noise * start).clamp(-1, 1)

        return act

    in_task = []
    for i, noise in enumerate(NOISES):  # of other layouts than the critics have seen
        fresh = decisions_of([attempt(SPEC, 1000 + 100 * i + n, noise) for n in range(EPISODES)], 1, 1, 0.99)
        with torch.no_grad():
            in_task.append(float(critics.least(encoder(fresh.observation["state"][:, 0]), fresh.action).mean()))
    begin = before[torch.randint(len(before), (BATCH,), generator=generator)]
    draws = Draws.of(HORIZON, BATCH, (1, 4), 39, 1, 2, generator)
    in_model = [float(estimate(noisy(noise), model.step, critics.least, begin, draws).mean()) for noise in NOISES]
    told = f"success {success}, in the task {in_task}, in the model {in_model}"
    assert success[0] > success[-1] + 0.2, told
    assert spearmanr(in_task, success)[0] >= 0.8 and spearmanr(in_model, success)[0] >= 0.6, told
